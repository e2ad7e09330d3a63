"""Random numbers that depend only on a run's seed and the step, and torch's global generators."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor


def generator_of(what: str, seed: int, step: int) -> torch.Generator:
    """A CPU generator for one step's draws of one kind: the same in every process and in a resumed run.

    Args:
        what: the kind of draws, so that different kinds share no numbers.
        seed: of the run.
        step: number of the step, from 0.
    """
    digest = hashlib.sha256(f"aced {what} {seed} {step}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


@dataclass(frozen=True)
class RandomStates:
    """The states of torch's global generators: the CPU's and one device's; those of other devices are not included.

    Attributes:
        device: the device.
        cpu, own: their states; `own` is None if the device is the CPU.
    """

    device: torch.device
    cpu: Tensor
    own: Tensor | None

    def restore(self) -> None:
        """Restore both generators."""
        torch.set_rng_state(self.cpu)
        if self.own is not None:
            torch.cuda.set_rng_state(self.own, self.device)


def random_states(device: torch.device) -> RandomStates:
    """The states of the global generators of the CPU and of a device, which dropout draws from."""
    own = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    return RandomStates(device, torch.get_rng_state(), own)


@contextmanager
def global_draws(device: torch.device, seed: int) -> Iterator[None]:
    """Seed the global generators of the CPU and a device with `seed` inside; restore them afterwards."""
    before = random_states(device)
    try:
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield
    finally:
        before.restore()
