"""How a job of several processes ends when one of them fails: at once, and with one reason printed once."""

from __future__ import annotations

import contextlib
import os
import sys
import time
import traceback
from collections.abc import Iterator
from functools import partial
from typing import NoReturn

import torch
import torch.distributed as dist

from aced.errors import AcedError, told
from aced.runtime.stopping import INTERRUPTED, Stopped
from aced.train.distributed import JobEnded, TorchRanks, World
from aced.train.heartbeat import MISSED, PAUSE, Heartbeat

_LOST = ("connection", "timed out", "timeout", "gloo", "nccl", "peer", "socket", "broken pipe")
_RESUME = "the same command with --resume goes on from the last checkpoint"
_PATIENCE = 3.0
"""Seconds for which a rank that lost contact lets torchrun see the rank that died first, and name it."""


@contextlib.contextmanager
def ending_together(world: World) -> Iterator[None]:
    """Of the ranks that fail inside, let the first one print why, and end all.

    In one process nothing is changed. Otherwise this process ends here: a rank cannot go on alone, and its exchanges
    could keep an ordinary exit waiting.
    """
    if not isinstance(world, TorchRanks):
        yield
        return
    where = f"process {world.rank} of {world.size}"
    try:
        with Heartbeat(world.store(), world.rank, world.size, partial(_miss, world, where)):
            yield
    except JobEnded:
        _end(2)
    except AcedError as error:
        if _first(world, str(error)):
            _say(f"{where}: {told(error)}")
        _end(2)
    except Stopped as stopped:
        if _first(world, str(stopped)):
            _say(f"{stopped}." if stopped.saved else f"{stopped}; {_RESUME}.")
        _end(stopped.status)
    except KeyboardInterrupt:
        if _first(world, "interrupted"):
            _say(f"interrupted; {_RESUME}.")
        _end(INTERRUPTED)
    except Exception as error:
        if not _is_lost(error):
            if _first(world, str(error)):
                if not isinstance(error, (OSError, MemoryError, torch.OutOfMemoryError)):
                    traceback.print_exc()  # a bug, and no fault of the machine
                _say(f"{where} failed, which ends the job: {type(error).__name__}: {told(error)}")
            _end(1)
        # The rank that fails tells why before it ends, so that whoever loses it finds the reason told.
        if _first(world, str(error)):
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            _say(
                f"{where} lost another one, which died or hung ({reason}); torchrun's report below names the first to "
                "end. The same command with --resume goes on from the last checkpoint."
            )
        time.sleep(_PATIENCE)
        _end(1)


def _miss(world: World, where: str, lost: int | None) -> None:
    """End this process, whatever it waits for, because its heartbeat has lost a process, or (None) the job's store."""
    who = "torchrun on the first machine" if lost is None else f"process {lost} of {world.size}"
    reason = f"{who} has given no sign of life for {PAUSE * MISSED:.0f} s"
    # A store that does not answer must not be asked.
    if lost is None or _first(world, reason):
        _say(
            f"{where}: {reason}: it was stopped, or its machine or network is gone. The same command with --resume "
            "goes on from the last checkpoint."
        )
    _end(1)


def _is_lost(error: Exception) -> bool:
    """Whether an exchange failed because of another rank."""
    if isinstance(error, dist.DistError):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error).lower() for word in _LOST)


def _first(world: World, reason: str) -> bool:
    try:
        return world.tell(reason)
    except Exception:  # the store is gone: nobody else can be told either
        return True


def _say(sentence: str) -> None:
    sys.stderr.write(f"aced: {sentence}\n")


def _end(status: int) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
