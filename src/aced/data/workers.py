"""What processes that load data do at their start."""

from __future__ import annotations

import sys
from types import TracebackType

from aced.stopping import leave_to_parent


def begin(_worker: int) -> None:
    """For `DataLoader(worker_init_fn=...)`: the main process alone decides when a loading process ends.

    Ctrl-C in a terminal, and a scheduler that wants a job to end, reach every process of it. The main one then finishes
    what it is at, for which it may need another result.
    """
    leave_to_parent()
    quiet_end()


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
