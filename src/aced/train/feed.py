"""The way of the candidates into the loop: order, source and worker processes, with faults counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from aced.config import Config
from aced.data.faults import HARMLESS
from aced.data.losttars import LOST
from aced.data.manyviews import ViewedOrder
from aced.data.mixture import Mixture
from aced.data.order import Order, Orders
from aced.data.source import Candidates, Fault, Source
from aced.data.views import View
from aced.data.workers import quiet_end
from aced.errors import AcedError
from aced.train.pace import Invalid, invalid


@dataclass
class Faults:
    """The unusable samples of a run: how many of each sort, with the first as an example; each key counts once.

    Attributes:
        max_share: largest share of unreadable samples among those read.
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
    _kept: tuple[int, Counter[str], dict[str, Fault]] = field(
        default_factory=lambda: (0, Counter(), {}), repr=False, compare=False
    )
    _new: list[str] = field(default_factory=list, repr=False, compare=False)

    def note(self, faults: Iterable[Fault]) -> None:
        """Count what is known before anything is read, such as the damage found in tars; no limit applies."""
        for fault in faults:
            self._count(fault)

    def add(self, faults: Sequence[Fault], read: int, odd: Sequence[Fault] = ()) -> None:
        """Count the faults of one super-batch of `read` samples, and what is odd about the others.

        Oddities are counted as long as no more samples were read than there are, so in the first epoch.

        Raises:
            AcedError: more than `max_share` of the samples read (of 200 at least) are unreadable; those of lost tars
                do not count on either side.
        """
        if self.read + read <= self.total:
            self.note(odd)
        self.read = min(self.total, self.read + read)
        for fault in faults:
            if fault.key not in self.keys:
                self.keys.add(fault.key)
                self._new.append(fault.key)
                self._count(fault)
        lost = sum(self.counts[name] for name in LOST)
        if faults and len(self.keys) - lost > self.max_share * max(self.read - lost, 200):
            worst = Counter(fault.name for fault in faults).most_common(1)[0][0]
            raise AcedError(
                f"{len(self.keys)} of {self.read} samples could not be read, more than data.max_bad_share = "
                f"{self.max_share:g} allows; for example {worst}: {self.examples[worst].detail}"
            )

    def keep(self) -> None:
        """Remember the counts until `back` or the next `keep`."""
        self._kept = self.read, Counter(self.counts), dict(self.examples)
        self._new.clear()

    def back(self) -> None:
        """Go back to what was there at `keep`."""
        self.read, self.counts, self.examples = self._kept
        self.keys.difference_update(self._new)
        self.keep()

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


class _Batches(Dataset["Candidates | AcedError"]):
    """A map from a list of indices to candidates, which a DataLoader can run in worker processes."""

    def __init__(self, source: Source, views: Sequence[View]) -> None:
        self.source, self.views = source, views
        self.captions_vary = bool(getattr(source, "captions_vary", False))

    def __getitem__(self, drawn: tuple[Tensor, Tensor]) -> Candidates | AcedError:
        indices, epochs = drawn
        try:
            if self.captions_vary:
                return self.source.read(indices.tolist(), self.views, epochs.tolist())  # type: ignore[call-arg]
            return self.source.read(indices.tolist(), self.views)
        except AcedError as error:
            # A loader would wrap a worker's exception into a page of traceback; a value stays as it is.
            return error


class _Steps(Sampler[tuple[Tensor, Tensor]]):
    def __init__(self, order: Orders, start: int, stop: int, part: tuple[int, int]) -> None:
        self.order, self.start, self.stop, self.part = order, start, stop, part

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        rank, ranks = self.part
        for step in range(self.start, self.stop):
            indices, epochs = self.order.indices(step), self.order.epochs(step)
            yield indices.tensor_split(ranks)[rank], epochs.tensor_split(ranks)[rank]

    def __len__(self) -> int:
        return self.stop - self.start


def feed(
    source: Source,
    order: Orders,
    views: Sequence[View],
    *,
    start: int,
    stop: int,
    workers: int,
    part: tuple[int, int] = (0, 1),
) -> Iterator[Candidates]:
    """The candidates of steps `start` to `stop - 1`, loaded ahead by `workers` processes (0: in this one).

    Of each super-batch it is part `part[0]` of `part[1]` equal ones: the super-batches are the same however many
    processes share them.

    The iterator raises an AcedError where the source does, in a worker too, and where a worker dies.
    """
    loader = DataLoader(
        _Batches(source, views),
        sampler=_Steps(order, start, stop, part),
        batch_size=None,
        num_workers=workers,
        prefetch_factor=2 if workers else None,
        worker_init_fn=quiet_end,
        # Its own generator, because a loader draws a seed, and the global one belongs to the user.
        generator=torch.Generator(),
    )
    return _checked(iter(loader))


def _checked(loaded: Iterator[Candidates | AcedError]) -> Iterator[Candidates]:
    try:
        for content in loaded:
            if isinstance(content, AcedError):
                raise content
            yield content
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise AcedError(
            f"A process that loads data died ({str(error).splitlines()[0]}); with too little memory, lower "
            "data.workers."
        ) from error
