"""The parties to a draw: one process, all of several (ranks) together, or each rank for itself.

`selection.py` has the draw. What differs with the number of processes is how they choose a chunk, how the embeddings of
the chosen reach all of them, and the combination at the end. Each rank holds the embeddings and the running vector of
its own candidates only. Every rank draws the noise of the whole super-batch from the same generator state and uses its
part, so the ranks together choose what one process would (except for ties, which only occur without noise). Shared
knowledge is never exchanged, no length depends on the device, and no number is read from the device. B candidates of
width d never travel, nor do images.

The candidates of rank r follow those of rank r - 1 in the whole super-batch; "row" means a row of that, "place" one
among this rank's own. Ranks may have different numbers of candidates, or none. W ranks, c the size of a chunk.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

import torch
from torch import Tensor

from aced.core.gains import block_rows
from aced.core.ranks import Ranks
from aced.core.score_models import ScoreModel, Sides

Scope = Literal["global", "quota", "local"]


@dataclass(frozen=True)
class Chunk:
    """The result of drawing one chunk, as this rank knows it.

    Attributes:
        rows: `[c]` int64, in drawing order: of all ranks, or of this rank alone if each draws for itself.
        gains: `[c]` float32, their conditional scores.
        places: `[c]` int64 places of this rank's own; its number of candidates for those of others.
    """

    rows: Tensor
    gains: Tensor
    places: Tensor


class Party:
    """One process that draws from its own candidates, which are all.

    Args:
        models: of the score, with this rank's embeddings.
        ranks: the processes.
        counts: every rank's number of candidates.
        sizes: number drawn in each chunk, by each of the ranks (or from each source).
    """

    def __init__(self, models: Sequence[ScoreModel], ranks: Ranks, counts: Sequence[int], sizes: Sequence[list[int]]):
        self.models, self.ranks, self.counts, self.sizes = models, ranks, counts, sizes
        self.count = counts[ranks.rank]
        self.start = list(accumulate(counts, initial=0))[ranks.rank]
        self.device = models[0].e.device

    def choose(self, number: int, noisy: Tensor, g: Tensor) -> Chunk:
        """The largest perturbed scores of chunk `number`; `noisy` and `g` are `[B_r]` of this rank's candidates."""
        rows = noisy.topk(self.sizes[number][self.ranks.rank]).indices
        return Chunk(rows, g.index_select(0, rows), rows)

    def embeddings(self, number: int, chunk: Chunk) -> list[Sides]:
        """Each model's embeddings of the pairs with which this rank's candidates are compared next."""
        return [m.of(chunk.rows) for m in self.models]

    def blocks(self) -> Iterator[list[Sides]]:
        """The pairs with which independent scores compare this rank's candidates, in blocks of models' embeddings."""
        step = block_rows(self.count, self.device)
        for start in range(0, self.count, step):
            yield self._own(slice(start, start + step))

    def everyones(self, chunks: Sequence[Chunk]) -> tuple[Tensor, Tensor]:
        """`[b]` rows of all ranks' choices, chunk by chunk and rank by rank, and `[b]` their gains."""
        return torch.cat([chunk.rows for chunk in chunks]), torch.cat([chunk.gains for chunk in chunks])

    def _own(self, rows: slice) -> list[Sides]:
        return [(m.e.image[rows], m.e.text[rows]) for m in self.models]


class Apart(Party):
    """Ranks that each draw from their own candidates and compare with their own choices; combined at the end."""

    def everyones(self, chunks: Sequence[Chunk]) -> tuple[Tensor, Tensor]:
        """As in `Party`: one exchange."""
        rows, gains = super().everyones(chunks)
        both = torch.stack([(rows + self.start).double(), gains.double()], 1)  # rows fit a double
        both = self.ranks.gather(both, [sum(of) for of in zip(*self.sizes, strict=True)])
        # They arrive rank by rank, and for each rank chunk by chunk.
        parts = both.split([share for of in zip(*self.sizes, strict=True) for share in of])
        n = len(self.sizes)
        both = torch.cat([part for number in range(n) for part in parts[number::n]])
        return both[:, 0].long(), both[:, 1].float()


class Sharing(Apart):
    """Ranks that each draw from their own candidates and compare with all choices: one exchange per chunk."""

    def embeddings(self, number: int, chunk: Chunk) -> list[Sides]:
        """As in `Party`."""
        return self._gathered([m.of(chunk.rows) for m in self.models], self.sizes[number])

    def blocks(self) -> Iterator[list[Sides]]:
        """As in `Party`."""
        step = block_rows(max(self.counts), self.device)
        for start in range(0, max(self.counts), step):
            counts = [min(max(count - start, 0), step) for count in self.counts]
            yield self._gathered(self._own(slice(start, start + step)), counts)

    def _gathered(self, own: Sequence[Sides], counts: Sequence[int]) -> list[Sides]:
        return _apart(self.ranks.gather(_beside(own), counts), own)


class DrawTogether(Sharing):
    """Ranks whose candidates compete for each place: two exchanges per chunk, the offers and the winners' embeddings.

    Only the sum of `sizes` over ranks matters; the draw decides who contributes.
    """

    def choose(self, number: int, noisy: Tensor, g: Tensor) -> Chunk:
        """As in `Party`; every rank offers its best, and the best of all win."""
        c = sum(self.sizes[number])
        best = noisy.topk(min(c, self.count))
        offer = [best.values, best.indices + self.start, g.index_select(0, best.indices)]
        offers = torch.stack([part.double() for part in offer], 1)
        offers = self.ranks.gather(offers, [min(c, count) for count in self.counts])
        won = offers.index_select(0, offers[:, 0].topk(c).indices)
        rows = won[:, 1].long()
        places = rows - self.start
        mine = (places >= 0) & (places < self.count)
        return Chunk(rows, won[:, 2].float(), places.where(mine, self.count))

    def embeddings(self, number: int, chunk: Chunk) -> list[Sides]:
        """As in `Party`: a sum with zeros from all other ranks is exact."""
        own = self._own(slice(0, 0))
        spread = chunk.gains.new_zeros(len(chunk.rows), sum(side.shape[1] for sides in own for side in sides))
        if self.count:
            there = (chunk.places < self.count)[:, None]
            some = _beside([m.of(chunk.places.clamp(max=self.count - 1)) for m in self.models])
            spread = some.where(there, spread)
        return _apart(self.ranks.sum(spread), own)

    def everyones(self, chunks: Sequence[Chunk]) -> tuple[Tensor, Tensor]:
        """As in `Party`: every rank knows them."""
        return Party.everyones(self, chunks)


def _beside(parts: Sequence[Sides]) -> Tensor:
    """Every model's images and texts side by side, in float32: one exchange for all."""
    return torch.cat([side.float() for sides in parts for side in sides], 1)


def _apart(both: Tensor, like: Sequence[Sides]) -> list[Sides]:
    """The inverse of joining the sides."""
    split = both.split([side.shape[1] for sides in like for side in sides], dim=1)
    return list(zip(split[::2], split[1::2], strict=True))
