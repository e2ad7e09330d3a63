"""Between one process's candidates and those of all, which follow one another in the order of processes."""

from __future__ import annotations

import torch
from torch import Tensor

from aced.core.selection import settled
from aced.core.selection_ranks import Scope


def each_kept(rows: Tensor, size: int, counts: list[int], scope: Scope) -> list[int]:
    """How many of `rows` of all processes' candidates each process has, which a draw of at most `size` has chosen.

    Where the processes' candidates compete, only the rows tell; to read them a GPU is waited for.
    """
    if len(counts) == 1:
        return [len(rows)]
    known = settled(min(size, sum(counts)), counts, scope)
    return each_has(rows, counts) if known is None else known


def own_part(rows: Tensor, each: list[int], counts: list[int], rank: int) -> Tensor:
    """Rows among one process's candidates, of ascending `rows` of all processes', of which each process has so many."""
    start = sum(each[:rank])
    return rows[start : start + each[rank]] - sum(counts[:rank])


def own_rows(rows: Tensor, counts: list[int], rank: int) -> Tensor:
    """Rows among one process's candidates, of `rows` of all processes' that have `counts`; in the same order."""
    rows = rows - sum(counts[:rank])
    return rows[(rows >= 0) & (rows < counts[rank])]


def each_has(rows: Tensor, counts: list[int]) -> list[int]:
    """How many of `rows` of all processes' candidates each has; they have `counts` candidates.

    Of several processes the rows are read, for which a GPU is waited for.
    """
    if len(counts) == 1:
        return [len(rows)]
    rows = rows.cpu()
    owners = torch.bucketize(rows, torch.tensor(counts).cumsum(0), right=True)
    return torch.bincount(owners, minlength=len(counts)).tolist()
