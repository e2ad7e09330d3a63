"""One training step: load, score, select, train."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from aced.core.embeddings import Embeddings
from aced.core.shares import Share
from aced.errors import AcedError
from aced.methods import Method
from aced.models import Tower
from aced.pool.source import Candidates
from aced.pool.tars.losttars import KnownTars
from aced.runs.ledger import Ledger
from aced.train.dealing import Dealt, Pool, Taken
from aced.train.distributed import World
from aced.train.feed import Faults
from aced.train.further import FurtherPairs
from aced.train.guard import Guard
from aced.train.objective import LossParts, Objective
from aced.train.opening import open_step
from aced.train.optim import learning_rate, set_learning_rate
from aced.train.providers import Provider
from aced.train.replica import Replica
from aced.train.scoring.choosing import ChoicePlan, choose
from aced.train.scoring.history import History
from aced.train.scoring.memory import Memory
from aced.train.scoring.moment import Moment
from aced.train.settings import StepSettings


@dataclass
class Trainer:
    """The objects that a step works on.

    Attributes:
        world: the processes that train together.
        student: the model that is trained.
        replica: the student as this process and the others train it.
        objective: the losses, with distillation's own parameters.
        optimizer: over the parameters of both.
        method: the row of the methods table.
        settings: numbers that do not change.
        plan: how the training rows are selected.
        memory: the student's earlier embeddings of pairs; None without one.
        history: its earlier scores of pairs; None for a method that does not compare with them.
        reference: scores the super-batch; None for a method without one.
        teachers: models to distil; the reference may be among them, and is then used once for both.
        further: draws further pairs for which only the teachers have embeddings; None for a method without.
        generator: of the draws.
        ledger: the cost of the run.
        faults: the samples that could not be read.
        guard: ends the run if a loss or gradient is not finite.
        marks: hashes of the data and the frozen models, for comparison when the run is resumed.
        tars: the tars of the data.
        step: number of steps taken.
        unscored: whether the evaluation due at this step was interrupted.
        whole: whether the weights are those after `step`; not during an update.
    """

    world: World
    student: Tower
    replica: Replica
    objective: Objective
    optimizer: torch.optim.Optimizer
    method: Method
    settings: StepSettings
    plan: ChoicePlan
    memory: Memory | None
    history: History | None
    reference: Provider | None
    teachers: list[Provider]
    further: FurtherPairs | None
    generator: torch.Generator
    ledger: Ledger
    faults: Faults
    guard: Guard = field(default_factory=Guard)
    marks: dict[str, str] = field(default_factory=dict)
    tars: KnownTars = field(default_factory=lambda: KnownTars(()))
    step: int = 0
    unscored: bool = False
    whole: bool = True

    @property
    def remembered(self) -> list[Memory | History]:
        """What selection remembers of earlier steps."""
        return [one for one in (self.memory, self.history) if one is not None]

    def moment(self, pool: Pool) -> Moment:
        """The context in which the next step selects from the candidates of all processes."""
        return Moment(
            step=self.step,
            world=self.world,
            counts=pool.counts,
            positions=pool.positions,
            method=self.method,
            settings=self.settings,
            student=self.student,
            reference=self.reference,
            generator=self.generator,
            ledger=self.ledger,
            sources=self.plan.sources(pool.listed),
        )


@dataclass(frozen=True)
class Outcome:
    """The result of a step, for observers; tensors may still be in computation on their device.

    Attributes:
        step: its number, from 1.
        candidates: `[B]` source positions of the super-batch's usable samples.
        rows: `[b]` rows of the super-batch in the training batch.
        scores: `[B]` s_ii, NaN for candidates that were not scored; or None without a selection.
        parts: the losses.
        lr: learning rate.
        grad_norm: norm of the gradient before clipping, a scalar; 0 if it overflowed fp16 and the step was
            skipped.
        columns: every column of the rows that this process trained on, by name; of a job of one process these are
            `rows`.
    """

    step: int
    candidates: Tensor
    rows: Tensor
    scores: Tensor | None
    parts: LossParts
    lr: float
    grad_norm: Tensor
    columns: dict[str, Tensor] = field(default_factory=dict)


def train_step(t: Trainer, batches: Iterator[Candidates]) -> Outcome:
    """Take one optimiser step on a batch that the trainer's method selects.

    Raises:
        AcedError: the loss or the gradient of this step, or of the one before it, is not finite (the weights are then
            those before that step), or less than half a batch of the super-batch is usable.
    """
    ledger, cfg = t.ledger, t.settings
    t.replica.begin()
    with ledger.timed("load"):
        pool = _usable(t, next(batches))  # B, of which this process holds its own part
        if t.further is not None:
            t.further.read(t.step)
    at = t.moment(pool)
    choice = choose(t.plan, t.memory, t.history, pool.own, at)  # times its own scoring and selection
    dealt = pool.deal(choice.rows, choice.each)  # b, and the process that trains on each
    dealt_kd = _distilled(t, dealt, pool)
    with ledger.timed("train"):
        deals = [dealt] if dealt_kd is None or dealt_kd is dealt else [dealt, dealt_kd]
        taken = pool.take(deals, choice.reference if _known(t) else None)
        teachers = _teach(t, taken[-1], pool.counts_of(deals[-1]))
        t.student.train()
        shares = [_train_embed(t, pool, *pair) for pair in zip(deals, taken, strict=True)]
        guide = _guide(t, taken[0], teachers if deals[-1] is dealt else (), pool.counts_of(dealt))
        t.replica.join(_compared(t, teachers, guide))
        loss, parts = t.objective(shares[0], shares[-1], teachers, _further(t, len(dealt.rows)), guide)
        t.optimizer.zero_grad(set_to_none=True)
        parts = parts.like(t.replica.backward(loss, parts.numbers()))
        norm = t.replica.clip(t.optimizer, cfg.clip)
        verdict = t.replica.judge(parts.loss, norm, choice.finite)
        t.guard.note(t.step + 1, parts.loss, norm, verdict)
        lr = learning_rate(t.step, cfg.steps, peak=cfg.lr, warmup=cfg.warmup)
        set_learning_rate(t.optimizer, lr)
        t.whole = False  # until the step is complete
        t.replica.update(t.optimizer, verdict)
        t.objective.clamp(t.student.model)
        _remember(t, pool.positions[dealt.rows], shares[0], taken[0].known, at)
    t.step += 1
    columns = taken[0].batch.columns
    return Outcome(t.step, pool.positions, dealt.rows, choice.scores, parts, lr, verdict.norm, columns)


def _usable(t: Trainer, candidates: Candidates) -> Pool:
    """Candidates that were readable and have embeddings by the frozen models; the others are counted."""
    t.ledger.samples_loaded += candidates.asked
    told = open_step(t.world, candidates, -(-t.settings.super_batch // t.world.size), t.faults)
    t.faults.add(told.faults, told.read, told.notes, met=told.faulty)
    pool = Pool(candidates, t.world, t.settings.scope, told.positions, told.widths)
    # A few missing samples make a smaller batch; without most of them the run would be another one.
    if 2 * len(pool) < t.settings.batch:
        raise AcedError(
            f"Step {t.step + 1}: only {len(pool)} of {told.read} candidates are usable, less than half a batch of "
            f"{t.settings.batch}{t.faults.commonest()}; repair the data."
        )
    return pool


def _distilled(t: Trainer, dealt: Dealt, pool: Pool) -> Dealt | None:
    """The b rows of the super-batch for distillation; `dealt` itself if it is the same batch."""
    if t.method.distill is None:
        return None
    if t.method.distill_on == "same":
        return dealt
    # The super-batch is i.i.d., so b random ones of it are an i.i.d. batch that needs no further loading.
    return pool.deal(pool.draw(len(dealt.rows), t.generator))


def _known(t: Trainer) -> bool:
    """Whether the reference's embeddings of the batch are needed again: by a loss, or to learn to predict."""
    return t.reference in t.teachers or t.method.guided or (t.memory is not None and t.memory.guess is not None)


def _teach(t: Trainer, taken: Taken, counts: list[int]) -> list[Share]:
    """The teachers' embeddings of this process's share of the distilled rows, given each process's number of them.

    The reference's existing embeddings are used again.
    """
    return [
        t.world.share(
            taken.known if taken.known is not None and p is t.reference else p.embed(taken.batch, t.ledger, "teacher"),
            counts,
        )
        for p in t.teachers
    ]


def _guide(t: Trainer, taken: Taken, teachers: Sequence[Share], counts: list[int]) -> Share | None:
    """The reference's embeddings of this process's share of B_ce, if the contrastive loss uses them.

    `teachers` has the teachers' embeddings of the same pairs: if the reference also teaches, it is among them.
    """
    if not t.method.guided:
        return None
    assert t.reference is not None  # a loss that uses it implies one
    if t.reference in t.teachers and teachers:
        return teachers[t.teachers.index(t.reference)]
    known = taken.known if taken.known is not None else t.reference.embed(taken.batch, t.ledger, "reference")
    return t.world.share(known, counts)


def _compared(t: Trainer, teachers: Sequence[Share], guide: Share | None) -> list[Share]:
    """Frozen models' embeddings of the batch that losses compare with one another, each once."""
    compared = list(teachers) if t.objective.compares else []
    return compared if guide is None or any(guide is one for one in compared) else [*compared, guide]


def _further(t: Trainer, pairs: int) -> list[Embeddings]:
    """The teachers' embeddings of further pairs, the same in every process; each counts its own part."""
    share = 1 / t.world.size
    return [] if t.further is None else t.further.of(t.step, pairs * share, t.ledger, share)


def _train_embed(t: Trainer, pool: Pool, dealt: Dealt, taken: Taken) -> Share:
    """Embeddings of this process's share of the dealt rows, already `taken`."""
    batch = taken.batch
    if t.student.partly is not None:
        # In drawing order, so that the same pairs are processed coarsely regardless of rank.
        coarse = t.student.partly.rows(len(dealt.rows))[dealt.places.cpu()]
        batch = replace(batch, coarse=coarse[pool.place(dealt)])
    flops, behind = t.student.training_flops(batch)
    t.ledger.trained(len(batch), flops, behind)
    again = flops * t.settings.embedded_again + behind * t.settings.activations_again
    t.ledger.forward("forward_backward", len(batch), again)
    return t.replica.share(t.replica.embed(batch), pool.counts_of(dealt))


def _remember(t: Trainer, positions: Tensor, share: Share, known: Embeddings | None, at: Moment) -> None:
    """Let the memory, if any, store training's embeddings of the batch.

    Args:
        t: the trainer.
        positions: `[b]` source positions of the whole batch.
        share: this process's share of training's embeddings.
        known: the reference's embeddings of the same pairs, if needed.
        at: the step.
    """
    if t.memory is None:
        return
    own, counts = share.own.detach(), share.counts
    if known is None or t.memory.guess is None:
        t.memory.trained(positions, t.world.embeddings(own, counts), None, at)
        return
    # In one exchange; both models' are float32.
    sides = torch.cat([own.image, own.text, known.image, known.text], 1)
    width, theirs = own.image.shape[1], known.image.shape[1]
    image, text, *other = t.world.gather(sides, counts).split([width, width, theirs, theirs], 1)
    student = replace(own, image=image, text=text)
    t.memory.trained(positions, student, replace(known, image=other[0], text=other[1]), at)
