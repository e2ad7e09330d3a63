"""Initialisation of processes that load data."""

from __future__ import annotations

import ctypes
import sys
from types import TracebackType

from aced.runtime.stopping import leave_to_parent

_M_MMAP_THRESHOLD, _LARGE = -3, 8 << 20
"""A setting of malloc.h: the size in bytes from which a block comes directly from the system."""


def begin(_worker: int) -> None:
    """For `DataLoader(worker_init_fn=...)`: only the main process decides when a loading process ends.

    Ctrl-C in a terminal, and a scheduler that ends a job, reach every process of it. The main one then finishes its
    current work, for which it may need another result.
    """
    leave_to_parent()
    quiet_end()
    give_back_at_once()


def quiet_end() -> None:
    """Let a loading process end silently when the main one is gone.

    One of its threads passes tensors on. If the main process ends in the middle of that, after Ctrl-C, the thread would
    print a traceback beside the one sentence of the main process.
    """
    before = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if not isinstance(error, (ConnectionError, EOFError)):
            before(kind, error, trace)

    sys.excepthook = hook


def give_back_at_once() -> None:
    """Return large blocks of memory to the system as soon as they are free.

    glibc adapts to the largest freed block, up to 32 MB, and from then on keeps free blocks of that size: processes
    that read chunks of 20 MB would hold 100 MB each.
    """
    try:
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _LARGE)
    except (OSError, AttributeError, TypeError):  # a system with another library
        return
