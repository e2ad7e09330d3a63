"""Fetching of a pool larger than the disk: its tars arrive as a plan needs them, in a folder of bounded size.

A thread in the main process of each rank fetches the tars of the coming steps, several at a time. When it needs room,
it removes those whose last step is over. Readers, in any process, wait until a file appears under its name once it is
complete, or until another file says why it never will.
"""

from __future__ import annotations

import bisect
import heapq
import itertools
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from queue import SimpleQueue

from aced.errors import AcedError
from aced.files.download import AT_ONCE, Watched
from aced.files.remote import Changed, FetchStopped, NotThere
from aced.files.spoolroom import GIGABYTE
from aced.pool.fetch.places import Places
from aced.pool.fetch.streamed import Streamed, brought_of
from aced.pool.orders.plan import Visit
from aced.pool.source import Source
from aced.pool.tars.losttars import CHANGED, GONE


@dataclass
class _Held:
    """A tar in the folder, or on its way there.

    Attributes:
        size: bytes that it takes, with the files that travel with it.
        last: the last step that needs it.
        here: whether it has arrived, or is known never to.
        lost: whether it is known never to arrive.
    """

    size: int
    last: int
    here: bool = False
    lost: bool = False


class Fetcher:
    """Fetches the tars of one process; use it as a context manager, or call `start` and `close`.

    As soon as it exists, readers wait for it instead of fetching themselves. So make it before the reading processes
    are forked, and start it after.

    Args:
        streamed: the tars.
        visits: in the order of their first steps.
        first: the first step.
        stop: the step after the last one.
        at_once: number of files fetched at a time.
        known: whether the visits can be inspected in advance; visits on demand cannot.

    Attributes:
        spent: seconds that the steps so far waited for tars, as reported to `took`.

    Raises:
        AcedError: the folder may not hold what is needed at once.
    """

    def __init__(
        self,
        streamed: Streamed,
        visits: Iterable[Visit],
        *,
        first: int,
        stop: int,
        at_once: int = AT_ONCE,
        known: bool = True,
    ) -> None:
        self._streamed, self._limit, self.spent = streamed, streamed.limit, 0.0
        self._readers: object = None
        self._size = cache(streamed.size)
        wanted = (visit for visit in visits if streamed.is_remote(visit.tar))
        self._visits: Iterator[Visit] = itertools.takewhile(lambda visit: visit.first < stop, wanted)
        self._done = first - 1
        self._held: dict[int, _Held] = {}
        self._taken = 0
        self._over: list[tuple[int, int]] = []  # heap of (last step, tar); some entries are outdated
        self._changed = threading.Condition()
        self._watched = Watched()
        self._ready = _Ready(first)
        self._failed = False
        coming = list(itertools.islice(self._visits, 2 * streamed.count if known else 0))
        self._visits = itertools.chain(coming, self._visits)
        _check(streamed, most_at_once(coming, self._size))
        streamed.sweep(self._fitting(coming))
        streamed.awaited()
        self._planner = threading.Thread(target=self._plan, name="fetcher", daemon=True)
        self._crew = ThreadPoolExecutor(at_once, thread_name_prefix="fetch")

    def __enter__(self) -> Fetcher:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def serves(self, readers: object) -> None:
        """Register a reader; it is closed, if it can be, before fetching ends."""
        self._readers = readers

    def start(self) -> None:
        """Start fetching."""
        self._planner.start()

    def close(self) -> None:
        """Stop; fetched tars stay, and later readers fetch for themselves."""
        if isinstance(self._readers, Generator):
            self._readers.close()
        self._watched.stop.set()
        with self._changed:
            self._changed.notify_all()
        if self._planner.is_alive():
            self._planner.join()
        self._crew.shutdown(cancel_futures=True)
        if not self._failed:
            self._streamed.alone()

    def done(self, step: int) -> None:
        """Everything for a step, and for those before it, has been read."""
        with self._changed:
            self._done = max(self._done, step)
            self._changed.notify_all()

    def moved(self) -> int:
        """Grows as long as anything arrives."""
        return self._watched.moved()

    def took(self, step: int, since: float, until: float) -> None:
        """A step's pairs, now read, were waited for between two values of `time.perf_counter()`."""
        with self._changed:
            self.spent += max(0.0, min(until, self._ready.when(step, until)) - since)
        self.done(step)

    def _fitting(self, coming: Iterable[Visit]) -> Iterator[int]:
        """The tars of the next visits, as many as the folder holds."""
        room, seen = self._limit, set[int]()
        for visit in coming:
            if visit.tar not in seen:
                seen.add(visit.tar)
                room -= self._size(visit.tar)
                if room < 0:
                    return
                yield visit.tar

    def _plan(self) -> None:
        """Assign tars to the fetching threads, as soon as there is room."""
        try:
            for visit in self._visits:
                if not self._hold(visit):
                    return
            with self._changed:
                self._ready.planned(None)
        except BaseException as error:
            self._fail(error)

    def _hold(self, visit: Visit) -> bool:
        """Make room for a tar and fetch it unless it is there; False if it is no longer needed."""
        with self._changed:
            self._ready.planned(visit.first)
            held = self._held.get(visit.tar)
            if held is not None and not held.lost:
                held.last = max(held.last, visit.last)
                heapq.heappush(self._over, (held.last, visit.tar))
                self._ready.add(visit.first, held)
                return True
            if held is not None:
                self._give_up(visit.tar)  # perhaps it is available again
            size = self._size(visit.tar)
            while not self._makes_room(size):
                if self._watched.stop.is_set():
                    return False
                if visit.first <= self._done + 1 and all(held.here for held in self._held.values()):
                    _check(self._streamed, self._taken + size)
                self._changed.wait()
            held = self._held[visit.tar] = _Held(size, visit.last)
            self._taken += size
            heapq.heappush(self._over, (visit.last, visit.tar))
            self._ready.add(visit.first, held)
        self._crew.submit(self._bring, visit.tar, held)
        return True

    def _makes_room(self, size: int) -> bool:
        """Remove tars whose last step is over, as many as needed; returns whether there is room then."""
        late: list[tuple[int, int]] = []  # still on their way, but never waited for
        while self._taken + size > self._limit and self._over and self._over[0][0] <= self._done:
            last, tar = heapq.heappop(self._over)
            held = self._held.get(tar)
            if held is None or held.last != last:
                continue
            if held.here:
                self._give_up(tar)
            else:
                late.append((last, tar))
        for one in late:
            heapq.heappush(self._over, one)
        return self._taken + size <= self._limit and not self._watched.stop.is_set()

    def _give_up(self, tar: int) -> None:
        self._streamed.remove(tar)
        self._taken -= self._held.pop(tar).size

    def _bring(self, tar: int, held: _Held) -> None:
        lost = False
        try:
            self._streamed.bring(tar, self._watched)
        except FetchStopped:
            return
        except (NotThere, Changed) as error:
            lost = True
            try:
                self._streamed.lose(tar, GONE if isinstance(error, NotThere) else CHANGED, str(error))
            except AcedError as another:
                self._fail(another)
        except BaseException as error:
            self._fail(error)
            return
        with self._changed:
            held.here, held.lost = True, lost
            self._ready.look()
            self._changed.notify_all()

    def _fail(self, error: BaseException) -> None:
        """Tell all readers that nothing more will arrive."""
        said = str(error) if isinstance(error, AcedError) else f"Tars cannot be fetched ({error!r})."
        with self._changed:
            self._failed = True
        self._streamed.fail(said)
        self._watched.stop.set()


class Calls:
    """Tars fetched on demand; use it as a context manager around their readers.

    Args:
        streamed: the tars.
        number: number of each tar there, by its number in the source; None: the same.
        sizes: samples of each tar in the source.
    """

    def __init__(self, streamed: Streamed, number: Sequence[int] | None, sizes: Sequence[int]) -> None:
        self._numbers, self._ends = number, list(itertools.accumulate(sizes))
        self._queue: SimpleQueue[Visit | None] = SimpleQueue()
        self._calls = itertools.count()
        visits: Iterator[Visit] = iter(self._queue.get, None)
        self._fetcher = Fetcher(streamed, visits, first=0, stop=sys.maxsize, known=False)
        self.moved, self.serves, self.done = self._fetcher.moved, self._fetcher.serves, self._fetcher.done

    def __enter__(self) -> Calls:
        self._fetcher.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._queue.put(None)
        self._fetcher.close()

    def call(self, position: int) -> int:
        """Have the tar fetched that holds a position of the source; returns a number for `done`, in ascending order."""
        tar, call = bisect.bisect_right(self._ends, position), next(self._calls)
        self._queue.put(Visit(tar if self._numbers is None else self._numbers[tar], call, call))
        return call


def calls_of(source: Source) -> Calls | None:
    """The fetcher for tars of a source on demand; None if they are already local."""
    streamed, numbers = brought_of(source.places)
    return Calls(streamed, numbers, source.part_sizes) if streamed is not None else None


class _Ready:
    """When each step had all its tars; queried in ascending order of steps.

    Args:
        first: the first step.
    """

    def __init__(self, first: int) -> None:
        self._coming: deque[tuple[int, _Held]] = deque()  # first step and tar, in the order of the steps
        self._next: int | None = first  # first step of the visit being planned; None: no more visits
        self._moments: deque[tuple[float, float]] = deque()  # (step, time): all steps before it were ready then

    def planned(self, first: int | None) -> None:
        """All visits that begin before step `first` have been added; with None, all visits."""
        self._next = first
        self.look()

    def add(self, first: int, held: _Held) -> None:
        """A tar that is needed from step `first` on."""
        self._coming.append((first, held))

    def look(self) -> None:
        """A tar has arrived, or more are planned."""
        while self._coming and self._coming[0][1].here:
            self._coming.popleft()
        before = self._coming[0][0] if self._coming else float("inf") if self._next is None else self._next
        if not self._moments or self._moments[-1][0] < before:
            self._moments.append((before, time.perf_counter()))

    def when(self, step: int, otherwise: float) -> float:
        """When the tars of a step had arrived."""
        while self._moments and self._moments[0][0] <= step:
            self._moments.popleft()
        return self._moments[0][1] if self._moments else otherwise


def most_at_once(visits: Iterable[Visit], size: Callable[[int], int]) -> int:
    """Maximum number of bytes of the tars that one step needs."""
    needed: list[tuple[int, int]] = []  # heap of (last step, tar)
    until: dict[int, int] = {}
    taken = most = 0
    for visit in visits:
        while needed and needed[0][0] < visit.first:
            last, tar = heapq.heappop(needed)
            if until.get(tar) == last:
                del until[tar]
                taken -= size(tar)
        taken += 0 if visit.tar in until else size(visit.tar)
        until[visit.tar] = max(until.get(visit.tar, -1), visit.last)
        heapq.heappush(needed, (until[visit.tar], visit.tar))
        most = max(most, taken)
    return most


def one_by_one(tars: Iterable[int]) -> Iterator[Visit]:
    """Visits to tars one after the other, one step each."""
    return (Visit(tar, step, step) for step, tar in enumerate(tars))


def fetcher_of(places: Places | None, visits: Iterable[Visit], *, first: int, stop: int) -> Fetcher | None:
    """The fetcher for the tars of a source in the order of some visits; None if they are already local.

    Args:
        places: where the tars are, under the numbers that visits use.
        visits, first, stop: as of `Fetcher`.

    Raises:
        AcedError: as `Fetcher`.
    """
    streamed, visits = _as_brought(places, visits)
    return None if streamed is None else Fetcher(streamed, visits, first=first, stop=stop)


def most_of(places: Places | None, visits: Iterable[Visit]) -> tuple[int, int]:
    """Bytes of tars needed at the same time, in the next two passes, and bytes available for them."""
    streamed, visits = _as_brought(places, visits)
    if streamed is None:
        return 0, 0
    coming = itertools.islice((visit for visit in visits if streamed.is_remote(visit.tar)), 2 * streamed.count)
    return most_at_once(coming, cache(streamed.size)), streamed.limit


def check_room(places: Places | None, visits: Iterable[Visit]) -> None:
    """Raise an AcedError if the tars that some visits need at the same time do not fit into the spool."""
    streamed, _ = _as_brought(places, ())
    if streamed is not None:
        _check(streamed, most_of(places, visits)[0])


def _check(streamed: Streamed, needed: int) -> None:
    if needed > streamed.limit:
        times = needed / max(1, streamed.limit)
        raise AcedError(
            f"The tars that are read at the same time take {needed / GIGABYTE:.3g} GB, and data.spool_gb leaves "
            f"{streamed.limit / GIGABYTE:.3g} GB for them in {streamed.folder}: raise it {times:.3g} times or "
            "more, or lower data.locality or data.streams."
        )


def _as_brought(places: Places | None, visits: Iterable[Visit]) -> tuple[Streamed | None, Iterable[Visit]]:
    """The fetcher of tars, and visits to them under its numbers."""
    streamed, numbers = brought_of(places)
    if numbers is not None:
        moved = (visit._replace(tar=numbers[visit.tar]) for visit in visits)
        visits = (visit for visit in moved if visit.tar >= 0)
    return streamed, visits
