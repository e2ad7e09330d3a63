"""Decisions that a job's processes make together at the end of a step: to stop, or to save a checkpoint."""

from __future__ import annotations

import signal
import time

import torch
from torch import Tensor

from aced.runtime.stopping import SIGNALS, Asked
from aced.train.distributed import World


class Wishes:
    """For each signal the number of processes that received it, and whether the first finds a checkpoint due by time.

    The numbers travel with the usual exchange at the end of each step, so that no process stops alone.

    Args:
        asked: returns the signal that this process received, if any.
        minutes: time between two checkpoints; 0 for none by time.
        world: the processes.

    Attributes:
        finish: whether this process wants the run to end here as if complete.
        finished: whether any does.
        stop: the signal at which all of them end; None while they continue.
        save: whether a checkpoint is due.
    """

    def __init__(self, asked: Asked, minutes: float, world: World) -> None:
        self._asked, self._seconds, self._world = asked, 60 * minutes, world
        self.finish = self.finished = False
        self.stop: int | None = None
        self.saved()

    def own(self) -> Tensor:
        """This process's, `[7]` float64."""
        due = self._world.first and 0 < self._seconds <= time.monotonic() - self._last
        wanted = [number == self._asked.number for number in SIGNALS]
        return torch.tensor([*wanted, due, self.finish], dtype=torch.float64)

    def settle(self, wanted: Tensor) -> None:
        """Apply the processes' common wishes, the sum of their own."""
        *signals, due, finish = wanted.tolist()
        came = [number for number, count in zip(SIGNALS, signals, strict=True) if count]
        # Ctrl-C takes precedence over torchrun's reaction to it.
        self.stop = signal.SIGINT if signal.SIGINT in came else next(iter(came), None)
        self.save, self.finished = due > 0, finish > 0

    def ask(self) -> None:
        """Settle between two steps, in a separate exchange."""
        self.settle(self._world.sum(self.own()))

    @property
    def any(self) -> bool:
        """Whether to write a checkpoint, for whatever reason."""
        return self.save or self.stop is not None

    def saved(self) -> None:
        """A checkpoint has been written."""
        self._last = time.monotonic()
        self.save = False
