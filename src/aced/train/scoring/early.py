"""Selection before loading by a cached reference: only the pairs that it keeps are read and decoded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from aced.pool.loader.filling import Fill
from aced.pool.loader.loading import Loading
from aced.pool.orders.order import Orders
from aced.pool.orders.plan import Plans
from aced.pool.source import Candidates, Source
from aced.pool.views import View
from aced.runs.ledger import Ledger
from aced.runtime.devices import Readout
from aced.train.feed import feed
from aced.train.providers import Cached
from aced.train.scoring.cascade import Sieve


class _Unread(Source):
    """A source that is never read: for its samples only the cache is queried."""

    name, fingerprint = "the super-batches", ""

    def __init__(self, n: int) -> None:
        self._n = n

    def __len__(self) -> int:
        return self._n

    def read(self, indices: Sequence[int], views: Sequence[View]) -> Candidates:
        """Positions alone."""
        return Candidates(torch.tensor(indices, dtype=torch.int64), [""] * len(indices), {})


class _Kept(NamedTuple):
    """The kept part of a super-batch: its positions, and how many of them each rank has looked up."""

    positions: Tensor
    parts: list[int]


class _Drawn(NamedTuple):
    """A draw that a GPU may not have finished yet: all positions, each rank's number of lookups, and the rows kept."""

    positions: Tensor
    counts: list[int]
    rows: Readout


class SievedOrder(Orders):
    """An order that loads, at each step, only the pairs that the sieve keeps.

    Separate loading processes look up the sieve's inputs ahead; the main process only draws. With several processes,
    each looks up its part of a super-batch and they draw together: a loader queries its order in the main process, at
    the same steps in all of them. They load the kept pairs in equal parts; but if each reads its own tars, each loads
    the kept pairs of its part.

    Args:
        order: the super-batches.
        sieve: keeps a part of each.
        reference: the reference whose cached embeddings decide.
        stop: the step before which the run ends.
        loading: the processes that read the kept pairs; at most a quarter as many look up embeddings.
    """

    def __init__(self, order: Orders, sieve: Sieve, reference: Cached, stop: int, loading: Loading) -> None:
        self.n, self.batch, self.seed, self.steps_per_epoch = order.n, order.batch, order.seed, order.steps_per_epoch
        self.uneven = isinstance(order, Plans) and sieve.world.size > 1
        self._order, self._sieve, self._reference = order, sieve, reference
        self._stop, self._loading = stop, loading
        self._found: Iterator[Candidates] = iter(())
        self._next, self._sieved = -1, _Kept(torch.empty(0, dtype=torch.int64), [])
        self._coming: _Drawn | None = None

    def indices(self, step: int) -> Tensor:
        """`[m]` int64 positions in the source, in the order of the super-batch."""
        return self._kept(step).positions

    def epochs(self, step: int) -> Tensor:
        """As in `Orders`, for the kept pairs."""
        return torch.full_like(self.indices(step), self.epoch_of(step))

    def parts(self, step: int, world: int) -> list[int]:
        """As in `Orders`, for the kept pairs."""
        kept = self._kept(step)
        return kept.parts if self.uneven else [len(part) for part in kept.positions.tensor_split(world)]

    def _kept(self, step: int) -> _Kept:
        """The kept part of a step; the latest one is remembered."""
        if step != self._next - 1:
            if step != self._next:
                self._found, self._coming = self._looked_up(step), None
            drawn, self._coming = self._coming or self._drawn(step), None
            # A GPU draws a step ahead, so that nothing waits for work queued before the draw.
            if self._reference.device.type == "cuda" and step + 1 < self._stop:
                self._coming = self._drawn(step + 1)
            self._sieved, self._next = _kept_of(drawn), step + 1
        return self._sieved

    def _drawn(self, step: int) -> _Drawn:
        world, own = self._sieve.world, next(self._found)
        found = world.lists(own.indices, -(-self.batch // world.size))
        counts = [len(part) for part in found]
        rows = self._sieve.keep(self._reference.looked_up(own), step, counts)
        return _Drawn(torch.cat(found), counts, Readout(rows))

    def _looked_up(self, step: int) -> Iterator[Candidates]:
        """The cache's embeddings of this process's part of the super-batches from a step on."""
        world, loading = self._sieve.world, self._loading
        return feed(
            Fill(_Unread(self.n), [], self._reference.columns),
            self._order,
            range(step, self._stop),
            loading._replace(workers=-(-loading.workers // 4)),
            part=(world.rank, world.size),
        )


def _kept_of(drawn: _Drawn) -> _Kept:
    rows = drawn.rows.read()
    ends = torch.searchsorted(rows, torch.tensor(drawn.counts).cumsum(0)).tolist()
    return _Kept(drawn.positions[rows], [end - start for start, end in pairwise([0, *ends])])


@dataclass(frozen=True)
class Early:
    """A sieve that thins each super-batch before it is loaded.

    Attributes:
        sieve: keeps a part of each super-batch.
        reference: the reference whose cached embeddings decide.
        super_batch: B.
        again: whether the loaded pairs are looked up (and so counted) once more, to select or to distil.
    """

    sieve: Sieve
    reference: Cached
    super_batch: int
    again: bool

    def order(self, order: Orders, stop: int, loading: Loading) -> Orders:
        """The order that loads the kept pairs, with these loading processes, up to this step."""
        return SievedOrder(order, self.sieve, self.reference, stop, loading)

    def count(self, ledger: Ledger, loaded: int) -> None:
        """Count one super-batch with `loaded` pairs in this process: the sieve itself had no ledger."""
        own = self.super_batch // self.sieve.world.size
        self.sieve.count(ledger, own, self.super_batch, self.reference.width)
        ledger.cached_flops += (own - (loaded if self.again else 0)) * self.reference.forward_flops
