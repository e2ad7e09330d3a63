"""The ledger of a run from its config alone: the counts of its steps, by their own formulas."""

from __future__ import annotations

import math

import torch

from aced.config import Config
from aced.core.columns import column_flops
from aced.core.linear_fit import LinearFit
from aced.cost.outlined import Models, Outlined
from aced.runs.ledger import FlopPhase, Ledger
from aced.train.distributed import World
from aced.train.run.scoring_plan import kept_by_reference, settings_of, side_of, sieved, window_of
from aced.train.scoring.cascade import Sieve
from aced.train.scoring.draw import count_draw
from aced.train.settings import StepSettings


def run_totals(config: Config, models: Models, pool: int) -> Ledger:
    """The cost of all steps of a run, over all its processes.

    All pairs count as readable and as new: `scoring.reuse` is assumed to remember none of them, so with it the result
    is an upper bound.

    Args:
        config: the run's.
        models: its models, with the assumed length of texts.
        pool: number of pairs of the pool.
    """
    total, steps = Ledger(), config.train.steps
    window = window_of(config, 1)
    inside = max(0, window.end - window.first) if config.row.chooses else 0
    for times, chooses in ((inside, True), (steps - inside, False)):
        step = _step(config, models, chooses=chooses)
        total.samples_trained += times * step.samples_trained
        total.samples_loaded += times * step.samples_loaded
        total.cached_flops += times * step.cached_flops
        for phase, spent in step.flops.items():
            total.flops[phase] += times * spent
    if config.row.filters and models.reference is not None:
        total.cached_flops += pool * models.reference.forward
    return total


def _step(config: Config, models: Models, *, chooses: bool) -> Ledger:
    """One step's ledger, the mean if steps differ; a step without selection trains on a random batch."""
    ledger, method, batch = Ledger(), config.row, config.train.batch
    settings = settings_of(config, "fp32")  # the precision changes no count
    ledger.samples_loaded = batch
    known = chooses and method.scores_reference and not (config.scoring.early and not sieved(config))
    if chooses:
        ledger.samples_loaded = kept_by_reference(config) if config.scoring.early else config.super_batch
        if method.scores_reference:
            assert models.reference is not None
            # With `early`, kept and distilled pairs are looked up once more and counted once.
            _embed(ledger, models.reference, "reference", config.super_batch - (0 if known else _again(models, batch)))
        if method.score is not None:
            _choose(ledger, config, models, settings)
        elif method.history:
            _score(ledger, config, models, config.super_batch)
    guides = method.guided and models.reference not in models.teachers and not known
    if guides and models.reference is not None:
        _embed(ledger, models.reference, "reference", batch)
    for teacher in models.teachers:
        if teacher is not models.reference or not known:  # the reference's embeddings are used again
            _embed(ledger, teacher, "teacher", batch)
        if method.columns:
            ledger.cached_flops += method.columns * teacher.forward
            ledger.flops["teacher"] += column_flops(batch, method.columns, teacher.tower.width)
    for _ in range(2 if method.distill is not None and method.distill_on == "iid" else 1):
        _train(ledger, models.student, settings)
    return ledger


def _again(models: Models, batch: int) -> int:
    """Pairs that the reference embeds again as a teacher."""
    return batch if models.reference in models.teachers else 0


def _embed(ledger: Ledger, model: Outlined, phase: FlopPhase, pairs: int) -> None:
    """Embeddings of a frozen model: looked up, or computed."""
    if model.cached:
        ledger.cached_flops += pairs * model.forward
    else:
        ledger.forward(phase, pairs, model.forward)


def _choose(ledger: Ledger, config: Config, models: Models, settings: StepSettings) -> None:
    """The reference's choice, the student's scores, and the draw."""
    method, world, left = config.row, World(), config.super_batch
    reference = [models.reference.tower.width] if models.reference is not None and method.scores_reference else []
    cascade, kept = sieved(config), kept_by_reference(config)
    if cascade or config.scoring.early:
        Sieve(kept, settings, method, config.run.seed, world).count(ledger, left, left, reference[0])
        left = kept
    if config.scoring.early and not cascade:
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
    assert models.reference is not None  # `predict` needs it
    fit = LinearFit(models.reference.tower.width, student.tower.width, torch.device("meta"))
    refreshed = min(pairs, math.ceil(scoring.refresh * config.train.batch))
    ledger.forward("scoring", refreshed, student.forward)
    ledger.flops["scoring"] += fit.predict_flops(pairs - refreshed) + fit.update_flops(config.train.batch)
    return student.tower.width + 2  # a prediction's missing norm takes two more dimensions


def _train(ledger: Ledger, student: Outlined, settings: StepSettings) -> None:
    """A forward and a backward pass of a batch."""
    tower, image, text = student.tower, float(student.flops.image), float(student.flops.text)
    if tower.partly is not None:
        image = tower.partly.image_flops(tower, tower.partly.rows(settings.batch))
    behind = image * tower.behind[0] + text * tower.behind[1]
    ledger.trained(settings.batch, image + text, behind)
    again = (image + text) * settings.embedded_again + behind * settings.activations_again
    ledger.forward("forward_backward", settings.batch, again)
