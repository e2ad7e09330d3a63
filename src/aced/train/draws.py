"""Random numbers that follow from a run's seed and the number of a step alone, and torch's global generators."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor


def generator_of(what: str, seed: int, step: int) -> torch.Generator:
    """A CPU generator for one step's draws of one kind: the same in every process, and again in a resumed run.

    Args:
        what: which draws, so that different ones do not share numbers.
        seed: of the run.
        step: number of the step, from 0.
    """
    digest = hashlib.sha256(f"aced {what} {seed} {step}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


@dataclass(frozen=True)
class RandomStates:
    """Where torch's global generators stand: the CPU's, and that of one device; those of other devices are none of it.

    Attributes:
        device: the device.
        cpu, own: their states; `own` is None where the device is the CPU.
    """

    device: torch.device
    cpu: Tensor
    own: Tensor | None

    def restore(self) -> None:
        """Put both generators back there."""
        torch.set_rng_state(self.cpu)
        if self.own is not None:
            torch.cuda.set_rng_state(self.own, self.device)


def random_states(device: torch.device) -> RandomStates:
    """Where the global generators of the CPU and of a device stand; these two are what dropout draws from."""
    own = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    return RandomStates(device, torch.get_rng_state(), own)


@contextmanager
def global_draws(device: torch.device, seed: int) -> Iterator[None]:
    """The global generators of the CPU and of a device begin at `seed` inside; afterwards they stand as before."""
    before = random_states(device)
    try:
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield
    finally:
        before.restore()
