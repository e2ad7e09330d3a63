"""The way of the candidates into the loop: order, source and worker processes, with faults counted."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from aced.config import Config
from aced.data.faults import HARMLESS
from aced.data.loading import PATIENCE, load
from aced.data.losttars import LOST
from aced.data.manyviews import ViewedOrder
from aced.data.mixture import Mixture
from aced.data.order import Order, Orders
from aced.data.source import Candidates, Fault, Source
from aced.data.views import View, image_bytes
from aced.errors import AcedError
from aced.train.limit import allowed, beyond
from aced.train.pace import Invalid, invalid


@dataclass
class Faults:
    """The unusable samples of a run: how many of each sort, with the first as an example; each key counts once.

    Attributes:
        max_share: largest share of unreadable samples in the pool.
        total: samples of the source.
        counts: samples by name of the fault.
        examples: the first of each name.
        keys: of the samples that could not be read.
        read: samples that were read, each counted once.
    """

    max_share: float
    total: int
    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, Fault] = field(default_factory=dict)
    keys: set[str] = field(default_factory=set)
    read: int = 0
    _kept: deque[tuple[int, Counter[str], dict[str, Fault], list[str]]] = field(
        default_factory=lambda: deque(maxlen=2), repr=False, compare=False
    )

    def note(self, faults: Iterable[Fault]) -> None:
        """Count what is known before anything is read, such as the damage found in tars; no limit applies."""
        for fault in faults:
            self._count(fault)

    def add(self, faults: Sequence[Fault], read: int, odd: Sequence[Fault] = ()) -> None:
        """Count the faults of one super-batch of `read` samples, and what is odd about the others.

        Oddities are counted as long as no more samples were read than there are, so in the first epoch.

        Raises:
            AcedError: more than `max_share` of the samples (of 200 at least) are unreadable, as far as those that
                were read tell beyond chance; those of lost tars do not count on either side.
        """
        if self.read + read <= self.total:
            self.note(odd)
        self.read = min(self.total, self.read + read)
        for fault in faults:
            if fault.key not in self.keys:
                self.keys.add(fault.key)
                if self._kept:
                    self._kept[-1][3].append(fault.key)
                self._count(fault)
        lost = sum(self.counts[name] for name in LOST)
        bad, seen = len(self.keys) - lost, self.read - lost
        if faults and beyond(bad, seen, allowed(self.max_share, self.total), self.total):
            worst = Counter(fault.name for fault in faults).most_common(1)[0][0]
            raise AcedError(
                f"{len(self.keys)} of {self.read} samples could not be read, more than data.max_bad_share = "
                f"{self.max_share:g} allows; for example {worst}: {self.examples[worst].detail}"
            )

    def keep(self) -> None:
        """Remember the counts as they are, and those at the `keep` before."""
        self._kept.append((self.read, Counter(self.counts), dict(self.examples), []))

    def back(self) -> None:
        """Go back to what was there at the last `keep`, and called again to what was there at the one before."""
        self.read, self.counts, self.examples, new = self._kept.pop()
        self.keys.difference_update(new)

    def commonest(self) -> str:
        """`; for example NAME: sentence` of the commonest fault so far, or nothing."""
        lost = [(count, name) for name, count in self.counts.items() if name not in HARMLESS]
        return f"; for example {max(lost)[1]}: {self.examples[max(lost)[1]].detail.rstrip('.')}" if lost else ""

    def samples(self) -> dict[str, int]:
        """How many samples there are, how many of them were read, and how many of these could not be used."""
        return {"total": self.total, "read": self.read, "unreadable": len(self.keys)}

    def invalid(self) -> Invalid:
        """The share of samples that cannot be used, as far as is known, and the commonest reason."""
        return invalid(self.counts, **self.samples())

    def _count(self, fault: Fault) -> None:
        self.counts[fault.name] += fault.count
        self.examples.setdefault(fault.name, fault)


def make_order(config: Config, n: int, mixture: Sequence[int] = ()) -> Orders:
    """The order of training over `n` samples.

    Args:
        config: seed, sizes, and weights where there are several sources.
        n: number of samples.
        mixture: samples of each source, where the config has weights.

    Raises:
        AcedError: the super-batch is larger than the data.
    """
    size, train = config.super_batch, config.train
    if config.data.weights and config.data.shards:
        return Mixture(mixture, config.data.weights, size, config.run.seed)
    if size > n:
        what = f"The batch of {size} (train.batch)"
        remedy = "train.batch"
        if size > train.batch:
            what = f"The super-batch of {size} (train.batch {train.batch} / (1 - method.filtering_ratio))"
            remedy = "train.batch or method.filtering_ratio"
        raise AcedError(f"{what} is larger than the data ({n} samples): lower {remedy}, or add data.")
    if config.data.views > 1:
        return ViewedOrder(n, size, config.run.seed, config.data.views)
    return Order(n, size, config.run.seed)


@dataclass(frozen=True)
class _Read:
    """From drawn positions and epochs to candidates, in a process that loads data."""

    source: Source
    views: Sequence[View]

    def __call__(self, drawn: tuple[Tensor, Tensor]) -> Candidates:
        indices, epochs = drawn
        if getattr(self.source, "captions_vary", False):
            return self.source.read(indices.tolist(), self.views, epochs.tolist())  # type: ignore[call-arg]
        return self.source.read(indices.tolist(), self.views)


def _steps(order: Orders, start: int, stop: int, part: tuple[int, int]) -> Iterator[tuple[Tensor, Tensor]]:
    rank, ranks = part
    for step in range(start, stop):
        indices, epochs = order.indices(step), order.epochs(step)
        yield indices.tensor_split(ranks)[rank], epochs.tensor_split(ranks)[rank]


def feed(
    source: Source,
    order: Orders,
    views: Sequence[View],
    *,
    start: int,
    stop: int,
    workers: int,
    part: tuple[int, int] = (0, 1),
    patience: float = PATIENCE,
) -> Iterator[Candidates]:
    """The candidates of steps `start` to `stop - 1`, loaded ahead by `workers` processes (0: in this one).

    Of each super-batch it is part `part[0]` of `part[1]` equal ones: the super-batches are the same however many
    processes share them. The iterator raises an AcedError where the source does.

    Raises:
        AcedError: as `aced.data.loading.load`, which says what `patience` is.
    """
    rows = len(order.indices(start).tensor_split(part[1])[part[0]]) if workers and start < stop else 0
    return load(
        _Read(source, views),
        _steps(order, start, stop, part),
        count=max(0, stop - start),
        workers=workers,
        item=rows * image_bytes(views),
        patience=patience,
    )
