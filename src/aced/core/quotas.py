"""Quotas by source: candidates of several sources, each of which gets its own share of a batch.

Shapes: B candidates of k sources, b = `size` of them chosen.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from aced.core.ranks import Ranks
from aced.core.score_models import ScoreModel
from aced.core.selection_ranks import Chunk, Party


def apportioned(size: int, counts: Sequence[int]) -> list[int]:
    """How many of `size` each source gives: in proportion to what it has, by largest remainders.

    Args:
        size: number of all together, `sum(counts)` at most.
        counts: number that each source has.

    Returns:
        A number for each source, never more than it has; their sum is `size`. Of equal remainders the first win.
    """
    whole = max(1, sum(counts))
    found = [size * count // whole for count in counts]
    by_remainder = sorted(range(len(counts)), key=lambda source: -(size * counts[source] % whole))
    for source in by_remainder[: size - sum(found)]:
        found[source] += 1
    return found


def shared_out(size: int, counts: Sequence[int], generator: torch.Generator | None) -> list[int]:
    """As `apportioned`, but what is not whole is rounded at random: over many draws each source gets its exact share.

    Largest remainders would always leave out the same small sources. The shares lie in a row, and of the points that
    are 1 apart from a random start each share gets those on it (systematic sampling).

    Args:
        size: number of all together, `sum(counts)` at most.
        counts: number that each source has.
        generator: source of the start; None takes torch's global one. Nothing is drawn where all shares are whole.
    """
    whole = max(1, sum(counts))
    ends = [size * end for end in accumulate(counts)]
    start = 0
    if any(end % whole for end in ends):
        device = "cpu" if generator is None else generator.device
        start = int(torch.randint(whole, (), generator=generator, device=device))
    return [(end + start) // whole - (begin + start) // whole for begin, end in pairwise([0, *ends])]


def in_chunks(quotas: Sequence[int], chunks: int) -> list[list[int]]:
    """How many of each source each chunk draws.

    The places of the batch, source by source in a row, are dealt to the chunks in turn. So the numbers of a source
    differ by at most one between chunks, and those of all sources together too, the larger first.
    """
    ends = [sum(quotas[:source]) for source in range(len(quotas) + 1)]

    def before(end: int, chunk: int) -> int:
        return (end + chunks - 1 - chunk) // chunks

    return [
        [before(ends[source + 1], chunk) - before(ends[source], chunk) for source in range(len(quotas))]
        for chunk in range(chunks)
    ]


def sources_at(ends: Tensor, positions: Tensor) -> Tensor:
    """`[B]` int64, the number of the source of each position."""
    return torch.bucketize(positions, ends, right=True)


def places_by_source(sources: Tensor, device: torch.device) -> list[Tensor]:
    """For each source, in ascending order of its number, the rows of its candidates on a device, ascending.

    Args:
        sources: `[B]` int64, the source of each candidate, on the CPU: nothing waits for a GPU.
        device: where the rows are needed.
    """
    _, own, counts = sources.unique(return_inverse=True, return_counts=True)
    order = own.argsort(stable=True)
    order = order.pin_memory() if device.type == "cuda" else order
    return list(order.to(device, non_blocking=True).split(counts.tolist()))


class BySource(Party):
    """One process that draws each source's quota from that source's candidates, compared with all that were chosen.

    Args:
        models: of the score, with the embeddings of all candidates.
        ranks: the process.
        sources: `[B]` int64 on the CPU, the source of each candidate.
        size: number drawn by all chunks together.
        chunks: number of chunks, `size` at most.
        generator: as in `shared_out`.
    """

    def __init__(
        self,
        models: Sequence[ScoreModel],
        ranks: Ranks,
        sources: Tensor,
        size: int,
        chunks: int,
        generator: torch.Generator | None,
    ) -> None:
        self._places = places_by_source(sources, models[0].e.device)
        quotas = shared_out(size, [len(places) for places in self._places], generator)
        super().__init__(models, ranks, [len(sources)], in_chunks(quotas, chunks))

    def choose(self, number: int, noisy: Tensor, g: Tensor) -> Chunk:
        """As in `Party`, source by source."""
        rows = torch.cat(
            [
                places.index_select(0, noisy.index_select(0, places).topk(count).indices)
                for places, count in zip(self._places, self.sizes[number], strict=True)
            ]
        )
        return Chunk(rows, g.index_select(0, rows), rows)
