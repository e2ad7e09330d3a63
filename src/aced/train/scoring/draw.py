"""The draw of a step's batch with the run's settings, from the candidates of all processes, counted in the ledger."""

from __future__ import annotations

from aced.core import selection
from aced.core.embeddings import Embeddings
from aced.core.score_models import DrawWords, check_models, models_of
from aced.core.selection import Score, Selection, shares_of
from aced.errors import AcedError
from aced.methods import Method
from aced.runs.ledger import Ledger, selection_flops
from aced.train.distributed import World
from aced.train.scoring.moment import Moment
from aced.train.settings import StepSettings


def draw(at: Moment, score: Score, size: int, student: Embeddings | None, reference: Embeddings | None) -> Selection:
    """The draw of a step, at most `size` rows, counted in the ledger.

    Raises:
        AcedError: as the draw, with the number of the step; on a CPU also for embeddings that are not finite. That
            would wait for a GPU: there `Selection.finite` reports it later.
    """
    needed = [e for e in (student, reference) if e is not None]
    own, whole = len(needed[0]), sum(at.counts)
    size, how = min(size, whole), draw_words(at.settings, at.method, score)
    how["sources"] = at.sources
    try:
        chosen = selection.draw(
            *(student, reference, size, at.world, at.counts),
            scope=at.settings.scope,
            generator=at.generator,
            **how,
        )
        if chosen.scores.device.type == "cpu" and not chosen.finite():
            check_models(models_of(student, reference, score))
    except ValueError as error:
        raise AcedError(f"Step {at.step + 1}: {error}") from error
    widths = [e.image.shape[1] for e in needed]
    count_draw(at.ledger, at.settings, at.method, at.world, (own, whole), size, widths)
    return chosen


def draw_words(settings: StepSettings, method: Method, score: Score) -> DrawWords:
    """The keywords of a draw with a run's settings."""
    return {
        "score": score,
        "loss": settings.loss,
        "strategy": method.strategy,
        "chunks": settings.chunks,
        "temperature": settings.temperature,
    }


def count_draw(
    ledger: Ledger,
    settings: StepSettings,
    method: Method,
    world: World,
    candidates: tuple[int, int],
    size: int,
    widths: list[int],
) -> None:
    """Count this process's FLOPs in a draw of `size` by models of these widths.

    `candidates` are this process's number and the total. Unless the scope is local, each of its own is compared with
    all that were chosen, so the processes' counts add up to those of one.
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
