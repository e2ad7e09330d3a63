"""The cost ledger: the spending of a run, in the four budgets on which methods are compared.

Trained samples, loaded samples, FLOPs (2 x multiply-adds) and wall time. FLOPs and seconds are split by phase. The cost
of making a cache of embeddings, which any number of runs share, is kept apart from the run's own.
Definitions: METHOD section 4 (docs/cost.md).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from aced.runtime.devices import Clock, HostClock

FlopPhase = Literal["forward_backward", "scoring", "selection", "reference", "teacher"]
TimePhase = Literal["load", "score", "select", "train"]
FETCH = "fetch"
"""The phase of the seconds spent waiting for data from a store; present only if there are any."""

BACKWARD = 2.0
"""FLOPs of a backward pass relative to the forward pass."""


@dataclass
class Ledger:
    """Running totals of one training run.

    Attributes:
        samples_trained: pairs that went through a forward and backward pass.
        samples_loaded: pairs that were read as candidates.
        flops: by phase; `reference` and `teacher` hold only what was computed in this run, so zero if the
            embeddings came from a cache.
        cached_flops: what computing the reference's and teacher's embeddings would have cost this run without
            a cache; zero without a cache.
        seconds: wall time by phase, as far as known without waiting; `settle` completes it.
        clock: measures time. Not part of the totals.
    """

    samples_trained: int = 0
    samples_loaded: int = 0
    flops: dict[str, float] = field(
        default_factory=lambda: dict.fromkeys(("forward_backward", "scoring", "selection", "reference", "teacher"), 0.0)
    )
    cached_flops: float = 0.0
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(("load", "score", "select", "train"), 0.0))
    clock: Clock = field(default_factory=HostClock, repr=False, compare=False)
    _spans: deque[tuple[str, Any, Any, float]] = field(default_factory=deque, init=False, repr=False, compare=False)
    _waited: float = field(default=0.0, init=False, repr=False, compare=False)

    @contextmanager
    def timed(self, phase: TimePhase) -> Iterator[None]:
        """Add the wall time of the block to a phase."""
        start = self.clock.mark()
        try:
            yield
        finally:
            self._spans.append((phase, start, self.clock.mark(), self._waited))
            self._waited = 0.0
            self.settle(wait=False)

    def waited(self, seconds: float) -> None:
        """These seconds of the block being timed were spent waiting for a store (0 if there is one)."""
        self.seconds.setdefault(FETCH, 0.0)
        self._waited += seconds

    def settle(self, *, wait: bool = True) -> None:
        """Add the blocks that the device has finished to `seconds`; with `wait` all of them."""
        while self._spans:
            phase, start, end, waited = self._spans[0]
            passed = self.clock.between(start, end, wait=wait)
            if passed is None:
                return
            waited = min(waited, passed)  # a device may have been busy meanwhile
            if waited:
                self.seconds[FETCH] += waited
            self.seconds[phase] += passed - waited
            self._spans.popleft()

    def trained(self, samples: int, forward_flops: float, behind: float | None = None) -> None:
        """Count a training step: `forward_flops` per sample, and twice the part that gradients pass back through.

        Args:
            samples: pairs.
            forward_flops: of one pair.
            behind: the part of them that gradients pass back through, if not all.
        """
        self.samples_trained += samples
        self.flops["forward_backward"] += samples * forward_flops * (1 + BACKWARD)
        if behind is not None:
            self.flops["forward_backward"] -= samples * (forward_flops - behind) * BACKWARD

    def forward(self, phase: FlopPhase, samples: int, forward_flops: float) -> None:
        """Count forward passes without gradient."""
        self.flops[phase] += samples * forward_flops

    def budgets(self) -> dict[str, float]:
        """The four budgets that accuracy is plotted against; waits for the device."""
        self.settle()
        return {
            "samples_trained": self.samples_trained,
            "samples_loaded": self.samples_loaded,
            "flops": sum(self.flops.values()),
            "seconds": sum(self.seconds.values()),
        }

    def copy(self) -> Ledger:
        """An independent copy of the totals; does not wait."""
        twin = Ledger(clock=self.clock, **self._totals())  # type: ignore[arg-type]
        twin._spans = self._spans.copy()
        return twin

    def state(self) -> dict[str, object]:
        """A JSON-ready copy of the totals, for checkpoints; waits for the device."""
        self.settle()
        return self._totals()

    def _totals(self) -> dict[str, object]:
        return {
            "samples_trained": self.samples_trained,
            "samples_loaded": self.samples_loaded,
            "flops": dict(self.flops),
            "cached_flops": self.cached_flops,
            "seconds": dict(self.seconds),
        }


def selection_flops(candidates: int, size: int, chunks: int, widths: list[int]) -> float:
    """FLOPs of one joint selection: two products of every candidate with all chunks but the last, per model.

    Args:
        candidates: B.
        size: b.
        chunks: n; n > b counts as b.
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
