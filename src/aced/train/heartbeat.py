"""Heartbeats between the processes of a job, to detect a process that neither works nor dies.

A process that dies is noticed at once, because its connections break. One that is stopped, or whose machine has lost
power or network, breaks none: within a step the others would wait for `run.timeout`, and between steps (while the first
process scores or writes) without a limit. So each process increments a number in the job's store and checks that of the
next one, in a ring: any lost process has a surviving neighbour that watches it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Protocol

PAUSE = 5.0
"""Seconds between two heartbeats."""
MISSED = 9
"""Checks in a row without a new heartbeat until a process counts as lost: with the pause, 45 s.

A call that holds Python's lock for that long would look the same; none is known.
"""


class Counters(Protocol):
    """The operations of torch's stores that are needed."""

    def add(self, key: str, amount: int, /) -> int:
        """Add to a number that starts at 0, and return the sum."""


class Heartbeat:
    """Sends this process's heartbeats inside a `with` block, and checks the next one's.

    Checks are counted and not seconds, so a whole job may be suspended and continued without a false alarm.

    Args:
        store: a separate connection to the job's store; a call may block for any time.
        rank: this process.
        size: processes of the job.
        lost: called in a thread, once, with the process that sends no heartbeat, or None if the store does not
            answer.
    """

    def __init__(self, store: Counters, rank: int, size: int, lost: Callable[[int | None], None]) -> None:
        self._store, self._rank, self._size, self._lost = store, rank, size, lost
        self._next = (rank + 1) % size
        self._over = threading.Event()
        self._heard = self._asking = False

    def __enter__(self) -> Heartbeat:
        works = (self._beat, self._watch) if self._size > 1 else ()
        self._threads = [threading.Thread(target=work, daemon=True) for work in works]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(1.0)  # a thread that waits for the store is left alone

    def _beat(self) -> None:
        """Send heartbeats and check; alone in a thread, because the store may not answer."""
        before = 0
        while not self._over.is_set():
            self._asking = True
            try:
                self._store.add(f"alive {self._rank}", 1)
                now = self._store.add(f"alive {self._next}", 0)
            except RuntimeError:
                return  # the store is gone, and `_asking` stays
            self._asking = False
            # Before its first heartbeat the next process is still starting.
            self._heard |= now != before or now == 0
            before = now
            self._over.wait(PAUSE)

    def _watch(self) -> None:
        missed = 0
        while not self._over.wait(PAUSE):
            missed = 0 if self._heard else missed + 1
            self._heard = False
            if missed == MISSED:
                self._lost(None if self._asking else self._next)
                return
