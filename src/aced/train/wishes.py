"""What any process of a job may want at the end of a step, decided by all of them alike: an end, or a checkpoint."""

from __future__ import annotations

import signal
import time

import torch
from torch import Tensor

from aced.runtime.stopping import SIGNALS, Asked
from aced.train.distributed import World


class Wishes:
    """Of each signal how many processes have got it, and whether the first one finds a checkpoint due by the clock.

    The numbers travel with what the processes exchange at the end of each step anyway, so that none stops alone.

    Args:
        asked: whether a signal has asked this process.
        minutes: between two checkpoints; 0 for none by the clock.
        world: the processes.

    Attributes:
        finish: whether this process wants the run to end here as if it were complete.
        finished: whether any does.
        stop: the signal at which all of them end; None while they go on.
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
        """Take what all processes want together, the sum of their own."""
        *signals, due, finish = wanted.tolist()
        came = [number for number, count in zip(SIGNALS, signals, strict=True) if count]
        # Ctrl-C counts more than what torchrun makes of it.
        self.stop = signal.SIGINT if signal.SIGINT in came else next(iter(came), None)
        self.save, self.finished = due > 0, finish > 0

    def ask(self) -> None:
        """Settle between two steps, in an exchange of its own."""
        self.settle(self._world.sum(self.own()))

    @property
    def any(self) -> bool:
        """Whether a checkpoint is to be written, for whichever reason."""
        return self.save or self.stop is not None

    def saved(self) -> None:
        """A checkpoint has been written."""
        self._last = time.monotonic()
        self.save = False
