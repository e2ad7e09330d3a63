"""Conversion between one process's candidates and those of all, concatenated in the order of processes."""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate

import torch
from torch import Tensor

from aced.core.quotas import places_by_source, shared_out
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


def chosen_in_scope(
    choose: Callable[[Tensor, int], Tensor],
    values: Tensor,
    size: int,
    counts: list[int],
    scope: Scope,
    sources: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, list[int] | None]:
    """The rows of a choice that every process makes for all, and each process's number of them if known unread.

    Args:
        choose: from values of some candidates, the rows of so many of them.
        values: `[B, ...]` of all processes' candidates.
        size: b, B at most.
        counts: each process's number of candidates.
        scope: `global`: all compete. Otherwise each process's candidates make up their own share of the batch.
        sources: as in `Moment`: each source's candidates make up its share; of one process.
        generator: rounds such shares.
    """
    each = settled(size, counts, scope)
    if sources is not None:
        own = places_by_source(sources, values.device)
        quotas = zip(own, shared_out(size, [len(places) for places in own], generator), strict=True)
        return torch.cat([places[choose(values[places], quota)] for places, quota in quotas if quota]), each
    if each is None or len(counts) == 1:
        return choose(values, size), each
    starts = accumulate(counts[:-1], initial=0)
    parts = zip(starts, values.split(counts), each, strict=True)
    return torch.cat([start + choose(part, share) for start, part, share in parts if share]), each
