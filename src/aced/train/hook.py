"""The hook of a caller in Python: it sees each step, and can end a run early."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from aced.models import Tower
from aced.train.step import Outcome, Trainer


class StopTraining(Exception):
    """Raised by `on_step`: the run ends after this step, and is scored and saved as complete."""


class Step:
    """A finished step.

    Attributes:
        number: from 1.
        steps: planned number of steps of the run.
        student: the model after the step; do not change its weights or mode.
    """

    def __init__(self, trainer: Trainer, outcome: Outcome) -> None:
        self.number, self.steps = outcome.step, trainer.settings.steps
        self.student: Tower = trainer.student
        self._trainer, self._outcome = trainer, outcome

    @property
    def loss(self) -> float:
        """The whole loss; waits for a GPU."""
        return float(self._outcome.parts.loss)

    @property
    def lr(self) -> float:
        """The learning rate."""
        return self._outcome.lr

    @property
    def indices(self) -> Tensor:
        """`[b]` int64 source positions of the pairs in the training batch."""
        return self._outcome.candidates[self._outcome.rows]

    @property
    def columns(self) -> dict[str, Tensor]:
        """The columns of the pairs that this process trained on, `[b, ...]` each, by name; see `Source.columns`.

        One process has them in the order of `indices`, several each of its own share.
        """
        return dict(self._outcome.columns)

    @property
    def budgets(self) -> dict[str, Any]:
        """The cost of the run so far: samples loaded and trained on, FLOPs, seconds."""
        return dict(self._trainer.ledger.budgets())


Hook = Callable[[Step], object]
"""Called after each step, in every process of a job; returning False or raising `StopTraining` ends the run there."""
