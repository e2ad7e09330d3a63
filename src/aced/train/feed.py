"""The way of the candidates into the loop: order, source and worker processes, with faults counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from aced.data.order import Order
from aced.data.source import Candidates, Fault, Source
from aced.data.views import View
from aced.errors import AcedError


@dataclass
class Faults:
    """The unreadable samples of a run: how many of each sort, with the first as an example; each key counts once."""

    max_share: float
    total: int
    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, Fault] = field(default_factory=dict)
    keys: set[str] = field(default_factory=set)
    read: int = 0

    def note(self, faults: Sequence[Fault]) -> None:
        """Count what is known before anything is read, such as the damage found in tars; no limit applies."""
        for fault in faults:
            self.counts[fault.name] += 1
            self.examples.setdefault(fault.name, fault)

    def add(self, faults: Sequence[Fault], read: int) -> None:
        """Count the faults of one super-batch of `read` samples.

        Raises:
            AcedError: more than `max_share` of the samples read (of 200 at least) are unreadable.
        """
        self.read = min(self.total, self.read + read)
        for fault in faults:
            if fault.key not in self.keys:
                self.keys.add(fault.key)
                self.counts[fault.name] += 1
                self.examples.setdefault(fault.name, fault)
        if len(self.keys) > self.max_share * max(self.read, 200):
            worst = self.counts.most_common(1)[0][0]
            raise AcedError(
                f"{len(self.keys)} of {self.read} samples could not be read, more than data.max_bad_share = "
                f"{self.max_share:g} allows; the commonest fault is '{worst}', for example in "
                f"{self.examples[worst].key}: {self.examples[worst].detail}"
            )


class _Batches(Dataset[Candidates]):
    """A map from a list of indices to candidates, which a DataLoader can run in worker processes."""

    def __init__(self, source: Source, views: Sequence[View]) -> None:
        self.source, self.views = source, views

    def __getitem__(self, indices: Tensor) -> Candidates:
        return self.source.read(indices.tolist(), self.views)


class _Steps(Sampler[Tensor]):
    def __init__(self, order: Order, start: int, stop: int) -> None:
        self.order, self.start, self.stop = order, start, stop

    def __iter__(self) -> Iterator[Tensor]:
        return (self.order.indices(step) for step in range(self.start, self.stop))

    def __len__(self) -> int:
        return self.stop - self.start


def feed(
    source: Source, order: Order, views: Sequence[View], *, start: int, stop: int, workers: int
) -> Iterator[Candidates]:
    """The candidates of steps `start` to `stop - 1`, loaded ahead by `workers` processes (0: in this one)."""
    return iter(
        DataLoader(
            _Batches(source, views),
            sampler=_Steps(order, start, stop),
            batch_size=None,
            num_workers=workers,
            prefetch_factor=2 if workers else None,
        )
    )
