"""Which rank trains on which of the chosen pairs, and how their inputs get there.

A super-batch lies spread over the ranks: rank r's candidates follow those of rank r - 1. "Row" means a row of the
whole, and is one of the only process's candidates where there is but one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from aced.core.embeddings import Embeddings
from aced.core.selection import shares_of
from aced.core.selection_ranks import Scope
from aced.core.shares import Share
from aced.data.source import Candidates, Fault
from aced.train.distributed import World


@dataclass(frozen=True)
class Dealt:
    """Chosen rows and who has them.

    Attributes:
        rows: `[b]` rows, those that rank 0 trains on first and so on.
        owners: `[b]` the rank that loaded each.
        takers: `[b]` the rank that trains on it, ascending.
        places: `[b]` the place of each among the rows as they were chosen.
    """

    rows: Tensor
    owners: Tensor
    takers: Tensor
    places: Tensor


class Pool:
    """A super-batch as this rank sees it.

    Attributes:
        own: this rank's candidates.
        counts: the number of every rank's.
        positions: `[B]` positions in the source of all.
    """

    def __init__(self, own: Candidates, world: World, scope: Scope) -> None:
        self.own, self.world, self.scope = own, world, scope
        self.counts = world.counts(len(own))
        self.positions = world.gather(own.indices, self.counts)
        self._ends = torch.tensor(self.counts).cumsum(0)
        self._start = sum(self.counts[: world.rank])

    def __len__(self) -> int:
        return sum(self.counts)

    def draw(self, size: int, generator: torch.Generator) -> Tensor:
        """`[size]` rows at random, an i.i.d. batch; unless the scope is global, as many of each rank as it can have."""
        rows = torch.randperm(len(self), generator=generator)
        if self.world.size == 1 or self.scope == "global":
            return rows[:size]
        owners = self._owners(rows)
        shares = enumerate(shares_of(size, self.world.size))
        return torch.cat([rows[owners == rank][:share] for rank, share in shares])

    def deal(self, rows: Tensor) -> Dealt:
        """Share out chosen rows: evenly with the global scope, else each stays where it was loaded."""
        owners = self._owners(rows)
        takers = owners.clone()
        if self.scope == "global" and self.world.size > 1:
            shares, surplus, gaps = shares_of(len(rows), self.world.size), [], []
            for rank, share in enumerate(shares):
                mine = (owners == rank).nonzero().flatten()
                surplus.append(mine[share:])
                gaps.append(max(0, share - len(mine)))
            takers[torch.cat(surplus)] = torch.arange(len(gaps)).repeat_interleave(torch.tensor(gaps))
        order = takers.argsort(stable=True)
        return Dealt(rows[order], owners[order], takers[order], order)

    def take(self, dealt: Dealt) -> Candidates:
        """This rank's share of the inputs; those that others loaded travel here, raw."""
        me, size = self.world.rank, self.world.size
        taken = dealt.takers == me
        here = taken & (dealt.owners == me)
        kept = self.own[dealt.rows[here] - self._start]
        moving = dealt.owners != dealt.takers
        if not moving.any():  # the same on every rank
            return kept
        away = (moving & (dealt.owners == me)).nonzero().flatten()  # ascending takers
        coming = (moving & taken).nonzero().flatten()
        coming = coming[dealt.owners[coming].argsort(stable=True)]
        send = torch.bincount(dealt.takers[away], minlength=size).tolist()
        receive = torch.bincount(dealt.owners[coming], minlength=size).tolist()
        moved = _exchange(self.own[dealt.rows[away] - self._start], self.world, send, receive)
        order = torch.cat([here.nonzero().flatten(), coming]).argsort()
        return _cat(kept, moved)[order]

    def counts_of(self, dealt: Dealt) -> list[int]:
        """How many of the dealt rows each rank trains on."""
        return torch.bincount(dealt.takers, minlength=self.world.size).tolist()

    def share(self, dealt: Dealt, own: Embeddings) -> Share:
        """This rank's share of the dealt rows, of which each rank has embedded those of its own candidates."""
        counts = self.counts_of(dealt)
        if self.world.size == 1:
            return self.world.share(own[dealt.rows], counts)
        mine = own[dealt.rows[dealt.owners == self.world.rank] - self._start]
        owned = torch.bincount(dealt.owners, minlength=self.world.size).tolist()
        both = self.world.gather(torch.cat([mine.image, mine.text], 1), owned)
        back = dealt.owners.argsort(stable=True).argsort().to(both.device)
        image, text = both[back].chunk(2, dim=1)
        start = sum(counts[: self.world.rank])
        taken = slice(start, start + counts[self.world.rank])  # takers ascend
        share = self.world.share(Embeddings(image[taken], text[taken], own.scale, own.bias), counts)
        return replace(share, gathered=text)

    def _owners(self, rows: Tensor) -> Tensor:
        return torch.bucketize(rows, self._ends, right=True)


def all_faults(world: World, own: Candidates, read: int) -> tuple[Sequence[Fault], Sequence[Fault], int]:
    """The faults of every rank's candidates, what is odd about the others, and how many all ranks have read."""
    if world.size == 1:
        return own.faults, own.notes, read
    numbers = world.sum(torch.tensor([len(own.faults) + len(own.notes), read]))
    if not numbers[0]:  # usual, so that no objects are sent
        return (), (), int(numbers[1])
    pairs = world.objects((own.faults, own.notes))
    faults, notes = ([fault for some in part for fault in some] for part in zip(*pairs, strict=True))
    return faults, notes, int(numbers[1])


def _exchange(given: Candidates, world: World, send: list[int], receive: list[int]) -> Candidates:
    """Candidates that other ranks gave, for those that this one gives away; without their captions."""
    # In one order on every rank.
    tensors = sorted(given.tensors().items(), key=lambda entry: str(entry[0]))
    return given.with_tensors({key: world.exchange(values, send, receive) for key, values in tensors}, ())


def _cat(one: Candidates, other: Candidates) -> Candidates:
    tensors = other.tensors()
    return one.with_tensors({key: torch.cat([values, tensors[key]]) for key, values in one.tensors().items()}, ())
