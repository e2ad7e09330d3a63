"""What a cached reference decides alone, decided before loading: only what it keeps is read and decoded."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from aced.core.ledger import Ledger
from aced.data.order import Orders
from aced.data.plan import Plans
from aced.train.providers import Cached
from aced.train.scoring.cascade import Sieve

_AT_ONCE = 8192
"""Candidates whose super-batches are sieved together in one process: one large super-batch, or many small ones."""


class _Kept(NamedTuple):
    """What is kept of a super-batch: its positions, and how many of them each rank has looked up."""

    positions: Tensor
    parts: list[int]


class SievedOrder(Orders):
    """An order of which, at each step, only what the sieve keeps is loaded.

    Steps are sieved in groups that begin at fixed steps, so that a resumed run has the same groups. Of several
    processes each looks up its part of a super-batch, and they draw together: a loader asks for its order in the main
    process, at the same steps in all of them. What is kept they load in equal parts; but where each reads tars of its
    own, each loads what was kept of its part.
    """

    def __init__(self, order: Orders, sieve: Sieve, reference: Cached) -> None:
        self.n, self.batch, self.seed, self.steps_per_epoch = order.n, order.batch, order.seed, order.steps_per_epoch
        self.uneven = isinstance(order, Plans) and sieve.world.size > 1
        self._order, self._sieve, self._reference = order, sieve, reference
        self._group = max(1, _AT_ONCE // order.batch) if sieve.world.size == 1 else 1
        self._sieved: tuple[int, list[_Kept]] = (-1, [])

    def indices(self, step: int) -> Tensor:
        """`[m]` int64 positions in the source, in the order of the super-batch."""
        return self._kept(step).positions

    def epochs(self, step: int) -> Tensor:
        """As in `Orders`, of what is kept."""
        return torch.full_like(self.indices(step), self.epoch_of(step))

    def parts(self, step: int, world: int) -> list[int]:
        """As in `Orders`, of what is kept."""
        kept = self._kept(step)
        return kept.parts if self.uneven else [len(part) for part in kept.positions.tensor_split(world)]

    def _kept(self, step: int) -> _Kept:
        number, place = divmod(step, self._group)
        if self._sieved[0] != number:
            self._sieved = number, self._sieve_group(number * self._group)
        return self._sieved[1][place]

    def _sieve_group(self, first: int) -> list[_Kept]:
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
            ends = torch.searchsorted(rows, torch.tensor(counts).cumsum(0)).tolist()
            kept.append(_Kept(torch.cat(all_found)[rows], [b - a for a, b in pairwise([0, *ends])]))
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
