"""The draw of a step with the run's settings, over the candidates of all processes, counted in the ledger."""

from __future__ import annotations

import torch

from aced.core.embeddings import Embeddings
from aced.core.ledger import Ledger, selection_flops
from aced.core.selection import Score, Selection, select, shares_of
from aced.core.selection_many import learnability_small
from aced.core.selection_ranks import select_ranks
from aced.errors import AcedError
from aced.methods import Method
from aced.train.distributed import World
from aced.train.scoring.moment import Moment
from aced.train.settings import Settings

_SMALL = 400
"""Largest number of candidates at which the matrix of all pairs, more FLOPs, is quicker than its tiles one by one."""


def draw(
    t: Moment,
    score: Score,
    size: int,
    student: Embeddings | None,
    reference: Embeddings | None,
    generator: torch.Generator,
) -> Selection:
    """`select` with the run's settings, at most `size` rows, counted in the ledger.

    Raises:
        AcedError: what `select` refuses, with the number of the step.
    """
    needed = [e for e in (student, reference) if e is not None]
    own, widths = len(needed[0]), [e.image.shape[1] for e in needed]
    whole = t.world.total(own)
    size = min(size, whole)
    try:
        chosen = draw_with(t.settings, t.method, score, size, student, reference, generator, t.world)
    except ValueError as error:
        raise AcedError(f"Step {t.step + 1}: {error}") from error
    if t.world.size == 1 and len(needed) == 2 and _small(t.settings, t.method, score, needed[0]):
        t.ledger.flops["selection"] += sum(2.0 * own**2 * width for width in widths)
    else:
        count_draw(t.ledger, t.settings, t.method, t.world, (own, whole), size, widths)
    return chosen


def draw_with(
    settings: Settings,
    method: Method,
    score: Score,
    size: int,
    student: Embeddings | None,
    reference: Embeddings | None,
    generator: torch.Generator,
    world: World | None = None,
) -> Selection:
    """`select` with a run's settings; over the candidates of all processes of `world`, where that has several."""
    if world is not None and world.size > 1:
        return select_ranks(
            student,
            reference,
            size,
            world,
            scope=settings.scope,
            score=score,
            loss=settings.loss,
            strategy=method.strategy,
            chunks=settings.chunks,
            temperature=settings.temperature,
            generator=generator,
        )
    if student is not None and reference is not None and _small(settings, method, score, student):
        small = learnability_small(
            student,
            reference,
            size,
            chunks=settings.chunks,
            temperature=settings.temperature,
            generator=generator,
        )
        if small is not None:
            return small
    return select(
        student,
        reference,
        size,
        score=score,
        loss=settings.loss,
        strategy=method.strategy,
        chunks=settings.chunks,
        temperature=settings.temperature,
        generator=generator,
    )


def _small(settings: Settings, method: Method, score: Score, student: Embeddings) -> bool:
    """Whether a draw is one that is quicker on the matrix of all pairs."""
    plain = score == "learnability" and method.strategy == "joint" and settings.loss == "sigmoid"
    return plain and len(student) <= _SMALL and student.device.type == "cpu"


def count_draw(
    ledger: Ledger,
    settings: Settings,
    method: Method,
    world: World,
    candidates: tuple[int, int],
    size: int,
    widths: list[int],
) -> None:
    """Count this process's FLOPs in a draw of `size` by models of these widths.

    `candidates` are how many this process has and how many all have. Unless the scope is local each of its own meets
    what all have chosen, so that the processes' counts add up to those of one.
    """
    own, whole = candidates
    if settings.scope == "local":
        whole, size = own, min(own, shares_of(size, world.size)[world.rank])
    if not (own and size):
        return
    if method.strategy == "joint":
        ledger.flops["selection"] += selection_flops(own, size, settings.chunks, widths)
    elif settings.loss == "softmax":  # each candidate against the whole super-batch, in both directions
        ledger.flops["selection"] += sum(4.0 * own * whole * width for width in widths)
