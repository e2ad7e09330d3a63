"""The loading processes: how they start, how their results arrive, and how their failures are reported.

Nothing here waits forever. A result that finds no room in `/dev/shm`, a process that dies and one that hangs each
raise an `AcedError` with the key to change.
"""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import pickle
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from multiprocessing.connection import wait
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Any, Generic, Literal, NamedTuple, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from aced.errors import AcedError
from aced.pool.loader import handing
from aced.pool.loader.shared_memory import check_room, room_text
from aced.pool.loader.workers import begin
from aced.runtime.stopping import SIGNALS, blocked

Start = Literal["fork", "forkserver"]
Job = TypeVar("Job")
Result = TypeVar("Result")

PATIENCE = 300.0
"""Seconds for which the processes may do nothing while the main process waits for a result."""
_LOOKS, _PARTS = 12, 15
"""A process hangs if this many checks in a row, one per part of the patience, see no work.

Checks are counted and not seconds, so that a job that was suspended as a whole can continue. Together they take four
fifths of the patience: in a job of several processes, this one reports the reason before the others stop waiting.
"""
_TICKS = 3
"""Clock ticks (10 ms) of processor time that count as work; an idle process still wakes up now and then."""
_GRACE = 1.0
"""Seconds that a process has to end by itself once it is no longer needed."""


class Loading(NamedTuple):
    """The reading processes, as `load` takes them.

    Attributes:
        workers: processes; 0 reads in this one.
        patience: seconds for which they may do nothing.
        start: how they start.
    """

    workers: int = 0
    patience: float = PATIENCE
    start: Start = "fork"


def load(
    read: Callable[[Job], Result],
    jobs: Iterable[Job],
    *,
    count: int,
    workers: int,
    item: int = 0,
    patience: float = PATIENCE,
    start: Start = "fork",
    helped: Callable[[], int] | None = None,
) -> Iterator[Result]:
    """The result of each job, in order, read ahead by `workers` processes (0: in this one, on demand).

    Args:
        read: makes a result; with workers it must be picklable, unless they are forked.
        jobs: the jobs in order; taken in this process, some of them early.
        count: number of jobs; there may be fewer.
        workers: processes; results are the same with any number of them.
        item: bytes of the tensors in a result, which pass through `/dev/shm`.
        patience: seconds without any processor time in the processes, while a result is awaited, before an error.
        start: how the processes start, where the system can fork; see `method_of`.
        helped: a counter of work that they may wait for; while it grows they do not count as hanging.

    Raises:
        AcedError: as `read` raises, in a process too; the results have no room in `/dev/shm`; or the processes cannot
            start, die, or hang. This call raises the second of these, the iterator the others.
    """
    counted = _Counted(itertools.islice(jobs, count))
    if workers == 0 or count == 0:
        return map(read, counted)
    ahead = check_room(item, workers, count)
    # As bytes, because sending a tensor to a process would need room in /dev/shm too.
    return _results(_Processes(read, map(pickle.dumps, counted), workers, ahead, patience, start, helped), counted)


class _Counted(Generic[Job]):
    """Jobs, how many of them were taken, and whether they are exhausted."""

    def __init__(self, jobs: Iterator[Job]) -> None:
        self._jobs, self.given, self.over = jobs, 0, False

    def __iter__(self) -> Iterator[Job]:
        for job in self._jobs:
            self.given += 1
            yield job
        self.over = True


def _results(processes: _Processes[Result], jobs: _Counted[Any]) -> Iterator[Result]:
    with contextlib.closing(processes):
        # Asked for one more, a loader ends its processes, which would look like their death.
        taken = 0
        while not (jobs.over and taken == jobs.given):
            yield processes.next()
            taken += 1


class _Reads(Dataset[Any], Generic[Job, Result]):
    """What runs in the processes. Every failure there is returned as a value."""

    def __init__(self, read: Callable[[Job], Result]) -> None:
        self.read = read

    def __getitem__(self, job: bytes) -> bytes | AcedError:
        # A loader would turn an exception into a page of traceback; a value stays as it is.
        try:
            result = self.read(pickle.loads(job))
        except AcedError as error:
            return error
        except OSError as error:
            return AcedError(f"{f'{error.filename}: ' if error.filename else ''}{_reason(error)}.")
        except MemoryError:
            return AcedError(f"Out of memory in a process that loads data: {_LESS}.")
        # Here and not in the thread of torch's queue, which would drop a result that it cannot send and leave its
        # receiver waiting forever: this is where tensors are copied into /dev/shm.
        try:
            return handing.dumps(result)
        except (OSError, RuntimeError) as error:
            if room := room_text(error):
                return AcedError(room)
            return AcedError(f"A process that loads data cannot hand over what it read ({_reason(error)}): {_ALONE}.")


class _Processes(Generic[Result]):
    """A torch `DataLoader` that notices the end of its processes only while a result is awaited.

    torch raises from the handler of SIGCHLD, in the middle of whatever runs then: an optimiser's step, or the writing
    of a checkpoint.
    """

    def __init__(
        self,
        read: Callable[[Job], Result],
        jobs: Iterable[bytes],
        workers: int,
        ahead: int,
        patience: float,
        start: Start,
        helped: Callable[[], int] | None,
    ) -> None:
        context = method_of(start)
        before, handler = set(multiprocessing.active_children()), signal.getsignal(signal.SIGCHLD)
        try:
            # First a lock, which needs /dev/shm: a loader that fails halfway complains again when it is deleted.
            context.Lock()
            loader = DataLoader(
                _Reads(read),
                sampler=jobs,
                batch_size=None,
                num_workers=workers,
                prefetch_factor=ahead,
                worker_init_fn=begin,
                multiprocessing_context=context,
                # Its own generator, because a loader draws a seed and the global one belongs to the user.
                generator=torch.Generator(),
            )
            with blocked(*(SIGNALS if start == "forkserver" else (signal.SIGTERM,))):
                self._loaded: Iterator[bytes | AcedError] = iter(loader)
        except OSError as error:
            _kill([child for child in multiprocessing.active_children() if child not in before])
            raise AcedError(f"The processes that load data cannot start ({_reason(error)}): {_ALONE}.") from error
        finally:
            if _in_main_thread() and handler is not None:
                signal.signal(signal.SIGCHLD, handler)
        self._processes = [child for child in multiprocessing.active_children() if child not in before]
        self._watch = _Watch(self._processes, patience, helped or (lambda: 0))
        # However this program ends, and before multiprocessing waits for processes that it has only asked to end.
        self._kill = Finalize(self, _kill, [self._processes, self._watch.over], exitpriority=1)

    def next(self) -> Result:
        """The next result.

        Raises:
            AcedError: see `load`.
        """
        failure, content = "", None
        # Not while handling an error, whose traceback would keep the loader alive.
        try:
            content = self._wait()
        except _Ended:
            failure = self._ended()
        except (OSError, EOFError, RuntimeError, pickle.UnpicklingError) as error:
            failure = self._failure(error)
        if failure:
            raise AcedError(failure)
        if isinstance(content, AcedError):
            raise content
        return content  # type: ignore[return-value]

    def close(self) -> None:
        """End the processes, even in the middle of a result."""
        if not self._kill.still_active():  # the program is ending and has already ended them
            return
        # After the loader has asked them to end, which a process that dies at that moment could prevent.
        late = threading.Timer(_GRACE, self._kill)
        late.daemon = True
        late.start()
        del self._loaded
        late.cancel()
        self._kill()

    def _wait(self) -> Result | AcedError:
        with self._watch.waiting(), self._noticing_the_end():
            content = next(self._loaded)
            return content if isinstance(content, AcedError) else handing.loads(content)

    @contextlib.contextmanager
    def _noticing_the_end(self) -> Iterator[None]:
        """Let the death of a process interrupt a wait, which may be in the middle of its message."""
        if not _in_main_thread():
            yield
            return

        def handler(*_: object) -> None:
            if self._watch.hung or any(process.exitcode is not None for process in self._processes):
                raise _Ended

        before = signal.signal(signal.SIGCHLD, handler)
        try:
            handler()
            yield
        finally:
            signal.signal(signal.SIGCHLD, before)

    def _failure(self, error: Exception) -> str:
        """The meaning of an error while waiting for or receiving a result."""
        if str(error).startswith("Caught "):  # raised by `read`, with the traceback from there: a bug
            raise error
        # A connection breaks shortly before its process has ended.
        ended = wait([process.sentinel for process in self._processes], _GRACE)
        for process in self._processes:
            if process.sentinel in ended:
                process.join()
                return self._ended()
        if "open files" in str(error) or "ancdata" in str(error):
            return f"Too many open files: raise the limit (ulimit -n), or lower {_WORKERS}."
        return f"A result from a process that loads data cannot be received ({_reason(error)}): {_LESS}; {_ALONE}."

    def _ended(self) -> str:
        if self._watch.hung:
            return self._watch.hung
        code = next(process.exitcode for process in self._processes if process.exitcode is not None)
        return f"A process that loads data died ({_how(code)}); with too little memory, {_LESS}; {_ALONE}."


class _Watch:
    """Ends processes that hang while a result is awaited, which ends any such wait.

    Attributes:
        hung: the message, once they did.
        over: set when they are no longer needed.
    """

    def __init__(self, processes: Sequence[BaseProcess], patience: float, helped: Callable[[], int]) -> None:
        self._processes, self._pause, self._helped = processes, patience / _PARTS, helped
        self._sentinels = [process.sentinel for process in processes]
        self._waits, self._waiting, self.hung, self.over = 0, False, "", threading.Event()
        threading.Thread(target=self._look, daemon=True).start()

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """A wait for a result."""
        self._waits, self._waiting = self._waits + 1, True
        try:
            yield
        finally:
            self._waiting = False

    def _look(self) -> None:
        idle, before, mark, help_before = 0, 0, 0, 0
        while not self.over.is_set():
            if wait(self._sentinels, self._pause):
                # The system tells only the parent, which is another process if they were not forked from this one.
                self._break()
                self.over.wait(_GRACE / 2)
                continue
            number, now, helped = self._waits, _ticks(self._processes), self._helped()
            if self._waiting and number == before and now - mark < _TICKS and helped == help_before:
                idle += 1
            else:
                idle, before, mark, help_before = 0, number, now, helped
            if idle == _LOOKS:
                self.hung = (
                    f"The processes that load data hang: for {idle * self._pause:.0f} s they have done nothing, while "
                    "the next batch is awaited. Check the file system of the data; run.timeout sets how "
                    f"long they may stand still; {_ALONE}."
                )
                _kill(self._processes)
                self._break()  # a process that waits for a disk may not even die
                return

    def _break(self) -> None:
        """Let the main thread check the processes, if it waits for a result."""
        if self._waiting:
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGCHLD)


class _Ended(Exception):
    """A process died."""


_WORKERS = "data.workers (aced embed, aced eval: --workers)"
_LESS = f"lower {_WORKERS}"
_ALONE = "data.workers=0 (aced embed, aced eval: --workers 0) loads in the main process"


def method_of(start: Start) -> BaseContext:
    """How processes start; explicit, so that it does not change with Python's version.

    A fork shares the manifest and the open indexes, and starts at once. A forked process decodes with one thread and
    uses neither GPU nor terminal, so locks that other threads hold at that moment do not matter. A forkserver is a
    process without threads, from which the others are forked: for a source that brings its own threads or connections.
    It imports torch once, and each process gets a copy. If a system cannot fork safely, Python's own default applies.
    safely it is Python's own way.
    """
    if sys.platform != "linux":
        return multiprocessing.get_context()
    context = multiprocessing.get_context(start)
    if start == "forkserver":
        context.set_forkserver_preload(
            ["torch.utils.data", "aced.pool.loader.loading", "aced.pool.shards", "aced.models.ids"]
        )
    return context


def _how(code: int) -> str:
    if code >= 0:
        return f"it ended with status {code}"
    why = {
        signal.SIGKILL: ", as happens when memory runs out",
        signal.SIGBUS: ", as happens when /dev/shm is full or a file that is read was cut",
    }
    with contextlib.suppress(ValueError):
        name = signal.Signals(-code)
        return f"by {name.name}{why.get(name, '')}"
    return f"by signal {-code}"


def _ticks(processes: Sequence[BaseProcess]) -> int:
    """Processor time that processes have used, in clock ticks; if the system does not report it, ever more."""
    total = 0
    for process in processes:
        try:
            fields = Path(f"/proc/{process.pid}/stat").read_bytes().rpartition(b")")[2].split()
        except OSError:
            return next(_EVER_MORE)
        total += int(fields[11]) + int(fields[12])
    return total


_EVER_MORE = itertools.count(1 << 40, 1 << 10)


def _kill(processes: Sequence[BaseProcess], over: threading.Event | None = None) -> None:
    if over is not None:
        over.set()
    for process in processes:
        process.kill()


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _reason(error: BaseException) -> str:
    text = (getattr(error, "strerror", None) or str(error) or type(error).__name__).strip()
    return text.splitlines()[0].rstrip(".")
