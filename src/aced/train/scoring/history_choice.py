"""The selection by the student's earlier scores (DISSect) among the candidates of all processes."""

from __future__ import annotations

import torch
from torch import Tensor

from aced.core.differential import clip_scores, differentials, largest
from aced.core.embeddings import Embeddings
from aced.runtime.devices import sent
from aced.train.scoring.history import History
from aced.train.scoring.moment import Moment
from aced.train.scoring.own_share import chosen_in_scope


def drawn_by_history(history: History, student: Embeddings, at: Moment) -> tuple[Tensor, list[int] | None, Tensor]:
    """The rows of a step, `[b]` int64 among all processes' candidates, and each process's number of them if known.

    During the warm-up they are random, and the scores are recorded; afterwards they are those whose scores have fallen
    most, or risen least. Every process makes the choice for all, from everyone's scores.

    Args:
        history: the earlier scores, which the warm-up adds to.
        student: the student's embeddings of this process's candidates.
        at: the step, in whose ledger the time is counted.

    Returns:
        Third, a bool, a scalar: whether all scores were numbers.
    """
    with at.ledger.timed("select"):
        scores = at.world.gather(clip_scores(student), at.counts)
        if history.records(at.step):
            # On the CPU, whose generator gives the same numbers for every device.
            values = sent(torch.rand(len(scores), generator=at.generator), scores.device)
            history.put(at.positions, scores)
        else:
            values = differentials(history.of(at.positions), scores)
        size = min(at.settings.batch, len(scores))
        rows, each = chosen_in_scope(largest, values, size, at.counts, at.settings.scope, at.sources, at.generator)
        return rows, each, scores.isfinite().all()
