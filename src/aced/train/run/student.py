"""The student of a run: its initial weights, and the check that it still matches a checkpoint."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch

from aced.config import Config
from aced.errors import AcedError
from aced.models import Tower
from aced.models.architecture import architecture
from aced.models.hub_files import FileProgress
from aced.models.model_loading import load_recipe
from aced.models.own_tower import OwnTower, described
from aced.models.recipes import OWN, TOWER_FILE, Recipe, find_recipe, saved_recipe
from aced.models.tokenizers import choose_tokenizer, tokenizer_identity
from aced.registry.makers import TOWERS, made
from aced.registry.objectives import LOSSES
from aced.train.run.automatic import device_of

SIGLIP = {"init_logit_bias": -10.0, "init_logit_scale": math.log(10)}
"""Initial logit bias and logarithm of the scale, as in `open_clip_train --siglip`."""


def make_student(config: Config, resumed: Path | None = None, progress: FileProgress | None = None) -> Tower:
    """The student with its initial weights: random from the seed, or trained. Its `notes` describe the choice.

    With the sigmoid loss, one without a logit bias gets one, and a matching scale.

    Args:
        config: the run's.
        resumed: the checkpoint from which the run resumes; it decides what the config leaves open.
        progress: opens a bar for downloads.

    Raises:
        AcedError: it cannot be loaded, or has another architecture than the checkpoint.
    """
    section = config.student
    if section.model in TOWERS:
        own: Tower = made(TOWERS, section.model, section.checkpoint, config.run.seed)
        if resumed is not None:
            check_student(resumed, own)
        elif section.checkpoint and (text := _idle_bias(own, config)) is not None:
            own.notes += (text,)
        return own.to(device_of(config))
    recipe = find_recipe(section.model, section.checkpoint)
    first = None
    if resumed is not None and (resumed / "model" / TOWER_FILE).is_file():
        recipe = _as_before(recipe, saved_recipe(resumed / "model"))
    elif LOSSES.find(config.loss).scores == "sigmoid":
        first = SIGLIP | {key: recipe.config[key] for key in SIGLIP if recipe.config.get(key) is not None}
        recipe = recipe if recipe.trained else _with_bias(recipe)
    tower = load_recipe(recipe, device_of(config), config.run.seed, progress, first)
    if recipe.kind == "hub" and not recipe.trained:
        tower.notes += (f"student.model = '{section.model}' holds no weights: the student starts from random ones.",)
    if resumed is not None:
        check_student(resumed, tower)
    elif recipe.trained and (text := _idle_bias(tower, config, recipe.config.get("init_logit_bias"))) is not None:
        tower.notes += (text,)
    return tower


def _idle_bias(tower: Tower, config: Config, first: float | None = None) -> str | None:
    """A warning about a trained student whose logit bias the run's loss ignores; `first` is where it started."""
    bias = torch.as_tensor(tower.scale_and_bias()[1]).item()
    if not bias or not config.row.contrastive or LOSSES.find(config.loss).scores == "sigmoid":
        return None
    if first is not None and math.isclose(bias, first, rel_tol=1e-6):  # training without the sigmoid loss left it
        return None
    own = config.row.loss is not None
    return (
        f"student.model = '{config.student.model}' has a logit bias of {bias:.4g}, which the loss {config.loss} does "
        f"not use: {'choose another method and' if own else 'to continue as it was trained,'} set method.loss=sigmoid."
    )


def _with_bias(recipe: Recipe) -> Recipe:
    """The recipe with the initial values for the sigmoid loss, if it names no bias."""
    if recipe.config.get("init_logit_bias") is not None:
        return recipe
    named = {key: value for key, value in recipe.config.items() if value is not None}
    added = {key: value for key, value in SIGLIP.items() if key not in named}
    note = (
        f"{recipe.name} has no logit bias, which the sigmoid loss needs: it starts with "
        f"{', '.join(f'{key} = {value:.4g}' for key, value in added.items())}, as in open_clip_train; its JSON "
        'config can set others ("init_logit_bias": 0 to start without one).'
    )
    return replace(recipe, config={**recipe.config, **added}, notes=(*recipe.notes, note))


def _as_before(recipe: Recipe, before: Recipe) -> Recipe:
    """The recipe with open choices as in a run's checkpoint: the meaning of a name, and the logit bias."""
    if recipe.plain is not None and architecture(before.config) != architecture(recipe.config):
        recipe = recipe.plain  # the run predates the use of the pretrained weights' shared settings
    if recipe.kind == "name":
        recipe = replace(recipe, preprocess=before.preprocess, notes=())
    if recipe.config.get("init_logit_bias") is None and before.config.get("init_logit_bias") is not None:
        added = {key: before.config[key] for key in SIGLIP if before.config.get(key) is not None}
        recipe = replace(recipe, config={**recipe.config, **added})
    return recipe


def check_student(checkpoint: Path, student: Tower) -> None:
    """Raise an AcedError if a checkpoint's student was built differently.

    Another architecture may be able to read weights of the same shapes, but would compute something else.
    """
    if not (checkpoint / "model" / TOWER_FILE).is_file():
        return  # a damaged checkpoint is reported where it is read
    if isinstance(student, OwnTower):
        _check_own(checkpoint, student)
        return
    before = saved_recipe(checkpoint / "model")
    found = dict(_differences(before, student))
    if found:
        what = "; ".join(f"{key} was {old} and is now {new}" for key, (old, new) in found.items())
        raise AcedError(
            f"{checkpoint} has another student: {what}; set student.model={checkpoint / 'model'} to use its own, "
            "or choose another run.out for a new run."
        )


def _check_own(checkpoint: Path, student: OwnTower) -> None:
    """As `check_student`, for a model from outside open_clip."""
    before = json.loads((checkpoint / "model" / TOWER_FILE).read_bytes())
    now = described(student)
    for key in (OWN, "architecture", "preprocess_cfg"):
        if before.get(key) != now[key]:
            raise AcedError(
                f"{checkpoint} has another student: {key} was {before.get(key)} and is now {now[key]}; hand over the "
                "original one, or choose another run.out for a new run."
            )


def _differences(before: Recipe, student: Tower) -> Iterator[tuple[str, tuple[str, str]]]:
    """The differences between a saved student and another one, each with both values."""
    old, new = architecture(before.config, before.text_model()), architecture(student.config, student.text_model)
    yield from _unequal("", old, new)
    bias = before.config.get("init_logit_bias") is not None
    if bias != (getattr(student.model, "logit_bias", None) is not None):
        yield "logit_bias", ("there", "missing") if bias else ("missing", "there")
    for key, value in before.preprocess.items():
        if student.preprocess.get(key) != value:
            yield f"preprocess_cfg.{key}", (str(value), str(student.preprocess.get(key)))
    text = before.config["text_cfg"]
    tokenizer = choose_tokenizer(before.name, text, student.context_length, before.vocabulary)
    if tokenizer_identity(tokenizer) != tokenizer_identity(student.tokenizer):
        yield "the tokenizer", ("another", "this one")


def _unequal(at: str, old: dict[str, object], new: dict[str, object]) -> Iterator[tuple[str, tuple[str, str]]]:
    for key in sorted(old.keys() | new.keys()):
        one, other = old.get(key), new.get(key)
        if isinstance(one, dict) and isinstance(other, dict):
            yield from _unequal(f"{at}{key}.", one, other)
        elif one != other:
            yield f"{at}{key}", tuple("the default" if value is None else str(value) for value in (one, other))  # type: ignore[misc]
