"""Which rank trains on which of the chosen pairs, and how their inputs get there.

A super-batch lies spread over the ranks: rank r's candidates follow those of rank r - 1. "Row" means a row of the
whole, and is one of the only process's candidates where there is but one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from aced.core.embeddings import Embeddings
from aced.core.selection import shares_of
from aced.core.selection_ranks import Scope
from aced.pool.loader.packing import packed, unpacked
from aced.pool.source import CUT, Candidates, Key
from aced.runtime.devices import sent
from aced.train.distributed import World


@dataclass(frozen=True)
class Dealt:
    """Chosen rows and who has them; the ranks are on the CPU.

    Attributes:
        rows: `[b]` rows, those that rank 0 trains on first and so on; where the candidates are.
        owners: `[b]` the rank that loaded each.
        takers: `[b]` the rank that trains on it, ascending.
        places: `[b]` the place of each among the rows as they were chosen; on either.
    """

    rows: Tensor
    owners: Tensor
    takers: Tensor
    places: Tensor


class Taken(NamedTuple):
    """What a rank has of a deal: the inputs, and the embeddings that came with them, where there were any."""

    batch: Candidates
    known: Embeddings | None


class Pool:
    """A super-batch as this rank sees it.

    Args:
        own: this rank's candidates.
        world: the ranks.
        scope: of the selection.
        positions: for each rank the positions in the source of its candidates, on the CPU.
        widths: for each column of several numbers the most that a rank has.

    Attributes:
        own: this rank's candidates, in columns that are as wide as any rank's.
        counts: the number of every rank's.
        positions: `[B]` positions in the source of all, where the candidates are.
    """

    def __init__(
        self, own: Candidates, world: World, scope: Scope, positions: Sequence[Tensor], widths: Mapping[Key, int]
    ) -> None:
        self.own, self.world, self.scope = _widened(own, widths), world, scope
        self.counts = [len(part) for part in positions]
        self.positions = own.indices if world.size == 1 else sent(torch.cat(list(positions)), own.indices.device)
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

    def deal(self, rows: Tensor, each: Sequence[int] | None = None) -> Dealt:
        """Share out chosen rows: evenly with the global scope, else each stays where it was loaded.

        Args:
            rows: `[b]`, on whichever device.
            each: how many of them are of each rank's candidates, where that is known. Otherwise several ranks read
                the rows, for which a GPU is waited for: what is to travel must be known on the host.
        """
        ranks, device = self.world.size, self.own.indices.device
        if ranks == 1 or (each is not None and self.scope != "global"):
            takers = torch.arange(ranks).repeat_interleave(torch.tensor([len(rows)] if ranks == 1 else each))
            rows = sent(rows, device)
            if ranks == 1:
                return Dealt(rows, takers, takers, torch.arange(len(rows)))
            order = torch.bucketize(rows, sent(self._ends, device), right=True).argsort(stable=True)
            return Dealt(rows[order], takers, takers, order)
        rows = rows.cpu()
        owners = self._owners(rows)
        takers = owners.clone()
        if self.scope == "global":
            shares, surplus, gaps = shares_of(len(rows), ranks), [], []
            for rank, share in enumerate(shares):
                mine = (owners == rank).nonzero().flatten()
                surplus.append(mine[share:])
                gaps.append(max(0, share - len(mine)))
            takers[torch.cat(surplus)] = torch.arange(len(gaps)).repeat_interleave(torch.tensor(gaps))
        order = takers.argsort(stable=True)
        return Dealt(sent(rows[order], device), owners[order], takers[order], order)

    def place(self, dealt: Dealt) -> slice:
        """Where among the dealt rows those are that this rank trains on."""
        counts = self.counts_of(dealt)
        start = sum(counts[: self.world.rank])
        return slice(start, start + counts[self.world.rank])

    def take(self, deals: Sequence[Dealt], known: Embeddings | None = None) -> list[Taken]:
        """This rank's share of the inputs of each deal, raw; those that others loaded travel here, in one exchange.

        Args:
            deals: of rows of this super-batch.
            known: some model's embeddings of this rank's candidates, which go where the inputs go.
        """
        me, size = self.world.rank, self.world.size
        owners, takers = (torch.cat([getattr(dealt, name) for dealt in deals]) for name in ("owners", "takers"))
        rows = torch.cat([dealt.rows for dealt in deals])
        moving, taken = owners != takers, takers == me
        here = (taken & ~moving).nonzero().flatten()
        table = _Table(self.own, known).at(_some(rows, here) - self._start)
        if moving.any():  # the same on every rank
            away = (moving & (owners == me)).nonzero().flatten()
            away = away[takers[away].argsort(stable=True)]
            coming = (moving & taken).nonzero().flatten()
            coming = coming[owners[coming].argsort(stable=True)]
            send = torch.bincount(takers[away], minlength=size).tolist()
            receive = torch.bincount(owners[coming], minlength=size).tolist()
            moved = _Table(self.own, known).at(_some(rows, away) - self._start)
            table = table.joined(self.world.exchange(moved.bytes(), send, receive))
            table = table.at(sent(torch.cat([here, coming]).argsort(), rows.device))
        return table.parts([self.counts_of(dealt)[me] for dealt in deals])

    def counts_of(self, dealt: Dealt) -> list[int]:
        """How many of the dealt rows each rank trains on."""
        return torch.bincount(dealt.takers, minlength=self.world.size).tolist()

    def _owners(self, rows: Tensor) -> Tensor:
        return torch.bucketize(rows, self._ends, right=True)


class _Table:
    """Candidates, and what a model has made of them."""

    def __init__(self, candidates: Candidates, known: Embeddings | None) -> None:
        self.candidates, self.known = candidates, known

    def at(self, rows: Tensor) -> _Table:
        """The chosen rows."""
        return _Table(self.candidates[rows], None if self.known is None else self.known[rows])

    def bytes(self) -> Tensor:
        """`[n, bytes of a row]` uint8, without captions."""
        return packed(self._tensors())

    def joined(self, rows: Tensor) -> _Table:
        """These rows and others behind them, which come as bytes and without captions."""
        own = self._tensors()
        both = {key: torch.cat([own[key], values]) for key, values in unpacked(rows, own).items()}
        known = self.known
        if known is not None:
            known = replace(known, image=both.pop("known image"), text=both.pop("known text"))
        return _Table(self.candidates.with_tensors(both, ()), known)

    def parts(self, sizes: Sequence[int]) -> list[Taken]:
        """Consecutive parts."""
        if len(sizes) == 1:
            return [Taken(self.candidates, self.known)]
        ends = list(accumulate(sizes, initial=0))
        rows = [torch.arange(*ends, device=self.candidates.indices.device) for ends in pairwise(ends)]
        return [Taken(part.candidates, part.known) for part in map(self.at, rows)]

    def _tensors(self) -> dict[Key, Tensor]:
        # In one order on every rank.
        found = dict(sorted(self.candidates.tensors().items(), key=lambda entry: str(entry[0])))
        return found if self.known is None else found | {"known image": self.known.image, "known text": self.known.text}


def _some(rows: Tensor, which: Tensor) -> Tensor:
    """Some of the rows, which are given by the host."""
    return rows.index_select(0, sent(which, rows.device))


def _widened(own: Candidates, widths: Mapping[Key, int]) -> Candidates:
    """Every column as wide as the widest: what a rank has cut off the ends of its rows, others may have."""
    columns = {}
    for name, values in own.columns.items():
        more = widths.get(("column", name), 0) - (values.shape[1] if values.ndim == 2 else 0)
        columns[name] = F.pad(values, (0, more), value=CUT) if more > 0 else values
    return replace(own, columns=columns)
