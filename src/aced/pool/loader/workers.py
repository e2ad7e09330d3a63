"""What processes that load data do at their start."""

from __future__ import annotations

import ctypes
import sys
from types import TracebackType

from aced.runtime.stopping import leave_to_parent

_M_MMAP_THRESHOLD, _LARGE = -3, 8 << 20
"""The name of a setting in malloc.h, and bytes from which on a piece is one of the system's own."""


def begin(_worker: int) -> None:
    """For `DataLoader(worker_init_fn=...)`: the main process alone decides when a loading process ends.

    Ctrl-C in a terminal, and a scheduler that wants a job to end, reach every process of it. The main one then finishes
    what it is at, for which it may need another result.
    """
    leave_to_parent()
    quiet_end()
    give_back_at_once()


def quiet_end() -> None:
    """Let a loading process end in silence when the main one is gone.

    A thread of it hands tensors over. Where the main process ends in the middle of that, after Ctrl-C, the thread
    would print a traceback beside the one sentence that the main process has said.
    """
    before = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if not isinstance(error, (ConnectionError, EOFError)):
            before(kind, error, trace)

    sys.excepthook = hook


def give_back_at_once() -> None:
    """Let large pieces of memory go back to the system as soon as they are free.

    glibc takes the largest piece that was freed, up to 32 MB, for what is usual, and from then on keeps what is free of
    such pieces: processes that read chunks of 20 MB would hold 100 MB each.
    """
    try:
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _LARGE)
    except (OSError, AttributeError, TypeError):  # a system with another library, which has ways of its own
        return
