"""Signals that ask a program to end: immediately, or after finishing its current work.

Schedulers send SIGTERM, SIGUSR1 and SIGUSR2 before they kill, SIGHUP means a closed terminal, SIGINT is Ctrl-C. A
signal that is ignored from the start (`nohup`, `&` in a script) stays ignored.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

STOPPED, INTERRUPTED = 75, 130
"""Exit statuses: after a signal of a scheduler (EX_TEMPFAIL, "try again") and after Ctrl-C."""

_NAMES = ("SIGTERM", "SIGUSR1", "SIGUSR2", "SIGHUP", "SIGINT")  # Windows has fewer
SIGNALS = tuple(getattr(signal, name) for name in _NAMES if hasattr(signal, name))

_LOOK = 1.0
"""Seconds between two checks of a process whether its main process still runs."""
ECHO = 0.5
"""Seconds in which a further signal counts as the same request: schedulers, `timeout` and torchrun signal a process and
its group, and one process may get both."""


class Stopped(BaseException):
    """A signal ends the program. Not an error: code that catches `Exception` lets it pass.

    Attributes:
        number: of the signal.
        saved: what is kept and how to continue, as the end of a sentence; may be empty.
    """

    def __init__(self, number: int, saved: str = "") -> None:
        super().__init__(f"{words(number)}; {saved}" if saved else words(number))
        self.number, self.saved = number, saved

    @property
    def status(self) -> int:
        """The exit status."""
        return INTERRUPTED if self.number == signal.SIGINT else STOPPED


def words(number: int) -> str:
    """The effect of a signal, as the beginning of a sentence."""
    return "interrupted" if number == signal.SIGINT else f"stopped by {signal.Signals(number).name}"


class Asked:
    """Whether a signal has requested the end, in a block of `deferred`.

    Attributes:
        number: of the first signal; None until one arrives.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self._cutting = False

    def unless_asked(self, work: Callable[[], object]) -> bool:
        """Do work that is too long to finish and can be repeated: a signal interrupts it. True if it was completed."""
        if self.number is not None:
            return False
        self._cutting = True
        try:
            work()
            self._cutting = False
        except _Cut:
            return False
        finally:
            self._cutting = False
        return True

    def take(self, number: int) -> None:
        """A signal has arrived.

        Raises:
            Stopped: it interrupts the work of `unless_asked`, or is the second one.
            KeyboardInterrupt: it is Ctrl-C, and the second signal.
        """
        if self.number is not None:
            _end_now(number)
        self.number = number
        if self._cutting:
            raise _Cut(number)


class _Cut(Stopped):
    """Interrupts the work of `unless_asked`."""


class _Watch:
    """The process whose signals are watched, its previous handlers, and the deferred block, if any."""

    def __init__(self) -> None:
        self.process = os.getpid()
        self.before: dict[int, Any] = {}
        self.asked: list[Asked] = []
        self.ends = 0
        self.last = -math.inf

    def begin(self) -> None:
        for number in SIGNALS:
            handler = signal.getsignal(number)
            if handler not in (signal.SIG_IGN, None):
                self.before[number] = handler
                signal.signal(number, self.handle)

    def end(self) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Called by Python in the main thread when a signal has arrived."""
        if os.getpid() != self.process:
            # A forked process has nothing to finish: it ends as if signals were not watched.
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        now = time.monotonic()
        if now - self.last < ECHO:
            return
        self.last = now
        if self.asked:
            self.asked[-1].take(number)
            return
        self.ends += 1
        if self.ends > 1:  # nothing that delays the end is worth a third signal
            signal.signal(number, signal.SIG_DFL)
        _end_now(number)


_watch: _Watch | None = None


def leave_in_peace() -> None:
    """Ignore signals from now on: the program has finished and is only exiting."""
    if _watch is not None:
        _watch.before = dict.fromkeys(_watch.before, signal.SIG_IGN)
        _watch.end()


def _end_now(number: int) -> None:
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise Stopped(number)


@contextlib.contextmanager
def watching() -> Iterator[None]:
    """Let signals end the work inside in an orderly way: `Stopped` is raised, and KeyboardInterrupt for Ctrl-C.

    Only the main thread may do so; in other threads, and within another `watching`, nothing changes.
    """
    global _watch
    mine = threading.current_thread() is threading.main_thread()
    if not mine or (_watch is not None and _watch.process == os.getpid()):
        yield
        return
    outer, _watch = _watch, _Watch()
    try:
        _watch.begin()
        yield
    finally:
        _watch.end()
        _watch = outer


@contextlib.contextmanager
def deferred() -> Iterator[Asked]:
    """Within the block a signal only requests the end; a second one ends it at once.

    In other threads than the main one, no request ever arrives.

    Raises:
        Stopped: a signal arrived, and the block ended well without checking for it.
    """
    asked = Asked()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    with watching():
        assert _watch is not None
        _watch.asked.append(asked)
        try:
            yield asked
        finally:
            _watch.asked.remove(asked)
    if asked.number is not None:
        raise Stopped(asked.number)


@contextlib.contextmanager
def blocked(*numbers: int) -> Iterator[None]:
    """Processes started inside begin with these signals blocked, in all their threads.

    Blocked later, they would still reach a thread that a library has already started.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def leave_to_parent() -> None:
    """In a worker process: leave the signals that reach both processes to the main one.

    Ctrl-C, `timeout` and torchrun signal whole groups of processes. SIGTERM is obeyed only if the parent itself sends
    it; that is the process that requested this one, even if a forkserver started it. When the parent is gone, however
    it ended, this process ends within a second or two, whatever it is doing.
    """
    for number in SIGNALS:
        if number != signal.SIGTERM:
            signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "sigtimedwait"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_obey, daemon=True).start()


def _obey() -> None:
    from multiprocessing import parent_process  # costs a tenth of a second, so import it only here

    asked_by = parent_process()
    started_by = os.getppid()
    parent = started_by if asked_by is None else asked_by.pid
    while True:
        came = signal.sigtimedwait({signal.SIGTERM}, _LOOK)
        gone = os.getppid() != started_by or (parent != started_by and asked_by is not None and not asked_by.is_alive())
        # An ordinary exit would wait for its queue, which may be full of data that is no longer read.
        if gone or (came is not None and came.si_pid == parent):
            os._exit(0)


def end_children() -> None:
    """End the loading processes of this one, without waiting for their current work."""
    if module := sys.modules.get("multiprocessing"):
        for child in module.active_children():
            child.terminate()
