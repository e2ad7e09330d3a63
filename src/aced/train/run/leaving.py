"""The checkpoint that a run saves when it ends early, for any reason: the state after its last complete step."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from aced.config import Config
from aced.errors import DataLost
from aced.models.modes import running_statistics
from aced.runs.ledger import Ledger
from aced.runs.run_folder import CHECKPOINTS
from aced.train.run.checkpoint import write_checkpoint
from aced.train.step import Trainer
from aced.train.watch import Metrics

GO_ON = "the same command with --resume continues from there"
"""What to do about a run whose last step is saved."""


@dataclass(frozen=True)
class _State:
    """The state that a step changes before it changes the weights, as it was between two steps."""

    step: int
    generator: Tensor
    ledger: Ledger
    statistics: list[Tensor]


class LastStep:
    """The state after the last complete steps, without the weights.

    Of two steps, because a refused step may be noticed only during the next one.
    """

    def __init__(self, trainer: Trainer, metrics: Metrics) -> None:
        self._trainer, self._metrics = trainer, metrics
        self._statistics = running_statistics(trainer.student.model)
        self._kept: deque[_State] = deque(maxlen=2)
        self.keep()

    def keep(self) -> None:
        """Remember the state of the trainer, between two steps."""
        t = self._trainer
        statistics = [buffer.clone() for buffer in self._statistics]
        self._kept.append(_State(t.step, t.generator.get_state(), t.ledger.copy(), statistics))
        t.faults.keep()
        for one in t.remembered:
            one.keep()
        t.whole = True

    def put_back(self) -> bool:
        """Restore the trainer to that state; False if it is no longer available, or cannot be resumed from.

        A step that fails leaves the weights alone until the optimiser has begun to change them. A refused step leaves
        them alone altogether, even if it is noticed only after its update has been launched.
        """
        t = self._trainer
        refused = t.guard.first_refused()
        good = t.step if refused is None else refused - 1
        if good == 0 or (refused is None and not t.whole):
            return False
        while self._kept:
            t.faults.back()
            for one in t.remembered:
                one.back()
            if self._kept[-1].step <= good:
                break
            self._kept.pop()
        if not self._kept or self._kept[-1].step != good:
            return False
        self._take(self._kept[-1])
        self._metrics.forget(good)
        # A rate that is too high can make weights infinite in one step and the loss only in the next.
        return all(bool(torch.isfinite(p).all()) for p in t.student.parameters())

    def _take(self, state: _State) -> None:
        t = self._trainer
        t.step = state.step
        t.generator.set_state(state.generator)
        t.ledger = state.ledger
        with torch.no_grad():
            for buffer, kept in zip(self._statistics, state.statistics, strict=True):
                buffer.copy_(kept)


@contextlib.contextmanager
def leaving_a_checkpoint(last: LastStep, trainer: Trainer, metrics: Metrics, config: Config) -> Iterator[None]:
    """After an exception inside, save the last complete step, and add a note to the exception.

    With several processes, the first one writes the state that it has, since the others may be gone: with DDP that is
    everything; with FSDP nothing is written.
    """
    try:
        yield
    except Exception as error:
        world = trainer.world
        alone = world.size == 1 or config.run.parallel == "ddp"
        if world.first and alone:
            _leave(error, last, trainer, metrics, config)
        raise


def _leave(error: Exception, last: LastStep, trainer: Trainer, metrics: Metrics, config: Config) -> None:
    try:
        if not last.put_back():
            return
        write_checkpoint(Path(config.run.out) / CHECKPOINTS, trainer, metrics, config)
    except Exception as another:  # a full disk, a lost device: the cause of the end comes first
        reason = (str(another).splitlines() or [type(another).__name__])[0].rstrip(".")
        error.add_note(f"Step {trainer.step} could not be saved either ({reason}).")
    else:
        again = "" if isinstance(error, DataLost) else f"; {GO_ON}"
        error.add_note(f"Step {trainer.step} is saved{again}.")
