"""One training step: load, score, choose, train."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from aced.core.embeddings import Embeddings
from aced.core.ledger import Ledger
from aced.core.selection import Loss
from aced.data.source import Candidates
from aced.errors import AcedError
from aced.methods import Method
from aced.towers import Tower
from aced.train.feed import Faults
from aced.train.objective import Objective, Parts
from aced.train.optim import learning_rate, set_learning_rate
from aced.train.providers import Provider
from aced.train.scoring.choosing import Chooser, look_ahead, usable


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
        chooser: chooses the rows that are trained on.
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
    chooser: Chooser
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
        scores: `[B]` s_ii, NaN where a candidate was not scored; or None where nothing was chosen.
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
    ledger, cfg = t.ledger, t.settings
    with ledger.timed("load"):
        candidates = _usable(t, next(batches))  # B
    choice = t.chooser.choose(t, candidates)  # times itself: what it scores, and what it selects
    rows = choice.rows  # [b]
    rows_kd = _distilled_rows(t, rows, len(candidates))
    look_ahead(t, batches)
    with ledger.timed("train"):
        teachers = _teach(t, candidates, rows_kd, choice.reference)
        t.student.train()
        batch = candidates[rows]
        embedded = embedded_kd = _train_embed(t, batch)
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
        t.chooser.trained(t, batch, embedded.detach())
    t.step += 1
    return Outcome(t.step, candidates.indices, rows, choice.scores, parts, lr, grad_norm)


def _usable(t: Trainer, candidates: Candidates) -> Candidates:
    """Candidates that could be read and that the frozen models have embeddings of; the others are counted."""
    read = len(candidates) + len(candidates.faults)
    t.faults.add(candidates.faults, read)
    t.ledger.samples_loaded += read
    candidates = usable(t, candidates)
    # A few samples less make a smaller batch; with most of them gone the run would be another one.
    if 2 * len(candidates) < t.settings.batch:
        raise AcedError(
            f"Step {t.step + 1}: only {len(candidates)} of {read} candidates are usable, less than half a batch of "
            f"{t.settings.batch}; repair the data."
        )
    return candidates


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
    t.ledger.trained(len(batch), t.student.training_flops(batch.texts))
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
