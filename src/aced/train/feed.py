"""The supply of candidates: order, source and worker processes, with faults counted."""

from __future__ import annotations

import itertools
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import NamedTuple, Protocol

import torch

from aced.errors import AcedError
from aced.pool.faults import HARMLESS
from aced.pool.fetch.fetching import Fetcher
from aced.pool.loader.assembly import Place, Size, assembled
from aced.pool.loader.filling import Fill, FillJob
from aced.pool.loader.loading import Loading, load
from aced.pool.loader.sending import CudaLine, Sent
from aced.pool.orders.order import Orders
from aced.pool.source import Candidates, Column, Fault
from aced.pool.tars.losttars import LOST
from aced.pool.views import View, image_bytes
from aced.runs.pace import Invalid, invalid
from aced.train.limit import allowed, beyond
from aced.train.met import Met


@dataclass
class Faults:
    """The unusable samples of a run: counts by kind, with the first as an example; each key counts once.

    Attributes:
        max_share: largest share of unreadable samples in the pool.
        total: samples of the source.
        counts: samples by name of the fault.
        examples: the first of each name.
        met: the samples that could not be read.
        read: samples that were read, each counted once.
    """

    max_share: float
    total: int
    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, Fault] = field(default_factory=dict)
    met: Met = field(default_factory=Met)
    read: int = 0
    _kept: deque[tuple[int, Counter[str], dict[str, Fault], int, list[int]]] = field(
        default_factory=lambda: deque(maxlen=2), repr=False, compare=False
    )

    def note(self, faults: Iterable[Fault]) -> None:
        """Count what is known before reading, such as damage found in tars; no limit applies."""
        for fault in faults:
            self._count(fault)

    @property
    def counts_notes(self) -> bool:
        """Whether notes may still be counted."""
        return self.read < self.total

    def is_new(self, fault: Fault) -> bool:
        """Whether an unreadable sample is new."""
        return self.met.is_new(fault.key, first=self.counts_notes)

    def add(self, faults: Sequence[Fault], read: int, odd: Sequence[Fault] = (), *, met: int = 0) -> None:
        """Count the faults of one super-batch of `read` samples, and the notes on the others.

        Notes are counted until as many samples have been read as there are, so in the first epoch.

        Args:
            faults: of samples that could not be used; earlier ones may be left out.
            read: number of samples read.
            odd: notes on the others.
            met: number of unusable samples, earlier ones included.

        Raises:
            AcedError: more than `max_share` of the samples (of 200 at least) are unreadable, judging beyond chance by
                those read; samples of lost tars do not count on either side.
        """
        if self.read + read <= self.total:
            self.note(odd)
        first = self.counts_notes
        self.read = min(self.total, self.read + read)
        for fault in faults:
            if self.met.is_new(fault.key, first=first):
                remembered = self.met.add(fault.key)
                if self._kept and remembered is not None:
                    self._kept[-1][-1].append(remembered)
                self._count(fault)
        lost = sum(self.counts[name] for name in LOST)
        bad, seen = self.met.count - lost, self.read - lost
        if (faults or met) and beyond(bad, seen, allowed(self.max_share, self.total), self.total):
            names = Counter(fault.name for fault in faults)
            names = names or Counter({name: n for name, n in self.counts.items() if name not in HARMLESS})
            worst = names.most_common(1)[0][0]
            raise AcedError(
                f"{self.met.count} of {self.read} samples could not be read, more than data.max_bad_share = "
                f"{self.max_share:g} allows; for example {worst}: {self.examples[worst].detail}"
            )

    def keep(self) -> None:
        """Remember the current counts, and those of the previous `keep`."""
        self._kept.append((self.read, Counter(self.counts), dict(self.examples), self.met.count, []))

    def back(self) -> None:
        """Return to the counts of the latest `keep`; a second call returns to those before it."""
        self.read, self.counts, self.examples, count, new = self._kept.pop()
        self.met.forget(count, new)

    def commonest(self) -> str:
        """`; for example NAME: sentence` for the most common fault so far, or nothing."""
        lost = [(count, name) for name, count in self.counts.items() if name not in HARMLESS]
        return f"; for example {max(lost)[1]}: {self.examples[max(lost)[1]].detail.rstrip('.')}" if lost else ""

    def samples(self) -> dict[str, int]:
        """Number of samples, how many were read, and how many of these could not be used."""
        return {"total": self.total, "read": self.read, "unreadable": self.met.count}

    def invalid(self) -> Invalid:
        """The known share of unusable samples, and the most common reason."""
        return invalid(self.counts, **self.samples())

    def _count(self, fault: Fault) -> None:
        self.counts[fault.name] += fault.count
        self.examples.setdefault(fault.name, fault)


_CHUNK, _CHUNK_BYTES, _LEAST = 256, 20 << 20, 64
"""Minimum number of rows in a chunk, unless a batch has fewer: enough to make handing it over cheap beside reading it.

Large pairs come in chunks of about this many bytes, but at least `_LEAST` rows: work in progress is counted in chunks.
"""


class Chunks(NamedTuple):
    """How a batch is cut: number of chunks, and rows of the largest."""

    number: int
    rows: int


def fewest_rows(views: Sequence[View], columns: Sequence[Column]) -> int:
    """Minimum number of rows in a chunk of pairs with this content."""
    return min(_CHUNK, max(_LEAST, _CHUNK_BYTES // max(1, _pair_bytes(views, columns))))


def chunks_of(rows: int, fewest: int) -> Chunks:
    """The chunks of one process's part of a batch, of at least `fewest` rows, if other processes load it."""
    number = max(1, rows // fewest)
    return Chunks(number, -(-rows // number))


def chunk_bytes(rows: int, views: Sequence[View], columns: Sequence[Column]) -> int:
    """Bytes of the largest chunk that loading processes hand over.

    Args:
        rows: one process's part of a batch.
        views, columns: what is loaded of each pair; duplicates are loaded once.
    """
    return chunks_of(rows, fewest_rows(views, columns)).rows * _pair_bytes(views, columns)


def _pair_bytes(views: Sequence[View], columns: Sequence[Column]) -> int:
    return image_bytes(list(dict.fromkeys(views))) + sum(column.nbytes for column in distinct(columns))


def distinct(columns: Sequence[Column]) -> list[Column]:
    """Columns without duplicate names."""
    return list({column.name: column for column in columns}.values())


class _Plan(Iterable[FillJob]):
    """One process's part of each step, in chunks of about equal size if other processes load it.

    Attributes:
        sizes: of the steps whose first job was taken.
        rows: maximum size of this process's part of the first batch.
        count: number of chunks, or more.
    """

    def __init__(self, order: Orders, steps: range, part: tuple[int, int], *, fewest: int) -> None:
        self._order, self._steps, self._part, self._fewest = order, steps, part, fewest
        self.sizes: deque[Size] = deque()
        most = -(-order.batch // part[1])
        self.count = len(steps) * (chunks_of(most, fewest).number if fewest else 1)
        # A decision before loading makes a batch smaller; and with uneven parts a chunk may have any size.
        first = max(order.parts(steps[0], part[1])) if fewest and steps else 0
        self.rows = min(most, 2 * fewest - 1) if order.uneven else first

    def __iter__(self) -> Iterator[FillJob]:
        for step in self._steps:
            rank, ranks = self._part
            parts = self._order.parts(step, ranks)
            indices, epochs = (v.split(parts)[rank] for v in (self._order.indices(step), self._order.epochs(step)))
            # As many as every process has: then all ask for the order of a step at the same time, and may exchange.
            count = chunks_of(max(parts), self._fewest).number if self._fewest else 1
            self.sizes.append(Size(count, len(indices)))
            for pair in zip(indices.tensor_split(count), epochs.tensor_split(count), strict=True):
                yield FillJob(*pair)


def feed(
    fill: Fill,
    order: Orders,
    steps: range,
    loading: Loading = Loading(),
    *,
    part: tuple[int, int] = (0, 1),
    device: torch.device | None = None,
    fetcher: Fetcher | None = None,
) -> Iterator[Candidates]:
    """The candidates of some steps, loaded ahead by other processes if `loading` has any.

    Each is part `part[0]` of `part[1]` equal parts of a super-batch: super-batches do not depend on the number of
    processes. The iterator raises an AcedError if the source or a column does.

    Args:
        fill: where pairs are read, in which views, and what else is loaded of each (duplicate columns are loaded
            once).
        order: the order of the pairs.
        steps: their numbers, in order.
        loading: the loading processes.
        part: of each super-batch.
        device: the candidates' device; a GPU receives each batch one step ahead.
        fetcher: fetches the tars, and is notified when a step's pairs have been read.

    Raises:
        AcedError: as `aced.pool.loader.loading.load`.
    """
    fill = replace(fill, columns=distinct(fill.columns))
    views, columns, workers = fill.views, fill.columns, loading.workers
    plan = _Plan(order, steps, part, fewest=fewest_rows(views, columns) if workers else 0)
    item = chunk_bytes(plan.rows, views, columns)
    helped = fetcher.moved if fetcher is not None else None
    chunks = load(
        *(fill, plan),
        count=plan.count,
        workers=workers,
        item=item,
        patience=loading.patience,
        start=loading.start,
        helped=helped,
    )
    take: _Take = partial(assembled, chunks, plan.sizes)
    if fetcher is not None:
        fetcher.serves(chunks)
        take = _followed(take, fetcher, steps.start)
    if device is None or device.type != "cuda":
        return _batches(take)
    return Sent(take, columns, CudaLine(device))


class _Take(Protocol):
    """Returns the next batch, in the memory that it receives; None at the end."""

    def __call__(self, place: Place | None = None) -> Candidates | None: ...


def _followed(take: _Take, fetcher: Fetcher, start: int) -> _Take:
    """Batches from step `start` on, each reported to a fetcher."""
    steps = itertools.count(start)

    def taken(place: Place | None = None) -> Candidates | None:
        since = time.perf_counter()
        batch = take(place)
        if batch is not None:
            fetcher.took(next(steps), since, time.perf_counter())
        return batch

    return taken


def _batches(take: _Take) -> Iterator[Candidates]:
    while (batch := take()) is not None:
        yield batch
        del batch  # make the next one only when this one is no longer needed
