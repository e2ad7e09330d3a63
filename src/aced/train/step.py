"""One training step: load, score, choose, train."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from aced.core.embeddings import Embeddings
from aced.core.ledger import Ledger, selection_flops
from aced.core.selection import Loss, Selection, select
from aced.data.source import Candidates
from aced.errors import AcedError
from aced.methods import Method
from aced.towers import Tower
from aced.train.feed import Faults
from aced.train.objective import Objective, Parts
from aced.train.optim import learning_rate, set_learning_rate
from aced.train.providers import Provider


@dataclass(frozen=True)
class Settings:
    """The numbers of a step that do not change during a run; documented in `aced.config`."""

    batch: int
    steps: int
    loss: Loss
    chunks: int
    temperature: float
    lr: float
    warmup: float
    clip: float
    micro_batch: int
    precision: str


@dataclass
class Trainer:
    """What a step works on.

    Attributes:
        student: the model that is trained.
        objective: the losses, with what distillation itself has to learn.
        optimizer: over the parameters of both.
        method: the row of the methods table.
        settings: numbers that do not change.
        reference: scores the super-batch; None for a method that needs none.
        teachers: are distilled; the reference may be among them, and is then asked once for both.
        generator: of the draws.
        ledger: what the run has spent.
        faults: which samples could not be read.
        marks: hashes of the data and the frozen models, so that a resumed run can tell whether they are the same.
        step: number of steps taken.
    """

    student: Tower
    objective: Objective
    optimizer: torch.optim.Optimizer
    method: Method
    settings: Settings
    reference: Provider | None
    teachers: list[Provider]
    generator: torch.Generator
    ledger: Ledger
    faults: Faults
    marks: dict[str, str] = field(default_factory=dict)
    step: int = 0


@dataclass(frozen=True)
class Outcome:
    """What a step did, for those who watch.

    Attributes:
        step: its number, from 1.
        candidates: `[B]` positions in the source of the super-batch's usable samples.
        rows: `[b]` rows of the super-batch that were trained on.
        scores: `[B]` s_ii, or None for a method that does not choose.
        parts: the losses.
        lr: learning rate.
        grad_norm: length of the gradient before it was clipped.
    """

    step: int
    candidates: Tensor
    rows: Tensor
    scores: Tensor | None
    parts: Parts
    lr: float
    grad_norm: float


def train_step(t: Trainer, batches: Iterator[Candidates]) -> Outcome:
    """Take one optimiser step on a batch that the trainer's method chooses.

    Raises:
        AcedError: the loss or the gradient is not finite (the weights are then those before the step), or less than
            half a batch of the super-batch is usable.
    """
    method, ledger, cfg = t.method, t.ledger, t.settings
    with ledger.timed("load"):
        candidates = _usable(t, next(batches))  # B
    with ledger.timed("score"):
        # Scored in evaluation mode, without gradient, in micro-batches.
        student = _score_student(t, candidates) if method.scores_student else None
        reference = t.reference.embed(candidates, ledger, "reference") if t.reference else None
    with ledger.timed("select"):
        chosen = _choose(t, student, reference)
        rows = torch.arange(len(candidates))[: cfg.batch] if chosen is None else chosen.indices.cpu()  # [b]
        rows_kd = _distilled_rows(t, rows, len(candidates))
    with ledger.timed("train"):
        teachers = _teach(t, candidates, rows_kd, reference)
        t.student.train()
        embedded = embedded_kd = _train_embed(t, candidates[rows])
        if rows_kd is not None and rows_kd is not rows:
            embedded_kd = _train_embed(t, candidates[rows_kd])
        loss, parts = t.objective(embedded, embedded_kd, teachers)
        t.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        grad_norm = _clip(t, parts)
        lr = learning_rate(t.step, cfg.steps, peak=cfg.lr, warmup=cfg.warmup)
        set_learning_rate(t.optimizer, lr)
        t.optimizer.step()
        t.objective.clamp(t.student.model)
    t.step += 1
    scores = None if chosen is None else chosen.scores.cpu()
    return Outcome(t.step, candidates.indices, rows, scores, parts, lr, grad_norm)


def _usable(t: Trainer, candidates: Candidates) -> Candidates:
    """Candidates that could be read and that the frozen models have embeddings of; the others are counted."""
    read = len(candidates) + len(candidates.faults)
    t.faults.add(candidates.faults, read, candidates.notes)
    t.ledger.samples_loaded += read
    for provider in [t.reference, *t.teachers]:
        if provider is not None and not (valid := provider.valid(candidates.indices)).all():
            candidates = candidates[valid.nonzero().flatten()]
    # A few samples less make a smaller batch; with most of them gone the run would be another one.
    if 2 * len(candidates) < t.settings.batch:
        raise AcedError(
            f"Step {t.step + 1}: only {len(candidates)} of {read} candidates are usable, less than half a batch of "
            f"{t.settings.batch}{t.faults.commonest()}; repair the data."
        )
    return candidates


def _score_student(t: Trainer, candidates: Candidates) -> Embeddings:
    with _autocast(t):
        embedded = t.student.score(candidates, t.settings.micro_batch)
    t.ledger.forward("scoring", len(candidates), t.student.forward_flops(candidates.texts))
    return embedded


def _choose(t: Trainer, student: Embeddings | None, reference: Embeddings | None) -> Selection | None:
    if t.method.score is None:
        return None
    cfg, used = t.settings, [e for e in (student, reference) if e is not None]
    size = min(cfg.batch, len(used[0]))
    try:
        chosen = select(
            student,
            reference,
            size,
            score=t.method.score,
            loss=cfg.loss,
            strategy=t.method.strategy,
            chunks=cfg.chunks,
            temperature=cfg.temperature,
            generator=t.generator,
        )
    except ValueError as error:
        raise AcedError(f"Step {t.step + 1}: {error}") from error
    widths = [e.image.shape[1] for e in used]
    if t.method.strategy == "joint":
        t.ledger.flops["selection"] += selection_flops(len(used[0]), size, cfg.chunks, widths)
    elif cfg.loss == "softmax":  # each candidate against the whole super-batch, in both directions
        t.ledger.flops["selection"] += sum(4.0 * len(used[0]) ** 2 * width for width in widths)
    return chosen


def _distilled_rows(t: Trainer, rows: Tensor, candidates: int) -> Tensor | None:
    """The rows of the super-batch that are distilled on, `[b]`; `rows` itself where it is the same batch."""
    if t.method.distill is None:
        return None
    if t.method.distill_on == "same":
        return rows
    # The super-batch is i.i.d., so b of it at random are an i.i.d. batch that costs no further loading.
    return torch.randperm(candidates, generator=t.generator)[: len(rows)]


def _teach(t: Trainer, candidates: Candidates, rows: Tensor | None, reference: Embeddings | None) -> list[Embeddings]:
    """The teachers' embeddings of the distilled rows; what the reference has embedded is not embedded again."""
    if rows is None:
        return []
    return [
        reference[rows]
        if reference is not None and p is t.reference
        else p.embed(candidates[rows], t.ledger, "teacher")
        for p in t.teachers
    ]


def _train_embed(t: Trainer, batch: Candidates) -> Embeddings:
    t.ledger.trained(len(batch), t.student.forward_flops(batch.texts))
    with _autocast(t):
        embedded = t.student.embed(batch)
    # The losses and distillation's projections are in float32, whatever the towers ran in.
    return replace(embedded, image=embedded.image.float(), text=embedded.text.float())


def _autocast(t: Trainer) -> torch.autocast:
    return torch.autocast(t.student.device.type, torch.bfloat16, enabled=t.settings.precision == "bf16")


def _clip(t: Trainer, parts: Parts) -> float:
    parameters = [p for group in t.optimizer.param_groups for p in group["params"]]
    norm = float(torch.nn.utils.clip_grad_norm_(parameters, t.settings.clip))
    if not (math.isfinite(parts.loss) and math.isfinite(norm)):
        raise AcedError(
            f"Step {t.step + 1}: the loss is {parts.loss:g} and the gradient's norm {norm:g}; the run stopped before "
            "this step changed the weights. Start a new run with a lower train.lr (student.model can be the `model` "
            "folder of a checkpoint)."
        )
    return norm
