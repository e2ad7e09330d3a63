"""Random numbers that follow from a run's seed and the number of a step alone."""

from __future__ import annotations

import hashlib

import torch


def generator_of(what: str, seed: int, step: int) -> torch.Generator:
    """A CPU generator for one step's draws of one kind: the same in every process, and again in a resumed run.

    Args:
        what: which draws, so that different ones do not share numbers.
        seed: of the run.
        step: number of the step, from 0.
    """
    digest = hashlib.sha256(f"aced {what} {seed} {step}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
