"""The cost ledger: what a run has spent, in the four budgets that methods are compared on.

Trained samples, loaded samples, FLOPs (2 x multiply-adds) and wall time. FLOPs and seconds are told apart by
phase, and what a cache of embeddings cost to make, which any number of runs share, is kept apart from what a
run spends.
Definitions: METHOD section 4 (docs/cost.md).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Literal

FlopPhase = Literal["forward_backward", "scoring", "selection", "reference", "teacher"]
TimePhase = Literal["load", "score", "select", "train"]

BACKWARD = 2.0
"""FLOPs of a backward pass relative to the forward pass."""


@dataclass
class Ledger:
    """Running totals of one training run.

    Attributes:
        samples_trained: pairs that went through a forward and backward pass.
        samples_loaded: pairs that were read as candidates.
        flops: by phase; `reference` and `teacher` hold only what was computed in this run, so zero where the
            embeddings came from a cache.
        cached_flops: what computing the reference's and teacher's embeddings would have cost this run without
            a cache; zero where there was none.
        seconds: wall time by phase.
        clock: seconds that have passed since some moment; of a device that works on behind Python's back one that waits
            for it, or a phase would be charged for what an earlier one has asked for. No part of the totals.
    """

    samples_trained: int = 0
    samples_loaded: int = 0
    flops: dict[str, float] = field(
        default_factory=lambda: dict.fromkeys(("forward_backward", "scoring", "selection", "reference", "teacher"), 0.0)
    )
    cached_flops: float = 0.0
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(("load", "score", "select", "train"), 0.0))
    clock: Callable[[], float] = field(default=time.perf_counter, repr=False, compare=False)

    @contextmanager
    def timed(self, phase: TimePhase) -> Iterator[None]:
        """Add the wall time of the block to a phase."""
        start = self.clock()
        try:
            yield
        finally:
            self.seconds[phase] += self.clock() - start

    def trained(self, samples: int, forward_flops: float) -> None:
        """Count a training step: `forward_flops` per sample, backward at twice that."""
        self.samples_trained += samples
        self.flops["forward_backward"] += samples * forward_flops * (1 + BACKWARD)

    def forward(self, phase: FlopPhase, samples: int, forward_flops: float) -> None:
        """Count forward passes without gradient."""
        self.flops[phase] += samples * forward_flops

    def budgets(self) -> dict[str, float]:
        """The four budgets that accuracy is shown against."""
        return {
            "samples_trained": self.samples_trained,
            "samples_loaded": self.samples_loaded,
            "flops": sum(self.flops.values()),
            "seconds": sum(self.seconds.values()),
        }

    def state(self) -> dict[str, object]:
        """A JSON-ready copy of the totals, for checkpoints."""
        totals = asdict(self)
        del totals["clock"]
        return totals


def selection_flops(candidates: int, size: int, chunks: int, widths: list[int]) -> float:
    """FLOPs of one joint selection: two products of every candidate with all chunks but the last, per model.

    Args:
        candidates: B.
        size: b.
        chunks: n; where n > b it counts as b.
        widths: embedding width of each model in the score (two for learnability).
    """
    n = min(chunks, size)
    last = size // n
    return sum(2.0 * 2.0 * candidates * (size - last) * d for d in widths)


def flops_per_trained_sample(
    *, filtering_ratio: float, reference: float, scores_student: bool, uses_reference: bool, cached: bool
) -> float:
    """METHOD section 4's table: FLOPs per trained sample in units of one student forward pass.

    Args:
        filtering_ratio: f = 1 - b/B; 0 for IID batches (a teacher then sees the batch only).
        reference: r, the reference's (or teacher's) forward pass relative to the student's.
        scores_student: whether the student scores the super-batch.
        uses_reference: whether a reference or teacher is needed at all.
        cached: whether its embeddings come from a cache.
    """
    per_trained = 1 / (1 - filtering_ratio)
    cost = 1 + BACKWARD
    if scores_student:
        cost += per_trained
    if uses_reference and not cached:
        cost += reference * per_trained
    return cost
