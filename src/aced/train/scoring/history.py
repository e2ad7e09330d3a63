"""The student's scores of pairs at the beginning of a run, to which it compares its later ones (DISSect)."""

from __future__ import annotations

import math
from collections import deque

import torch
from torch import Tensor

WARM_UP = 0.25
"""Share of the selecting steps that record scores and choose at random: 10 of 40 epochs in the authors' script."""


class History:
    """For each pair of the pool the latest score of the warm-up.

    It takes 4 bytes for each pair of the pool, on the student's device, so that no step waits for a GPU. It is the same
    in all processes.

    Args:
        pairs: number of pairs of the pool.
        first: the first step that selects, from 0.
        end: the step before which selection ends.
        device: of the scores.

    Attributes:
        warm: the step before which the warm-up ends.
    """

    def __init__(self, pairs: int, first: int, end: int, device: torch.device) -> None:
        self.warm = first + math.ceil(WARM_UP * (end - first))
        self._scores = torch.full((pairs,), torch.nan, device=device)
        # Entries replaced since each of the last two `keep`: the pairs, and their previous scores.
        self._replaced: deque[list[tuple[Tensor, Tensor]]] = deque(maxlen=2)

    def records(self, step: int) -> bool:
        """Whether step number `step` (from 0) belongs to the warm-up."""
        return step < self.warm

    def of(self, positions: Tensor) -> Tensor:
        """`[B]` scores of the pairs at `positions` `[B]` (on the device of the scores); NaN for pairs without one."""
        return self._scores.index_select(0, positions)

    def put(self, positions: Tensor, scores: Tensor) -> None:
        """Record scores `[m]` of pairs `[m]`, none of which may occur twice; earlier ones are replaced."""
        if self._replaced:
            self._replaced[-1].append((positions, self.of(positions)))
        self._scores.index_copy_(0, positions, scores)

    def keep(self) -> None:
        """From now on note replaced scores, so that `back` can restore them."""
        self._replaced.append([])

    def back(self) -> None:
        """Undo the changes since the last `keep`; a second call undoes those since the one before."""
        for positions, scores in reversed(self._replaced.pop()):
            self._scores.index_copy_(0, positions, scores)

    def tensors(self) -> dict[str, Tensor]:
        """The state that an exactly resumed run needs, by name."""
        return {"history.scores": self._scores}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Restore the output of `tensors`, from any number of processes."""
        self._scores.copy_(tensors["history.scores"])
        self._replaced.clear()
