"""Conversion between one process's candidates and those of all, concatenated in the order of processes."""

from __future__ import annotations

import torch
from torch import Tensor

from aced.core.selection import settled
from aced.core.selection_ranks import Scope


def each_kept(rows: Tensor, size: int, counts: list[int], scope: Scope) -> list[int]:
    """How many of `rows`, chosen among all candidates by a draw of at most `size`, each process has.

    If the processes' candidates compete, only the rows show it; reading them waits for a GPU.
    """
    if len(counts) == 1:
        return [len(rows)]
    known = settled(min(size, sum(counts)), counts, scope)
    return each_has(rows, counts) if known is None else known


def own_part(rows: Tensor, each: list[int], counts: list[int], rank: int) -> Tensor:
    """Rows among one process's candidates, from ascending `rows` among all and each process's number of them."""
    start = sum(each[:rank])
    return rows[start : start + each[rank]] - sum(counts[:rank])


def own_rows(rows: Tensor, counts: list[int], rank: int) -> Tensor:
    """Rows among one process's candidates, from `rows` among all processes', which have `counts`; in the same order."""
    rows = rows - sum(counts[:rank])
    return rows[(rows >= 0) & (rows < counts[rank])]


def each_has(rows: Tensor, counts: list[int]) -> list[int]:
    """How many of `rows` among all candidates each process has; they have `counts` candidates.

    With several processes the rows are read, which waits for a GPU.
    """
    if len(counts) == 1:
        return [len(rows)]
    rows = rows.cpu()
    owners = torch.bucketize(rows, torch.tensor(counts).cumsum(0), right=True)
    return torch.bincount(owners, minlength=len(counts)).tolist()
