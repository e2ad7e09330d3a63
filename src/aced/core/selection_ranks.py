"""Who draws together: one process, all of several (ranks), or each of several for itself.

`selection.py` has the draw; what differs with the number of processes is how a chunk is chosen among them, how the
embeddings of the chosen reach everyone, and what comes out at the end. Each rank holds the embeddings and the running
vector of its own candidates only. Every rank draws the noise of the whole super-batch from the same generator state
and uses its part, so that the ranks together choose what one process chooses (but for ties, which only scores without
noise have). What every rank knows is never exchanged, nothing has a length that only the device knows, and no number
is read from the device. B candidates of width d never travel, nor do images.

The candidates of rank r follow those of rank r - 1 in the whole super-batch; "row" means a row of that, "place" one
among this rank's own. Ranks may have different numbers of candidates, or none. W ranks, c of a chunk.
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
    """What one chunk of the draw has chosen, as this rank knows it.

    Attributes:
        rows: `[c]` int64, in drawing order: of all ranks, or of this rank alone where each draws for itself.
        gains: `[c]` float32, their conditional scores.
        places: `[c]` int64 places of those of this rank; its number of candidates for those of others.
    """

    rows: Tensor
    gains: Tensor
    places: Tensor


class Party:
    """One process that draws from its own candidates, and from all there are.

    Args:
        models: of the score, with this rank's embeddings.
        ranks: the processes.
        counts: every rank's number of candidates.
        sizes: what is drawn in each chunk: by each of the ranks.
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
        """Each model's embeddings of the pairs that this rank's candidates are then compared with."""
        return [m.of(chunk.rows) for m in self.models]

    def blocks(self) -> Iterator[list[Sides]]:
        """What this rank's candidates are compared with by independent scores, in blocks of each model's embeddings."""
        step = block_rows(self.count, self.device)
        for start in range(0, self.count, step):
            yield self._own(slice(start, start + step))

    def everyones(self, chunks: Sequence[Chunk]) -> tuple[Tensor, Tensor]:
        """`[b]` rows of all ranks' choices, chunk by chunk and rank by rank, and `[b]` their gains."""
        return torch.cat([chunk.rows for chunk in chunks]), torch.cat([chunk.gains for chunk in chunks])

    def _own(self, rows: slice) -> list[Sides]:
        return [(m.e.image[rows], m.e.text[rows]) for m in self.models]


class Apart(Party):
    """Ranks that draw each from its own candidates and compare with its own choice; told of all at the end."""

    def everyones(self, chunks: Sequence[Chunk]) -> tuple[Tensor, Tensor]:
        """As in `Party`: one exchange."""
        rows, gains = super().everyones(chunks)
        both = torch.stack([(rows + self.start).double(), gains.double()], 1)  # rows fit a double
        both = self.ranks.gather(both, [sum(of) for of in zip(*self.sizes, strict=True)])
        # They come rank by rank, and of each rank chunk by chunk.
        parts = both.split([share for of in zip(*self.sizes, strict=True) for share in of])
        n = len(self.sizes)
        both = torch.cat([part for number in range(n) for part in parts[number::n]])
        return both[:, 0].long(), both[:, 1].float()


class Sharing(Apart):
    """Ranks that draw each from its own candidates and compare with all choices: one exchange a chunk."""

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
    """Ranks whose candidates compete for each place: two exchanges a chunk, the offers and the winners' embeddings.

    Of `sizes` what the ranks draw is read as a sum: who draws it, comes out.
    """

    def choose(self, number: int, noisy: Tensor, g: Tensor) -> Chunk:
        """As in `Party`; every rank offers its best, of which the best of all win."""
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
        """As in `Party`: a sum with zeros from all who are not the owner is exact."""
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
    """The sides again."""
    split = both.split([side.shape[1] for sides in like for side in sides], dim=1)
    return list(zip(split[::2], split[1::2], strict=True))
