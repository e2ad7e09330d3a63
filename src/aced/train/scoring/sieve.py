"""What a cached reference decides alone, decided before loading: only what it keeps is read and decoded."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from aced.data.order import Order, Orders
from aced.data.source import Candidates
from aced.train.providers import Cached
from aced.train.scoring.cascade import Sieve
from aced.train.scoring.choosing import Around, Choice, Chooser

if TYPE_CHECKING:
    from aced.train.step import Trainer


_AT_ONCE = 8192
"""Candidates whose super-batches are sieved together in one process: one large super-batch, or many small ones."""


class SievedOrder(Order):
    """An order of which, at each step, only what the sieve keeps is loaded.

    Steps are sieved in groups that begin at fixed steps, so that a resumed run has the same groups. Of several
    processes each looks up its part of a super-batch, and they draw together: a loader asks for its order in the main
    process, at the same steps in all of them.
    """

    def __init__(self, order: Orders, sieve: Sieve, reference: Cached) -> None:
        super().__init__(order.n, order.batch, order.seed)
        self.steps_per_epoch = order.steps_per_epoch
        self._order, self._sieve, self._reference = order, sieve, reference
        self._group = max(1, _AT_ONCE // order.batch) if sieve.world.size == 1 else 1
        self._kept: tuple[int, list[Tensor]] = (-1, [])

    def indices(self, step: int) -> Tensor:
        """`[m]` int64 positions in the source, in the order of the super-batch."""
        number, place = divmod(step, self._group)
        if self._kept[0] != number:
            self._kept = number, self._sieved(number * self._group)
        return self._kept[1][place]

    def epochs(self, step: int) -> Tensor:
        """As in `Order`, of what is kept."""
        return torch.full_like(self.indices(step), self.epoch_of(step))

    def _sieved(self, first: int) -> list[Tensor]:
        """What is kept of each step of the group that begins at `first`."""
        world, steps = self._sieve.world, range(first, first + self._group)
        found = [self._order.indices(step).tensor_split(world.size)[world.rank] for step in steps]
        found = [indices[self._reference.store.valid(indices)] for indices in found]
        embedded = self._reference.store.lookup(torch.cat(found)).to(self._reference.device)
        kept = self._sieve.keep_each(embedded, [len(indices) for indices in found], first)
        found = [world.gather(indices, world.counts(len(indices))) for indices in found]
        return [indices[rows] for indices, rows in zip(found, kept, strict=True)]


class Presieved(Around):
    """Another chooser, on candidates that a sieve has thinned before they were loaded.

    Args:
        sieve: keeps a part of each super-batch.
        reference: whose cached embeddings it keeps it by.
        inner: chooses among what was loaded.
        super_batch: B.
        again: whether what was loaded is looked up (and so counted) once more, to choose or to distil.
    """

    def __init__(self, sieve: Sieve, reference: Cached, inner: Chooser, super_batch: int, *, again: bool) -> None:
        self.sieve, self.reference, self.inner, self.super_batch, self.again = (
            sieve,
            reference,
            inner,
            super_batch,
            again,
        )

    def order(self, order: Orders) -> Orders:
        """As in the contract."""
        return SievedOrder(order, self.sieve, self.reference)

    def choose(self, t: Trainer, candidates: Candidates) -> Choice:
        """As in the contract; scores are of the candidates that were loaded."""
        # The sieve ran while loading, where there is no ledger.
        own = self.super_batch // t.world.size
        self.sieve.count(t.ledger, own, self.super_batch, self.reference.width)
        looked_up = own - (len(candidates) if self.again else 0)
        t.ledger.cached_flops += looked_up * self.reference.forward_flops
        return self.inner.choose(t, candidates)
