"""What processes that load data do at their start."""

from __future__ import annotations

import sys
from types import TracebackType

from aced.stopping import leave_to_parent


def quiet_end(_worker: int) -> None:
    """Let a loading process end in silence when the main one is gone; for `DataLoader(worker_init_fn=...)`.

    Signals that reach it together with the main process are left to that one.

    A thread of it hands tensors over. Where the main process ends in the middle of that, after Ctrl-C, the thread
    would print a traceback beside the one sentence that the main process has said.
    """
    leave_to_parent()
    before = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if not isinstance(error, (ConnectionError, EOFError)):
            before(kind, error, trace)

    sys.excepthook = hook
