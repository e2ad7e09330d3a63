"""The end of a job when one of its processes fails: at once, with the reason printed once."""

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
_RESUME = "the same command with --resume continues from the last checkpoint"
_PATIENCE = 3.0
"""Seconds that a rank without contact leaves torchrun to detect and name the rank that died first."""


@contextlib.contextmanager
def ending_together(world: World) -> Iterator[None]:
    """If ranks fail inside, let the first one print the reason, and end all.

    A single process is not affected. Otherwise this process ends here: a rank cannot continue alone, and its exchanges
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
                    traceback.print_exc()  # a bug, not a fault of the machine
                _say(f"{where} failed, which ends the job: {type(error).__name__}: {told(error)}")
            _end(1)
        # The failing rank reports the reason before it ends, so that ranks that lose contact find it.
        if _first(world, str(error)):
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            _say(
                f"{where} lost contact to another one, which died or hung ({reason}); torchrun's report below names "
                "the first to end. The same command with --resume continues from the last checkpoint."
            )
        time.sleep(_PATIENCE)
        _end(1)


def _miss(world: World, where: str, lost: int | None) -> None:
    """End this process, whatever it waits for: its heartbeat has lost a process or (None) the job's store."""
    who = "torchrun on the first machine" if lost is None else f"process {lost} of {world.size}"
    reason = f"{who} has given no sign of life for {PAUSE * MISSED:.0f} s"
    # Do not query a store that does not answer.
    if lost is None or _first(world, reason):
        _say(
            f"{where}: {reason}: it was stopped, or its machine or network is gone. The same command with --resume "
            "continues from the last checkpoint."
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
    except Exception:  # the store is gone, so no other rank can learn of it either
        return True


def _say(sentence: str) -> None:
    sys.stderr.write(f"aced: {sentence}\n")


def _end(status: int) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
