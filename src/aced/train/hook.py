"""What a caller in Python sees of each step, and how it ends a run early."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from aced.models import Tower
from aced.train.step import Outcome, Trainer


class StopTraining(Exception):
    """Raised by `on_step`: the run ends behind this step, scored and saved as one that is complete."""


class Step:
    """A step that was taken.

    Attributes:
        number: from 1.
        steps: how many the run was to have.
        student: the model behind the step; leave its weights and its mode as they are.
    """

    def __init__(self, trainer: Trainer, outcome: Outcome) -> None:
        self.number, self.steps = outcome.step, trainer.settings.steps
        self.student: Tower = trainer.student
        self._trainer, self._outcome = trainer, outcome

    @property
    def loss(self) -> float:
        """The whole loss; a GPU is waited for."""
        return float(self._outcome.parts.loss)

    @property
    def lr(self) -> float:
        """The learning rate."""
        return self._outcome.lr

    @property
    def indices(self) -> Tensor:
        """`[b]` int64 positions in the source of the pairs that were trained on."""
        return self._outcome.candidates[self._outcome.rows]

    @property
    def columns(self) -> dict[str, Tensor]:
        """The columns of the pairs that this process trained on, `[b, ...]` each, by name; see `Source.columns`.

        One process has them in the order of `indices`, several each of its own share.
        """
        return dict(self._outcome.columns)

    @property
    def budgets(self) -> dict[str, Any]:
        """What the run has spent so far: samples loaded and trained on, FLOPs, seconds."""
        return dict(self._trainer.ledger.budgets())


Hook = Callable[[Step], object]
"""Called behind each step, in every process of a job; False, or `StopTraining` raised, makes this step the last."""
