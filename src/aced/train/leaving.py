"""What a run leaves when it ends early: a checkpoint of its last complete step, whatever ended it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from aced.config import Config
from aced.core.ledger import Ledger
from aced.errors import DataLost
from aced.train.checkpoint import write_checkpoint
from aced.train.folder import CHECKPOINTS
from aced.train.step import Trainer
from aced.train.watch import Metrics

GO_ON = "the same command with --resume goes on from there"
"""What can be done about a run whose last step is saved."""


class LastStep:
    """The state behind the last complete step: the small part of it that the next step changes before the weights."""

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self._statistics = _running(trainer.student.model)
        self.keep()

    def keep(self) -> None:
        """Remember the trainer as it is, between two steps."""
        t = self._trainer
        self._step = t.step
        self._generator = t.generator.get_state()
        self._ledger = t.ledger.state()
        self._buffers = [buffer.clone() for buffer in self._statistics]
        t.faults.keep()
        if t.memory is not None:
            t.memory.keep()
        t.whole = True

    def put_back(self) -> bool:
        """Make the trainer again what it was; False where that cannot be had any more, or is nothing to go on from.

        A step that fails leaves the weights alone until the optimiser has begun to change them.
        """
        t = self._trainer
        if not t.whole or t.step != self._step or t.step == 0:
            return False
        t.generator.set_state(self._generator)
        t.ledger = Ledger(**self._ledger, clock=t.ledger.clock)  # type: ignore[arg-type]
        with torch.no_grad():
            for buffer, kept in zip(self._statistics, self._buffers, strict=True):
                buffer.copy_(kept)
        t.faults.back()
        if t.memory is not None:
            t.memory.back()
        # A rate that is too high can make weights infinite in one step and the loss in the next.
        return all(bool(torch.isfinite(p).all()) for p in t.student.parameters())


def _running(model: nn.Module) -> list[torch.Tensor]:
    """What a forward pass in training changes of a model."""
    return [b for m in model.modules() if isinstance(m, _NormBase) for b in m.buffers(recurse=False)]


@contextlib.contextmanager
def leaving_a_checkpoint(last: LastStep, trainer: Trainer, metrics: Metrics, config: Config) -> Iterator[None]:
    """After an exception inside, write the last complete step, and note on the exception that it is there.

    Of several processes the first one writes what it has of its own, since the others may be gone: with DDP that is
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
    except Exception as another:  # a disk that is full, a device that is lost: what ended the run comes first
        reason = (str(another).splitlines() or [type(another).__name__])[0].rstrip(".")
        error.add_note(f"Step {trainer.step} could not be saved either ({reason}).")
    else:
        again = "" if isinstance(error, DataLost) else f"; {GO_ON}"
        error.add_note(f"Step {trainer.step} is saved{again}.")
