"""Rules about combinations of keys in a run's config."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aced.config.sections import DataSection, Sections, TeacherSection
from aced.errors import AcedError
from aced.pool.orders.sharing import check_streams
from aced.registry.makers import SOURCES

if TYPE_CHECKING:
    from aced.methods import Method


def check_together(config: Sections, method: Method, super_batch: int) -> None:
    """Raise a ValueError for keys that contradict each other, or a reference that `method` lacks."""
    _check_scoring(config, method)
    _check_teachers(config.teacher)
    _check_window(config, method)
    _check_quota(config, method)
    if config.run.parallel == "fsdp" and config.train.precision == "fp16":
        raise ValueError("run.parallel = 'fsdp' needs bf16 or fp32: set train.precision, or run.parallel = 'ddp'.")
    if config.eval.every and (config.data.shards or config.data.source) and not config.eval.tasks:
        raise ValueError("eval.every needs tasks to evaluate on: set eval.tasks, or leave out eval.every.")
    if config.run.keep_best and not config.eval.every:
        raise ValueError("run.keep_best compares evaluations during the run: set eval.every, or leave out keep_best.")
    _check_data(config.data, config.reference.cache or config.teacher.cache)
    _check_streams(config.data, super_batch)
    if config.reference.model or (config.teacher.model and not method.uses_reference):
        return
    if method.needs_peer:
        raise ValueError(
            f"Method '{method.name}' needs a reference of the student's own size: set reference.model to the "
            "`model` folder of a run."
        )
    if method.needs_large:
        raise ValueError(
            f"Method '{method.name}' needs a reference: set reference.model to a trained model (the `model` folder "
            "of a run, or an open_clip name with reference.checkpoint)."
        )


def _check_window(config: Sections, method: Method) -> None:
    """Raise a ValueError for a part of the run without meaning, and for a filter that does not suit the data."""
    own, name = config.method, f"method '{method.name}'"
    if own.since >= own.until:
        raise ValueError(
            f"method.since = {own.since:g} is not before method.until = {own.until:g}: no step would select."
        )
    if (own.since, own.until) != (0.0, 1.0):
        if not method.chooses:
            raise ValueError(f"method.since and method.until have no meaning for {name}, which never selects.")
        if method.distill_on == "iid":
            raise ValueError(
                f"method.since and method.until load one random batch at the other steps, but {name} distils on "
                "another one: leave them out."
            )
    if method.filters and (config.data.views > 1 or config.data.weights):
        which = "views" if config.data.views > 1 else "weights"
        raise ValueError(f"data.{which} does not work with {name}, which keeps single pairs: leave one out.")


def _check_quota(config: Sections, method: Method) -> None:
    """Raise a ValueError for a quota by source without sources or a choice, or with what draws in another way."""
    if not config.method.quota:
        return
    if not (method.chooses or method.filters):
        raise ValueError(f"method.quota has no meaning for method '{method.name}', which never selects: leave it out.")
    if len(config.data.shards) == 1:
        raise ValueError(
            "method.quota shares each batch among the entries of data.shards, which has one: give each source an "
            "entry, or leave method.quota out."
        )
    others = {
        f"method.scope = '{config.method.scope}'": config.method.scope != "global",
        "scoring.cascade": config.scoring.cascade < 1,
        "scoring.early": config.scoring.early,
        "data.views": config.data.views > 1,
    }
    for other in (key for key, there in others.items() if there):
        raise ValueError(f"method.quota does not work with {other} yet: leave out one of them.")


def _check_teachers(teacher: TeacherSection) -> None:
    """Raise a ValueError for lists of teachers and of their weights that do not match."""
    models, checkpoints = ([v] if isinstance(v, str) else v for v in (teacher.model, teacher.checkpoint))
    if len(models) > 1 and not all(models):
        raise ValueError("teacher.model has an empty entry: name a model in each entry.")
    if len(checkpoints) > len(models) or (len(models) > 1 and any(checkpoints) and len(checkpoints) != len(models)):
        raise ValueError(
            f"teacher.model names {len(models)} and teacher.checkpoint {len(checkpoints)}: give one checkpoint for "
            'each teacher, "" for one that brings its own weights.'
        )
    pairs = [(one.model, one.checkpoint) for one in teacher.each]
    if len(set(pairs)) < len(pairs):
        raise ValueError("teacher.model names a teacher twice: all count equally, so leave one out.")


def _check_scoring(config: Sections, method: Method) -> None:
    """Raise a ValueError for an option of scoring that contradicts the others."""
    from aced.core.score_models import SCORES  # imports torch

    scoring, name = config.scoring, f"method '{method.name}'"
    changed = {key for key, value in scoring if value != type(scoring).model_fields[key].default}
    of_student = {"reuse", "unseen", "refresh"} | (set() if scoring.coarse_share else {"resolution"})
    for key in sorted(changed & of_student):
        if not method.scores_student:
            raise ValueError(f"scoring.{key} has no meaning for {name}, which needs no scores of the student.")
    if "cascade" in changed and not (method.scores_student and method.scores_reference):
        raise ValueError(f"scoring.cascade has no meaning for {name}, which does not score by both models.")
    if "cascade" in changed and SCORES[method.score or ""].reference > 0:
        raise ValueError(
            f"scoring.cascade keeps what is easy for the reference, but {name} wants what is hard for it: leave it out."
        )
    if scoring.early and (not method.scores_reference or (method.scores_student and scoring.cascade == 1)):
        raise ValueError(
            f"scoring.early has nothing to decide for {name}: it needs scoring.cascade below 1, or a method whose "
            "reference selects alone."
        )
    vary = "views" if config.data.views > 1 else "caption_choice" if config.data.caption_choice == "random" else ""
    if scoring.unseen == "predict":
        if not scoring.reuse:
            raise ValueError("scoring.unseen = 'predict' needs remembered embeddings: set scoring.reuse too.")
        if scoring.resolution and not scoring.coarse_share:
            raise ValueError("scoring.unseen = 'predict' makes no scoring pass: leave out scoring.resolution.")
        if not method.scores_reference:
            raise ValueError(f"scoring.unseen = 'predict' needs the reference, and {name} has none.")
    elif scoring.refresh:
        raise ValueError("scoring.refresh has no meaning with scoring.unseen = 'embed', which embeds all it lacks.")
    if scoring.reuse and vary:
        raise ValueError(
            f"scoring.reuse remembers one image and caption per pair, but data.{vary} changes them in every "
            "epoch: leave out one of them."
        )
    if scoring.early and method.distill_on == "iid":
        raise ValueError(
            f"scoring.early loads only what the reference keeps but {name} distils on a random batch: leave it out."
        )
    if 0 < scoring.coarse_share * config.train.batch < 1:
        raise ValueError("scoring.coarse_share of train.batch pairs is less than one: raise one of them.")
    if scoring.early and config.data.views > 1:
        raise ValueError("scoring.early does not work with data.views yet: leave out one of them.")
    if scoring.coarse_share and not scoring.resolution:
        raise ValueError("scoring.coarse_share needs an image size: set scoring.resolution.")


def _check_data(data: DataSection, cache: str) -> None:
    """Raise a ValueError for keys that contradict each other; `cache` is the folder of embeddings, if any."""
    if data.source:
        if data.shards:
            raise ValueError("data.source and data.shards both name the pool: leave out one of them.")
        try:
            SOURCES.find(data.source)
        except AcedError as error:
            raise ValueError(f"data.source: {error}") from None
    if data.weights and len(data.weights) != len(data.shards):
        raise ValueError(
            f"data.weights has {len(data.weights)} numbers and data.shards {len(data.shards)} entries: give one "
            "weight for each."
        )
    if data.caption_choice == "random" and (cache or data.in_memory is True):
        what = "cached embeddings belong to one caption" if cache else "data.in_memory keeps one caption"
        remedy = "leave out the cache" if cache else "leave out data.in_memory"
        raise ValueError(
            f"data.caption_choice = 'random' takes a different caption in each epoch, but {what}: {remedy}, or take "
            "the 'first'."
        )
    other = "weights" if data.weights else "caption_choice = 'random'" if data.caption_choice == "random" else ""
    if data.views > 1 and other:
        raise ValueError(f"data.views does not work with data.{other} yet: leave out one of them.")


def _check_streams(data: DataSection, super_batch: int) -> None:
    """Raise a ValueError for an impossible order by streams."""
    if data.locality in (0, "auto"):
        return
    if not data.shards:
        raise ValueError("data.locality orders tars, but data.shards names none: leave it out.")
    if data.streams != "auto":
        try:
            check_streams(super_batch, data.streams)
        except AcedError as error:
            raise ValueError(str(error)) from None
