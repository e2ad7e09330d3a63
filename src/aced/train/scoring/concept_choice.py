"""The selection by concepts among the candidates of all processes."""

from __future__ import annotations

from itertools import accumulate

import torch
from torch import Tensor

from aced.core.concepts import by_concepts
from aced.core.selection import shares_of
from aced.pool.concept_column import Concepts
from aced.pool.source import Candidates
from aced.train.scoring.moment import Moment
from aced.train.scoring.own_share import each_has


def drawn_by_concepts(column: Concepts, candidates: Candidates, at: Moment) -> tuple[Tensor, list[int]]:
    """The rows of a step, `[b]` int64 on the CPU, among all processes' candidates, and each process's number of them.

    Every process makes the choice for all, which is cheaper than sending it. With the scopes `quota` and `local` each
    process's candidates make up their own share of the batch. This waits for a GPU: words are compared on the CPU.

    Args:
        column: the column with the concepts.
        candidates: this process's.
        at: the step, in whose ledger the time is counted.
    """
    with at.ledger.timed("select"):
        concepts = at.world.gather(candidates.column(column), at.counts).cpu()
        size, how = min(at.settings.batch, len(concepts)), at.method.concepts
        assert how is not None  # a method by concepts says how
        if at.world.size == 1 or at.settings.scope == "global":
            rows = by_concepts(concepts, size, how)
            return rows, each_has(rows, at.counts)
        starts = accumulate(at.counts[:-1], initial=0)
        each = [min(share, count) for share, count in zip(shares_of(size, at.world.size), at.counts, strict=True)]
        parts = [
            start + by_concepts(part, share, how)
            for start, part, share in zip(starts, concepts.split(at.counts), each, strict=True)
            if share
        ]
        return torch.cat(parts), each
