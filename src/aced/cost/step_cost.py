"""The ledger of one training step, from the config alone: what `train_step` would count, by its own formulas."""

from __future__ import annotations

import math

import torch

from aced.config import Config
from aced.core.columns import column_flops
from aced.core.linear_fit import LinearFit
from aced.cost.outlined import Models, Outlined
from aced.runs.ledger import Ledger
from aced.train.distributed import World
from aced.train.run.scoring_plan import kept_by_reference, settings_of, side_of
from aced.train.scoring.cascade import Sieve
from aced.train.scoring.draw import count_draw
from aced.train.settings import StepSettings


def step_ledger(config: Config, models: Models) -> Ledger:
    """What one step of a run costs, all its processes together; the mean, where steps differ.

    All pairs count as readable and as new: `scoring.reuse` remembers none of them, so that with it the run costs this
    at most.

    Args:
        config: the run's.
        models: its models, with the length of texts that is assumed.
    """
    ledger, method, batch = Ledger(), config.row, config.train.batch
    settings = settings_of(config, "fp32")  # the precision changes no count
    ledger.samples_loaded = kept_by_reference(config) if config.scoring.early else config.super_batch
    if models.reference is not None:
        _embed(ledger, models.reference, "reference", config.super_batch)
    if method.score is not None:
        _choose(ledger, config, models, settings)
    for teacher in models.teachers:
        if teacher is not models.reference:  # what the reference has embedded is not embedded again
            _embed(ledger, teacher, "teacher", batch)
        if method.columns:
            ledger.cached_flops += method.columns * teacher.forward
            ledger.flops["teacher"] += column_flops(batch, method.columns, teacher.tower.width)
    for _ in range(2 if method.distill is not None and method.distill_on == "iid" else 1):
        _train(ledger, models.student, settings)
    return ledger


def _embed(ledger: Ledger, model: Outlined, phase: str, pairs: int) -> None:
    """Embeddings of a frozen model: looked up, or computed."""
    if model.cached:
        ledger.cached_flops += pairs * model.forward
    else:
        ledger.forward("reference" if phase == "reference" else "teacher", pairs, model.forward)


def _choose(ledger: Ledger, config: Config, models: Models, settings: StepSettings) -> None:
    """The reference's choice, the student's scores, and the draw."""
    method, world, left = config.row, World(), config.super_batch
    reference = [models.reference.tower.width] if models.reference is not None else []
    sieved, kept = method.scores_student and config.scoring.cascade < 1, kept_by_reference(config)
    if sieved or config.scoring.early:
        Sieve(kept, settings, method, config.run.seed, world).count(ledger, left, left, reference[0])
        left = kept
    if config.scoring.early and not sieved:
        return
    student = [_score(ledger, config, models, left)] if method.scores_student else []
    count_draw(ledger, settings, method, world, (left, left), config.train.batch, student + reference)


def _score(ledger: Ledger, config: Config, models: Models, pairs: int) -> int:
    """The student's embeddings of pairs, and their width."""
    scoring, student = config.scoring, models.student
    if not (scoring.reuse and scoring.unseen == "predict"):
        side = side_of(config, student.tower)
        ledger.forward("scoring", pairs, student.tower.flops(student.tokens, side).total)
        return student.tower.width
    assert models.reference is not None  # `predict` asks it
    fit = LinearFit(models.reference.tower.width, student.tower.width, torch.device("meta"))
    refreshed = min(pairs, math.ceil(scoring.refresh * config.train.batch))
    ledger.forward("scoring", refreshed, student.forward)
    ledger.flops["scoring"] += fit.predict_flops(pairs - refreshed) + fit.update_flops(config.train.batch)
    return student.tower.width + 2  # what a guess misses lies in two dimensions more


def _train(ledger: Ledger, student: Outlined, settings: StepSettings) -> None:
    """A forward and a backward pass of a batch."""
    tower, image, text = student.tower, float(student.flops.image), float(student.flops.text)
    if tower.partly is not None:
        image = tower.partly.image_flops(tower, tower.partly.rows(settings.batch))
    behind = image * tower.behind[0] + text * tower.behind[1]
    ledger.trained(settings.batch, image + text, behind)
    again = (image + text) * settings.embedded_again + behind * settings.activations_again
    ledger.forward("forward_backward", settings.batch, again)
