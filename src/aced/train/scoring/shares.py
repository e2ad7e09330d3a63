"""Between one process's candidates and those of all, which follow one another in the order of processes."""

from __future__ import annotations

import torch
from torch import Tensor

from aced.core.embeddings import Embeddings
from aced.train.distributed import World


def own_rows(rows: Tensor, counts: list[int], rank: int) -> Tensor:
    """Rows among one process's candidates, of `rows` of all processes' that have `counts`; in the same order."""
    rows = rows - sum(counts[:rank])
    return rows[(rows >= 0) & (rows < counts[rank])]


def each_has(rows: Tensor, counts: list[int]) -> list[int]:
    """How many of `rows` of all processes' candidates each process has; they have `counts` candidates."""
    owners = torch.bucketize(rows, torch.tensor(counts).cumsum(0), right=True)
    return torch.bincount(owners, minlength=len(counts)).tolist()


def of_all(world: World, positions: Tensor, embedded: Embeddings) -> tuple[Tensor, Tensor, Tensor]:
    """Positions and image and text embeddings of what every process has embedded, in the order of processes."""
    if world.size == 1:
        return positions, embedded.image, embedded.text
    counts = world.counts(len(positions))
    image, text = world.gather(torch.cat([embedded.image, embedded.text], 1), counts).chunk(2, dim=1)
    return world.gather(positions, counts), image, text
