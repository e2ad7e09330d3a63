"""One training step: load, score, choose, train."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from aced.core.embeddings import Embeddings
from aced.core.ledger import Ledger
from aced.core.shares import Share
from aced.data.losttars import KnownTars
from aced.data.source import Candidates
from aced.devices import sent
from aced.errors import AcedError
from aced.methods import Method
from aced.towers import Tower
from aced.train.dealing import Dealt, Pool, all_faults
from aced.train.distributed import World
from aced.train.feed import Faults
from aced.train.further import FurtherPairs
from aced.train.guard import Guard
from aced.train.objective import Objective, Parts
from aced.train.optim import learning_rate, set_learning_rate
from aced.train.providers import Provider
from aced.train.replica import Replica
from aced.train.scoring.choosing import Choice, Plan, choose
from aced.train.scoring.memory import Memory
from aced.train.scoring.moment import Moment
from aced.train.settings import Settings


@dataclass
class Trainer:
    """What a step works on.

    Attributes:
        world: the processes that train together.
        student: the model that is trained.
        replica: the student as this process and the others train it.
        objective: the losses, with what distillation itself has to learn.
        optimizer: over the parameters of both.
        method: the row of the methods table.
        settings: numbers that do not change.
        plan: how the rows that are trained on are chosen.
        memory: what the student made of pairs before; None where none is kept.
        reference: scores the super-batch; None for a method that needs none.
        teachers: are distilled; the reference may be among them, and is then asked once for both.
        further: draws further pairs that the teachers alone have embedded; None for a method without.
        generator: of the draws.
        ledger: what the run has spent.
        faults: which samples could not be read.
        guard: ends the run where a loss or gradient is not finite.
        marks: hashes of the data and the frozen models, so that a resumed run can tell whether they are the same.
        tars: that the data lie in.
        step: number of steps taken.
        unscored: whether the evaluation that is due at this step was cut short.
        whole: whether the weights are those behind `step`; not while an update is under way.
    """

    world: World
    student: Tower
    replica: Replica
    objective: Objective
    optimizer: torch.optim.Optimizer
    method: Method
    settings: Settings
    plan: Plan
    memory: Memory | None
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

    def moment(self, counts: list[int]) -> Moment:
        """What the next step chooses with, where each process has so many candidates."""
        return Moment(
            step=self.step,
            world=self.world,
            counts=counts,
            method=self.method,
            settings=self.settings,
            student=self.student,
            reference=self.reference,
            generator=self.generator,
            ledger=self.ledger,
        )


@dataclass(frozen=True)
class Outcome:
    """What a step did, for those who watch; tensors may still be in the making on the device they are on.

    Attributes:
        step: its number, from 1.
        candidates: `[B]` positions in the source of the super-batch's usable samples.
        rows: `[b]` rows of the super-batch that were trained on.
        scores: `[B]` s_ii, NaN where a candidate was not scored; or None where nothing was chosen.
        parts: the losses.
        lr: learning rate.
        grad_norm: length of the gradient before it was clipped, a scalar; 0 where it overflowed fp16 and the step was
            skipped.
    """

    step: int
    candidates: Tensor
    rows: Tensor
    scores: Tensor | None
    parts: Parts
    lr: float
    grad_norm: Tensor


def train_step(t: Trainer, batches: Iterator[Candidates]) -> Outcome:
    """Take one optimiser step on a batch that the trainer's method chooses.

    Raises:
        AcedError: the loss or the gradient of this step, or of the one before it, is not finite (the weights are then
            those before that step), or less than half a batch of the super-batch is usable.
    """
    ledger, cfg = t.ledger, t.settings
    t.replica.begin()
    with ledger.timed("load"):
        pool = _usable(t, next(batches))  # B, of which this process holds its own
    at = t.moment(pool.counts)
    choice = choose(t.plan, t.memory, pool.own, at)  # times itself: what it scores, and what it selects
    dealt = pool.deal(choice.rows, choice.each)  # b, and which process trains on each
    dealt_kd = _distilled(t, dealt, pool)
    with ledger.timed("train"):
        batch = batch_kd = pool.take(dealt)
        if dealt_kd is not None and dealt_kd is not dealt:
            batch_kd = pool.take(dealt_kd)
        teachers = _teach(t, pool, dealt_kd, batch_kd, choice.reference)
        t.student.train()
        share = share_kd = _train_embed(t, pool, dealt, batch)
        if dealt_kd is not None and batch_kd is not batch:
            share_kd = _train_embed(t, pool, dealt_kd, batch_kd)
        loss, parts = t.objective(share, share_kd, teachers, _further(t, pool.own, len(dealt.rows)))
        t.optimizer.zero_grad(set_to_none=True)
        t.replica.backward(loss)
        norm = t.replica.clip(t.optimizer, cfg.clip)
        verdict = t.replica.judge(parts.loss, norm, choice.finite)
        t.guard.note(t.step + 1, parts.loss, norm, verdict)
        lr = learning_rate(t.step, cfg.steps, peak=cfg.lr, warmup=cfg.warmup)
        set_learning_rate(t.optimizer, lr)
        t.whole = False  # until the step is complete
        t.replica.update(t.optimizer, verdict)
        t.objective.clamp(t.student.model)
        _remember(t, pool, dealt, share, choice, at)
    t.step += 1
    return Outcome(t.step, pool.positions, dealt.rows, choice.scores, parts, lr, verdict.norm)


def _usable(t: Trainer, candidates: Candidates) -> Pool:
    """Candidates that could be read and that the frozen models have embeddings of; the others are counted."""
    t.ledger.samples_loaded += candidates.asked
    faults, notes, read = all_faults(t.world, candidates, candidates.asked)
    t.faults.add(faults, read, notes)
    pool = Pool(candidates, t.world, t.settings.scope)
    # A few samples less make a smaller batch; with most of them gone the run would be another one.
    if 2 * len(pool) < t.settings.batch:
        raise AcedError(
            f"Step {t.step + 1}: only {len(pool)} of {read} candidates are usable, less than half a batch of "
            f"{t.settings.batch}{t.faults.commonest()}; repair the data."
        )
    return pool


def _distilled(t: Trainer, dealt: Dealt, pool: Pool) -> Dealt | None:
    """The rows of the super-batch that are distilled on, b of them; `dealt` itself where it is the same batch."""
    if t.method.distill is None:
        return None
    if t.method.distill_on == "same":
        return dealt
    # The super-batch is i.i.d., so b of it at random are an i.i.d. batch that costs no further loading.
    return pool.deal(pool.draw(len(dealt.rows), t.generator))


def _teach(t: Trainer, pool: Pool, dealt: Dealt | None, batch: Candidates, reference: Embeddings | None) -> list[Share]:
    """The teachers' embeddings of this process's share of the distilled rows, which is `batch`.

    What the reference has embedded is not embedded again.
    """
    if dealt is None:
        return []
    return [
        pool.share(dealt, reference)
        if reference is not None and p is t.reference
        else t.world.share(p.embed(batch, t.ledger, "teacher"), pool.counts_of(dealt))
        for p in t.teachers
    ]


def _further(t: Trainer, candidates: Candidates, pairs: int) -> list[Embeddings]:
    """The teachers' embeddings of further pairs, the same in every process, each of which counts its own part."""
    share = 1 / t.world.size
    return [] if t.further is None else t.further.of(candidates, pairs * share, t.ledger, share)


def _train_embed(t: Trainer, pool: Pool, dealt: Dealt, batch: Candidates) -> Share:
    """Embeddings of this process's share of the dealt rows, which is `batch`."""
    if t.student.partly is not None:
        # By the order of the draw, so that the same pairs are seen coarsely whoever trains on them.
        coarse = sent(t.student.partly.rows(len(dealt.rows)), dealt.places.device)[dealt.places]
        batch = replace(batch, coarse=coarse[pool.place(dealt)])
    flops = t.student.training_flops(batch)
    t.ledger.trained(len(batch), flops)
    t.ledger.forward("forward_backward", len(batch), flops * t.settings.recomputed)
    return t.replica.share(t.replica.embed(batch), pool.counts_of(dealt))


def _remember(t: Trainer, pool: Pool, dealt: Dealt, share: Share, choice: Choice, at: Moment) -> None:
    """Let the memory, where there is one, take in what training made of its batch."""
    if t.memory is None:
        return
    known = None
    if t.memory.guess is not None and choice.reference is not None:
        known = _of_all(t, pool.share(dealt, choice.reference))
    t.memory.trained(pool.positions[dealt.rows], _of_all(t, share), known, at)


def _of_all(t: Trainer, share: Share) -> Embeddings:
    """The embeddings of a whole batch, of which this process has a share, without gradient."""
    return t.world.embeddings(share.own, share.counts)
