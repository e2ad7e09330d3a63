"""Signals that ask a program to end: when it does so at once, and when it finishes what it is at.

SIGTERM, SIGUSR1 and SIGUSR2 are what schedulers send before they kill, SIGHUP is a terminal that is gone, SIGINT is
Ctrl-C. A signal that is ignored from the start (`nohup`, `&` in a script) stays ignored.
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
"""Seconds between two looks of a process whether the one that it works for is still there."""
ECHO = 0.5
"""Seconds in which a further signal is the same request: schedulers, `timeout` and torchrun signal a process and its
group, and one process may get both."""


class Stopped(BaseException):
    """A signal ends the program. No error: what catches `Exception` lets it pass.

    Attributes:
        number: of the signal.
        saved: what is kept and how to go on, as the end of a sentence; empty where nothing is to be said.
    """

    def __init__(self, number: int, saved: str = "") -> None:
        super().__init__(f"{words(number)}; {saved}" if saved else words(number))
        self.number, self.saved = number, saved

    @property
    def status(self) -> int:
        """The exit status."""
        return INTERRUPTED if self.number == signal.SIGINT else STOPPED


def words(number: int) -> str:
    """What a signal did, as the beginning of a sentence."""
    return "interrupted" if number == signal.SIGINT else f"stopped by {signal.Signals(number).name}"


class Asked:
    """Whether a signal has asked for the end, in a block of `deferred`.

    Attributes:
        number: of the first signal; None as long as none came.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self._cutting = False

    def unless_asked(self, work: Callable[[], object]) -> bool:
        """Do what is too long to be finished and can be done again: a signal ends it. True where it was done."""
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
        """A signal has come.

        Raises:
            Stopped: it cuts short what `unless_asked` does, or is the second one.
            KeyboardInterrupt: it is Ctrl-C, and the second signal.
        """
        if self.number is not None:
            _end_now(number)
        self.number = number
        if self._cutting:
            raise _Cut(number)


class _Cut(Stopped):
    """Ends the work of `unless_asked`."""


class _Watch:
    """The process whose signals are watched, what its handlers were before, and who wants to be asked first."""

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
        """What Python calls, in the main thread, when a signal came."""
        if os.getpid() != self.process:
            # A process forked from this one, which has nothing to finish: it ends as if nobody had watched.
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
        if self.ends > 1:  # whatever holds the end up is not worth a third signal
            signal.signal(number, signal.SIG_DFL)
        _end_now(number)


_watch: _Watch | None = None


def leave_in_peace() -> None:
    """Ignore signals from now on: the program has done what the first one asked for, and only has to be gone."""
    if _watch is not None:
        _watch.before = dict.fromkeys(_watch.before, signal.SIG_IGN)
        _watch.end()


def _end_now(number: int) -> None:
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise Stopped(number)


@contextlib.contextmanager
def watching() -> Iterator[None]:
    """Let signals end what is done inside in an orderly way: `Stopped` is raised, and KeyboardInterrupt for Ctrl-C.

    Only the main thread may do so; in another one, and within another `watching`, nothing changes.
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
    """Within the block a signal only asks for the end; a second one ends it at once.

    In a thread that is not the main one, nobody ever asks.

    Raises:
        Stopped: a signal has asked, and the block ended well without looking.
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
    """Processes that are started inside begin without these signals, in every thread of theirs.

    Blocked later, they would still reach a thread that a library has started before.
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
    """In a process that works for another one: of the signals that reach them both it leaves all to that one.

    Ctrl-C, `timeout` and torchrun signal whole groups of processes. SIGTERM is obeyed where the parent itself sends it;
    that is the process that asked for this one, also where a forkserver has started it. When the parent is gone,
    however it ended, so is this process within a second or two, whatever it is at.
    """
    for number in SIGNALS:
        if number != signal.SIGTERM:
            signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "sigtimedwait"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_obey, daemon=True).start()


def _obey() -> None:
    from multiprocessing import parent_process  # a tenth of a second for those who need none

    asked_by = parent_process()
    started_by = os.getppid()
    parent = started_by if asked_by is None else asked_by.pid
    while True:
        came = signal.sigtimedwait({signal.SIGTERM}, _LOOK)
        gone = os.getppid() != started_by or (parent != started_by and asked_by is not None and not asked_by.is_alive())
        # At an ordinary exit it would wait for its queue, which may be full of what nobody reads any more.
        if gone or (came is not None and came.si_pid == parent):
            os._exit(0)


def end_children() -> None:
    """End the processes that load for this one, without waiting for what they are at."""
    if module := sys.modules.get("multiprocessing"):
        for child in module.active_children():
            child.terminate()
