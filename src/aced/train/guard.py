"""The guard against losses and gradients that are not finite: it ends the run before the weights change."""

from __future__ import annotations

import math
from collections import deque
from typing import NamedTuple

import torch
from torch import Tensor

from aced.errors import AcedError
from aced.runtime.devices import Readout
from aced.train.replica import UpdateVerdict


class _Refused(NamedTuple):
    """A step that was refused."""

    step: int
    unscored: bool
    loss: float
    norm: float

    def why(self) -> str:
        """The reason, and what to do."""
        if self.unscored:
            return (
                "the scores of the candidates are not finite, because some embeddings of the student or the reference "
                "are not; the run stopped before this step changed the weights. Check the reference and its cache, or "
                "start a new run with a lower train.lr."
            )
        return (
            f"the loss is {self.loss:g} and the gradient's norm {self.norm:g}; the run stopped before this step "
            "changed the weights. Start a new run with a lower train.lr (student.model can be the `model` folder of a "
            "checkpoint)."
        )


class Guard:
    """Reads, for each step, whether its update was refused, and then ends the run.

    A refused update changes nothing on the device itself (`Replica.update`), so it may be noticed late: on a GPU after
    the launch of the next step's passes, when the answer has long been there. Call `settle` before saving or scoring.

    Args:
        behind: how many steps late. With 0 a refused step ends the run before its update starts.

    Attributes:
        loss: the last one read; NaN before the first.
    """

    def __init__(self, behind: int = 0) -> None:
        self.behind = behind
        self.loss = math.nan
        self._coming: deque[tuple[int, Readout]] = deque()
        self._refused: _Refused | None = None

    def note(self, step: int, loss: Tensor, norm: Tensor, verdict: UpdateVerdict) -> None:
        """Register step number `step` (from 1), before its update, and check those that are due.

        Args:
            step: its number.
            loss, norm: scalars, for the message.
            verdict: whether the step must change nothing, and why.

        Raises:
            AcedError: one of those that are due was refused; names it.
        """
        told = verdict.refused, verdict.unscored, loss, norm
        numbers = torch.stack([value.detach().float() for value in told])
        self._coming.append((step, Readout(numbers)))
        self._read(step - self.behind)
        self._raise()

    def settle(self) -> None:
        """Check all steps, waiting for the device.

        Raises:
            AcedError: one of them was refused.
        """
        self.first_refused()
        self._raise()

    def first_refused(self) -> int | None:
        """The number of the first refused step, or None; waits for the device."""
        self._read(math.inf)
        return None if self._refused is None else self._refused.step

    def _read(self, last: float) -> None:
        """Read the steps up to number `last`, or up to the first refused one."""
        while self._refused is None and self._coming and self._coming[0][0] <= last:
            step, readout = self._coming.popleft()
            refused, unscored, self.loss, norm = readout.read().tolist()
            if refused:
                self._refused = _Refused(step, bool(unscored), self.loss, norm)

    def _raise(self) -> None:
        if self._refused is not None:
            raise AcedError(f"Step {self._refused.step}: {self._refused.why()}")
