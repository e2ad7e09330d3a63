"""The choice of a step's training batch among its candidates, according to the run's plan."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from aced.core.embeddings import Embeddings
from aced.core.quotas import sources_at
from aced.core.selection import Score, settled
from aced.pool.concept_column import Concepts
from aced.pool.loader.loading import Loading
from aced.pool.orders.order import Orders
from aced.pool.source import Candidates, Column
from aced.train.scoring.cascade import Sieve
from aced.train.scoring.concept_choice import drawn_by_concepts
from aced.train.scoring.draw import draw
from aced.train.scoring.early import Early
from aced.train.scoring.filtering import FilteredOrder
from aced.train.scoring.history import History
from aced.train.scoring.history_choice import drawn_by_history
from aced.train.scoring.memory import Memory
from aced.train.scoring.moment import Moment
from aced.train.scoring.own_share import each_kept, own_part
from aced.train.scoring.student_embeddings import embed, recall
from aced.train.scoring.window import Window, WindowedOrder


@dataclass(frozen=True)
class ChoicePlan:
    """How a run selects its batches; made once from its config (`make_plan`).

    Attributes:
        score: of the draw; None takes candidates in order: an i.i.d. batch, or the output of `early`.
        early: thins each super-batch before it is loaded; None loads all of it.
        sieve: keeps a part of the loaded candidates, which the student then scores; None keeps all of it.
        side: side in pixels to which images are reduced for scoring; None for the student's own.
        kept: `[m]` positions of the pool that a filter has kept before training; None without one.
        window: the steps that select; None: all of them.
        concepts: the selection by concepts; None if something else decides.
        ends: as of `source_ends`: each source gets its own share of the batch; None: all candidates compete.
    """

    score: Score | None = None
    early: Early | None = None
    sieve: Sieve | None = None
    side: int | None = None
    kept: Tensor | None = None
    window: Window | None = None
    concepts: Concepts | None = None
    ends: Tensor | None = None

    @property
    def columns(self) -> list[Column]:
        """The columns that candidates should be loaded with; otherwise these are loaded on demand."""
        return [] if self.concepts is None else [self.concepts]

    def order(self, order: Orders, stop: int, loading: Loading) -> Orders:
        """The order in which candidates are loaded before step `stop`, given the order of super-batches.

        Raises:
            AcedError: a filter does not suit the order, or leaves less than a batch.
        """
        if self.kept is not None:
            return FilteredOrder(order, self.kept)
        end = stop if self.window is None else min(stop, self.window.end)
        inside = order if self.early is None else self.early.order(order, end, loading)
        return inside if self.window is None else WindowedOrder(order, inside, self.window)

    def sources(self, positions: Tensor) -> Tensor | None:
        """`[B]` the source of each position, on the CPU as they are; None if sources do not matter."""
        return None if self.ends is None else sources_at(self.ends, positions)

    def chooses(self, step: int) -> bool:
        """Whether step number `step` (from 0) selects, instead of taking candidates in order."""
        return self.window is None or self.window.holds(step)


@dataclass(frozen=True)
class StepChoice:
    """The selection of a step.

    Attributes:
        rows: `[b]` int64 rows of the candidates (of all processes', concatenated), on any device.
        scores: `[B]` scores of single pairs, NaN for candidates that were not scored; None if none were.
        reference: the reference's embeddings of this process's candidates, if they were looked up.
        each: number of rows from each process's candidates, if known without reading them.
        finite: bool, a scalar: whether all scores were numbers; None if that need not be checked.
    """

    rows: Tensor
    scores: Tensor | None = None
    reference: Embeddings | None = None
    each: list[int] | None = None
    finite: Tensor | None = None


def choose(
    plan: ChoicePlan, memory: Memory | None, history: History | None, candidates: Candidates, at: Moment
) -> StepChoice:
    """The rows to train on, counted and timed in the ledger.

    Args:
        plan: how to select.
        memory: the student's earlier embeddings of pairs; None if each is embedded anew.
        history: its earlier scores of pairs, for a method that compares with them; or None.
        candidates: this process's; the rows are among those of all processes.
        at: the step.
    """
    chooses = plan.chooses(at.step)
    if chooses and plan.early is not None:
        plan.early.count(at.ledger, len(candidates))
    if chooses and plan.concepts is not None:
        rows, each = drawn_by_concepts(plan.concepts, candidates, at)
        return StepChoice(rows, each=each)
    if chooses and history is not None:
        student = _student(plan, memory, candidates, None, at)
        assert student is not None  # it has a score to compare
        rows, some, finite = drawn_by_history(history, student, at)
        return StepChoice(rows, each=some, finite=finite)
    if not chooses or plan.score is None:
        # Several processes divide the candidates that are here, for which they must know their number.
        device = candidates.indices.device if at.world.size == 1 else None
        return StepChoice(torch.arange(min(at.settings.batch, sum(at.counts)), device=device))
    with at.ledger.timed("score"):
        reference = at.reference.embed(candidates, at.ledger, "reference") if at.reference else None
    if plan.sieve is None:
        choice = _drawn(plan.score, _student(plan, memory, candidates, reference, at), reference, at)
        return replace(choice, reference=reference)
    assert reference is not None  # a cascade has two models
    kept = _kept(plan.sieve, reference, at)
    each = each_kept(kept, plan.sieve.size, at.counts, at.settings.scope)
    mine, then = own_part(kept, each, at.counts, at.world.rank), replace(at, counts=each, positions=at.positions[kept])
    left = reference[mine]
    among = _drawn(plan.score, _student(plan, memory, candidates[mine], left, then), left, then)
    scores = torch.full((sum(at.counts),), torch.nan, device=kept.device)
    assert among.scores is not None
    scores[kept] = among.scores
    return replace(among, rows=kept[among.rows], scores=scores, reference=reference)


def _kept(sieve: Sieve, reference: Embeddings, at: Moment) -> Tensor:
    """The rows that the sieve keeps, among all processes' candidates."""
    with at.ledger.timed("select"):
        kept = sieve.keep(reference, at.step, at.counts)
        sieve.count(at.ledger, len(reference), sum(at.counts), reference.image.shape[1])
    return kept


def _student(
    plan: ChoicePlan, memory: Memory | None, candidates: Candidates, reference: Embeddings | None, at: Moment
) -> Embeddings | None:
    """The student's embeddings, if the method uses them for scoring."""
    if not at.method.scores_student:
        return None
    with at.ledger.timed("score"):
        if memory is None:
            return embed(candidates, at, plan.side)
        return recall(memory, candidates, reference, at, plan.side)


def _drawn(score: Score, student: Embeddings | None, reference: Embeddings | None, at: Moment) -> StepChoice:
    """The batch, from all candidates."""
    with at.ledger.timed("select"):
        chosen = draw(at, score, at.settings.batch, student, reference)
        each = settled(min(at.settings.batch, sum(at.counts)), at.counts, at.settings.scope)
        # On a CPU they were checked during the draw.
        finite = None if chosen.scores.device.type == "cpu" else chosen.finite()
        return StepChoice(chosen.indices, chosen.scores, each=each, finite=finite)
