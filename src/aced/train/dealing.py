"""Dealing: which rank trains on which of the chosen pairs, and how their inputs get there.

A super-batch is spread over the ranks: rank r's candidates follow those of rank r - 1. "Row" means a row of the whole;
with a single process, one of its candidates.
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
    """Chosen rows and their ranks; the ranks are on the CPU.

    Attributes:
        rows: `[b]` rows, in the order of the ranks that train on them; on the candidates' device.
        owners: `[b]` the rank that loaded each.
        takers: `[b]` the rank that trains on it, ascending.
        places: `[b]` the place of each row in the order of choice; on either device.
    """

    rows: Tensor
    owners: Tensor
    takers: Tensor
    places: Tensor


class Taken(NamedTuple):
    """A rank's share of a deal: the inputs, and any embeddings that came with them."""

    batch: Candidates
    known: Embeddings | None


class Pool:
    """A super-batch from the perspective of this rank.

    Args:
        own: this rank's candidates.
        world: the ranks.
        scope: of the selection.
        positions: for each rank the source positions of its candidates, on the CPU.
        widths: for each multi-valued column the maximum over ranks.

    Attributes:
        own: this rank's candidates, with columns padded to the maximum over ranks.
        counts: the number of candidates of every rank.
        positions: `[B]` source positions of all candidates, on their device.
        listed: the same on the CPU.
    """

    def __init__(
        self, own: Candidates, world: World, scope: Scope, positions: Sequence[Tensor], widths: Mapping[Key, int]
    ) -> None:
        self.own, self.world, self.scope = _widened(own, widths), world, scope
        self.counts = [len(part) for part in positions]
        self.listed = positions[0] if world.size == 1 else torch.cat(list(positions))
        self.positions = own.indices if world.size == 1 else sent(self.listed, own.indices.device)
        self._ends = torch.tensor(self.counts).cumsum(0)
        self._start = sum(self.counts[: world.rank])

    def __len__(self) -> int:
        return sum(self.counts)

    def draw(self, size: int, generator: torch.Generator) -> Tensor:
        """`[size]` random rows, an i.i.d. batch; unless the scope is global, evenly from all ranks if possible."""
        rows = torch.randperm(len(self), generator=generator)
        if self.world.size == 1 or self.scope == "global":
            return rows[:size]
        owners = self._owners(rows)
        shares = enumerate(shares_of(size, self.world.size))
        return torch.cat([rows[owners == rank][:share] for rank, share in shares])

    def deal(self, rows: Tensor, each: Sequence[int] | None = None) -> Dealt:
        """Distribute chosen rows: evenly with the global scope, otherwise each stays where it was loaded.

        Args:
            rows: `[b]`, on any device.
            each: number of them from each rank's candidates, if known. Otherwise several ranks read the rows, which
                waits for a GPU: the host must know what is to travel.
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
        """The places of this rank's rows among the dealt rows."""
        counts = self.counts_of(dealt)
        start = sum(counts[: self.world.rank])
        return slice(start, start + counts[self.world.rank])

    def take(self, deals: Sequence[Dealt], known: Embeddings | None = None) -> list[Taken]:
        """This rank's raw inputs of each deal; those loaded by other ranks travel here, in one exchange.

        Args:
            deals: of rows of this super-batch.
            known: a model's embeddings of this rank's candidates, which travel with the inputs.
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
    """Candidates, and a model's embeddings of them."""

    def __init__(self, candidates: Candidates, known: Embeddings | None) -> None:
        self.candidates, self.known = candidates, known

    def at(self, rows: Tensor) -> _Table:
        """The chosen rows."""
        return _Table(self.candidates[rows], None if self.known is None else self.known[rows])

    def bytes(self) -> Tensor:
        """`[n, bytes of a row]` uint8, without captions."""
        return packed(self._tensors())

    def joined(self, rows: Tensor) -> _Table:
        """These rows, followed by others that arrive as bytes and without captions."""
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
        # In the same order on every rank.
        found = dict(sorted(self.candidates.tensors().items(), key=lambda entry: str(entry[0])))
        return found if self.known is None else found | {"known image": self.known.image, "known text": self.known.text}


def _some(rows: Tensor, which: Tensor) -> Tensor:
    """Some of the rows, by indices on the host."""
    return rows.index_select(0, sent(which, rows.device))


def _widened(own: Candidates, widths: Mapping[Key, int]) -> Candidates:
    """Pad every column to the maximum width: other ranks may have what this one has cut."""
    columns = {}
    for name, values in own.columns.items():
        more = widths.get(("column", name), 0) - (values.shape[1] if values.ndim == 2 else 0)
        columns[name] = F.pad(values, (0, more), value=CUT) if more > 0 else values
    return replace(own, columns=columns)
