"""What a cached reference decides alone, decided before loading: only what it keeps is read and decoded."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from aced.core.ledger import Ledger
from aced.data.order import Order, Orders
from aced.train.providers import Cached
from aced.train.scoring.cascade import Sieve

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
        world, sieve, steps = self._sieve.world, self._sieve, range(first, first + self._group)
        found = [self._order.indices(step).tensor_split(world.size)[world.rank] for step in steps]
        found = [indices[self._reference.store.valid(indices)] for indices in found]
        embedded = self._reference.store.lookup(torch.cat(found)).to(self._reference.device)
        kept, end = [], 0
        for step, indices in zip(steps, found, strict=True):
            end += len(indices)
            all_found = world.lists(indices, -(-self._order.batch // world.size))
            counts = [len(part) for part in all_found]
            rows = sieve.keep(embedded[end - len(indices) : end], step, counts).cpu()
            kept.append(torch.cat(all_found)[rows])
        return kept


@dataclass(frozen=True)
class Early:
    """A sieve that thins each super-batch before it is loaded.

    Attributes:
        sieve: keeps a part of each super-batch.
        reference: whose cached embeddings it keeps it by.
        super_batch: B.
        again: whether what was loaded is looked up (and so counted) once more, to choose or to distil.
    """

    sieve: Sieve
    reference: Cached
    super_batch: int
    again: bool

    def order(self, order: Orders) -> Orders:
        """The order in which what is kept is loaded."""
        return SievedOrder(order, self.sieve, self.reference)

    def count(self, ledger: Ledger, loaded: int) -> None:
        """Count one super-batch, of which this process has `loaded`: the sieve ran where there is no ledger."""
        own = self.super_batch // self.sieve.world.size
        self.sieve.count(ledger, own, self.super_batch, self.reference.width)
        ledger.cached_flops += (own - (loaded if self.again else 0)) * self.reference.forward_flops
