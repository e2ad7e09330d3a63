"""The selection by concepts among the candidates of all processes."""

from __future__ import annotations

from torch import Tensor

from aced.core.concepts import by_concepts
from aced.pool.concept_column import Concepts
from aced.pool.source import Candidates
from aced.train.scoring.moment import Moment
from aced.train.scoring.own_share import chosen_in_scope, each_has


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
        rows, each = chosen_in_scope(
            lambda values, share: by_concepts(values, share, how),
            concepts,
            size,
            at.counts,
            at.settings.scope,
            at.sources,
            at.generator,
        )
        return rows, each_has(rows, at.counts) if each is None else each
