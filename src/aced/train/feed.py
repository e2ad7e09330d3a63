"""The way of the candidates into the loop: order, source and worker processes, with faults counted."""

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
    """The unusable samples of a run: how many of each sort, with the first as an example; each key counts once.

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
        """Count what is known before anything is read, such as the damage found in tars; no limit applies."""
        for fault in faults:
            self._count(fault)

    @property
    def counts_notes(self) -> bool:
        """Whether oddities may still be counted."""
        return self.read < self.total

    def is_new(self, fault: Fault) -> bool:
        """Whether a sample that could not be read was not met before."""
        return self.met.is_new(fault.key, first=self.counts_notes)

    def add(self, faults: Sequence[Fault], read: int, odd: Sequence[Fault] = (), *, met: int = 0) -> None:
        """Count the faults of one super-batch of `read` samples, and what is odd about the others.

        Oddities are counted as long as no more samples were read than there are, so in the first epoch.

        Args:
            faults: of samples that could not be used; those that were met before may be left out.
            read: how many samples were read.
            odd: what is odd.
            met: how many of them could not be used, those that were met before too.

        Raises:
            AcedError: more than `max_share` of the samples (of 200 at least) are unreadable, as far as those that
                were read tell beyond chance; those of lost tars do not count on either side.
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
        """Remember the counts as they are, and those at the `keep` before."""
        self._kept.append((self.read, Counter(self.counts), dict(self.examples), self.met.count, []))

    def back(self) -> None:
        """Go back to what was there at the last `keep`, and called again to what was there at the one before."""
        self.read, self.counts, self.examples, count, new = self._kept.pop()
        self.met.forget(count, new)

    def commonest(self) -> str:
        """`; for example NAME: sentence` of the commonest fault so far, or nothing."""
        lost = [(count, name) for name, count in self.counts.items() if name not in HARMLESS]
        return f"; for example {max(lost)[1]}: {self.examples[max(lost)[1]].detail.rstrip('.')}" if lost else ""

    def samples(self) -> dict[str, int]:
        """How many samples there are, how many of them were read, and how many of these could not be used."""
        return {"total": self.total, "read": self.read, "unreadable": self.met.count}

    def invalid(self) -> Invalid:
        """The share of samples that cannot be used, as far as is known, and the commonest reason."""
        return invalid(self.counts, **self.samples())

    def _count(self, fault: Fault) -> None:
        self.counts[fault.name] += fault.count
        self.examples.setdefault(fault.name, fault)


_CHUNK, _CHUNK_BYTES, _LEAST = 256, 20 << 20, 64
"""Fewest rows of a chunk, unless a batch has fewer: as many as make handing them over cheap beside reading them.

Of large pairs fewer, about so many bytes, but not below `_LEAST`: what is under way is counted in chunks.
"""


class Chunks(NamedTuple):
    """How a batch is cut: how many chunks, and the rows of the largest."""

    number: int
    rows: int


def fewest_rows(views: Sequence[View], columns: Sequence[Column]) -> int:
    """Fewest rows of a chunk of pairs of which this is loaded."""
    return min(_CHUNK, max(_LEAST, _CHUNK_BYTES // max(1, _pair_bytes(views, columns))))


def chunks_of(rows: int, fewest: int) -> Chunks:
    """The chunks of one process's part of a batch, of `fewest` rows or more, where other processes load it."""
    number = max(1, rows // fewest)
    return Chunks(number, -(-rows // number))


def chunk_bytes(rows: int, views: Sequence[View], columns: Sequence[Column]) -> int:
    """Bytes of the largest chunk that loading processes hand over.

    Args:
        rows: one process's part of a batch.
        views, columns: what is loaded of each pair; what is named twice is loaded once.
    """
    return chunks_of(rows, fewest_rows(views, columns)).rows * _pair_bytes(views, columns)


def _pair_bytes(views: Sequence[View], columns: Sequence[Column]) -> int:
    return image_bytes(list(dict.fromkeys(views))) + sum(column.nbytes for column in distinct(columns))


def distinct(columns: Sequence[Column]) -> list[Column]:
    """Columns without those that are named twice."""
    return list({column.name: column for column in columns}.values())


class _Plan(Iterable[FillJob]):
    """One process's part of each step, in chunks of about equal size where other processes load it.

    Attributes:
        sizes: of the steps whose first job was asked for.
        rows: this process's part of the first batch, at most.
        count: of the chunks, or more.
    """

    def __init__(self, order: Orders, steps: range, part: tuple[int, int], *, fewest: int) -> None:
        self._order, self._steps, self._part, self._fewest = order, steps, part, fewest
        self.sizes: deque[Size] = deque()
        most = -(-order.batch // part[1])
        self.count = len(steps) * (chunks_of(most, fewest).number if fewest else 1)
        # What is decided before loading makes a batch smaller; and with uneven parts a chunk may be of any size.
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
    """The candidates of some steps, loaded ahead by other processes where `loading` has any.

    Of each super-batch it is part `part[0]` of `part[1]` equal ones: the super-batches are the same however many
    processes share them. The iterator raises an AcedError where the source or a column does.

    Args:
        fill: where pairs are read, in which views, and what else is loaded of each (a column that is named twice is
            loaded once).
        order: which pairs.
        steps: their numbers, one after the other.
        loading: by whom.
        part: of each super-batch.
        device: where the candidates are wanted; a GPU is sent each batch one step ahead.
        fetcher: brings the tars, and is told of each step when its pairs have been read.

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
    """Gives the next batch, in the memory that it is given; None at the end."""

    def __call__(self, place: Place | None = None) -> Candidates | None: ...


def _followed(take: _Take, fetcher: Fetcher, start: int) -> _Take:
    """Batches from step `start` on, of each of which a fetcher is told."""
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
        del batch  # the next one is made when nobody needs this one any more
