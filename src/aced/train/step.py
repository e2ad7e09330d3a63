"""One training step: load, score, choose, train."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

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
    """What a step works on. `reference` scores, `teachers` are distilled; they may be the same provider."""

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
    step: int = 0


@dataclass(frozen=True)
class Outcome:
    """What a step did, for those who watch."""

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
        AcedError: the loss or the gradient is not finite (the weights are then those before the step), or the
            super-batch holds too few readable samples.
    """
    method, ledger, cfg = t.method, t.ledger, t.settings
    with ledger.timed("load"):
        candidates = _readable(t, next(batches))  # B
    with ledger.timed("score"):
        # Scored in evaluation mode, without gradient, in micro-batches.
        student = _score_student(t, candidates) if method.scores_student else None
        reference = _score_reference(t, candidates) if method.scores_reference else None
    with ledger.timed("select"):
        chosen = _choose(t, student, reference)
        rows = torch.arange(cfg.batch) if chosen is None else chosen.indices.cpu()  # [b]
        batch = candidates[rows]
        distilled = _distillation_batch(t, candidates, batch)
    with ledger.timed("train"):
        teachers = [p.embed(distilled, ledger, "teacher") for p in t.teachers] if distilled else []
        t.student.train()
        with torch.autocast(t.student.device.type, torch.bfloat16, enabled=cfg.precision == "bf16"):
            embedded = _train_embed(t, batch)
            same = distilled is batch
            embedded_kd = embedded if same else _train_embed(t, distilled) if distilled else None
        loss, parts = t.objective(embedded, embedded_kd, teachers)
        t.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        grad_norm = _clip(t, cfg.clip, parts)
        lr = learning_rate(t.step, cfg.steps, peak=cfg.lr, warmup=cfg.warmup)
        set_learning_rate(t.optimizer, lr)
        t.optimizer.step()
        t.objective.clamp(t.student.model)
    t.step += 1
    return Outcome(
        t.step,
        candidates.indices,
        rows,
        None if chosen is None else chosen.scores.cpu(),
        parts,
        lr,
        grad_norm,
    )


def _readable(t: Trainer, candidates: Candidates) -> Candidates:
    """Candidates that could be read and that the frozen models have embeddings of; the others are counted."""
    read = len(candidates) + len(candidates.faults)
    t.faults.add(candidates.faults, read)
    t.ledger.samples_loaded += read
    for provider in [t.reference, *t.teachers]:
        if provider is not None and not (valid := provider.valid(candidates.indices)).all():
            candidates = candidates[valid.nonzero().flatten()]
    if len(candidates) < t.settings.batch:
        raise AcedError(
            f"Step {t.step + 1}: only {len(candidates)} of {read} candidates are readable, fewer than the batch "
            f"of {t.settings.batch}; repair the data or raise method.filtering_ratio."
        )
    return candidates


def _score_student(t: Trainer, candidates: Candidates) -> Embeddings:
    with torch.autocast(t.student.device.type, torch.bfloat16, enabled=t.settings.precision == "bf16"):
        embedded = t.student.score(candidates, t.settings.micro_batch)
    t.ledger.forward("scoring", len(candidates), t.student.forward_flops(candidates.texts))
    return embedded


def _score_reference(t: Trainer, candidates: Candidates) -> Embeddings:
    assert t.reference is not None  # build.py gives one to every method that scores with it
    return t.reference.embed(candidates, t.ledger, "reference")


def _choose(t: Trainer, student: Embeddings | None, reference: Embeddings | None) -> Selection | None:
    if t.method.score is None:
        return None
    cfg = t.settings
    try:
        chosen = select(
            student,
            reference,
            cfg.batch,
            score=t.method.score,
            loss=cfg.loss,
            strategy=t.method.strategy,
            chunks=cfg.chunks,
            temperature=cfg.temperature,
            generator=t.generator,
        )
    except ValueError as error:
        raise AcedError(f"Step {t.step + 1}: {error}") from error
    if t.method.strategy == "joint":
        used = [e for e in (student, reference) if e is not None]
        widths = [e.image.shape[1] for e in used]
        t.ledger.flops["selection"] += selection_flops(len(used[0]), cfg.batch, cfg.chunks, widths)
    return chosen


def _distillation_batch(t: Trainer, candidates: Candidates, batch: Candidates) -> Candidates | None:
    if t.method.distill is None:
        return None
    if t.method.distill_on == "same":
        return batch
    # The super-batch is i.i.d., so b of it at random are an i.i.d. batch that costs no further loading.
    return candidates[torch.randperm(len(candidates), generator=t.generator)[: t.settings.batch]]


def _train_embed(t: Trainer, batch: Candidates) -> Embeddings:
    t.ledger.trained(len(batch), t.student.forward_flops(batch.texts))
    return t.student.embed(batch)


def _clip(t: Trainer, limit: float, parts: Parts) -> float:
    parameters = [p for group in t.optimizer.param_groups for p in group["params"]]
    norm = float(torch.nn.utils.clip_grad_norm_(parameters, limit))
    if not (math.isfinite(parts.loss) and math.isfinite(norm)):
        raise AcedError(
            f"Step {t.step + 1}: the loss is {parts.loss:g} and the gradient's norm {norm:g}; the run stopped before "
            "this step changed the weights. Lower train.lr, or resume from the last checkpoint with another seed."
        )
    return norm
