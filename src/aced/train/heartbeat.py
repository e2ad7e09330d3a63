"""Signs of life between the processes of a job, by which one is missed that neither works nor dies.

A process that dies is noticed at once, because its connections break. One that is stopped, or whose machine has lost
its power or its network, breaks none: within a step the others would wait for `run.timeout`, between steps (while the
first process scores or writes) without a limit. So each process counts up a number in the job's store and looks at that
of the next one, in a ring: whoever is lost, someone that is left was looking at one of them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Protocol

PAUSE = 5.0
"""Seconds between two signs of life."""
MISSED = 9
"""Looks in a row that find no new sign of life until a process counts as lost: with the pause, 45 s.

A call that holds Python's lock for so long would look the same; none is known.
"""


class Counters(Protocol):
    """What is needed of torch's stores."""

    def add(self, key: str, amount: int, /) -> int:
        """Add to a number that begins with 0, and give the sum."""


class Heartbeat:
    """Gives this process's signs of life inside a `with` block, and misses the next one's.

    Looks are counted and not seconds: when a whole job was suspended and goes on, nobody is missed.

    Args:
        store: a connection of its own to the job's store; a call may block for as long as it likes.
        rank: this process.
        size: processes of the job.
        lost: called in a thread, once, with the process that gives no sign of life, or None where it is the store that
            does not answer.
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
            thread.join(1.0)  # one that waits for the store is left to it

    def _beat(self) -> None:
        """Give signs of life, and listen; alone in a thread, since the store may not answer."""
        before = 0
        while not self._over.is_set():
            self._asking = True
            try:
                self._store.add(f"alive {self._rank}", 1)
                now = self._store.add(f"alive {self._next}", 0)
            except RuntimeError:
                return  # the store is gone, and `_asking` stays
            self._asking = False
            # Before its first sign the next process is still on its way here.
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
