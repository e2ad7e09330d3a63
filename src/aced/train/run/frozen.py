"""The frozen models of a run by name: the reference that selects, and the teachers."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from aced.config import Config
from aced.config.sections import FrozenSection
from aced.errors import AcedError
from aced.models import Tower, load_recipe, trained_recipe
from aced.models.hub_files import FileProgress
from aced.registry.makers import TOWERS, made
from aced.registry.objectives import LOSSES
from aced.train.run.automatic import device_of
from aced.train.run.given import GIVEN


def frozen_models(config: Config) -> list[str]:
    """The names of the frozen models of a run, each once: `reference` and those of `teachers_of`."""
    reference = ["reference"] if config.row.uses_reference else []
    return list(dict.fromkeys([*reference, *teachers_of(config)]))


def teachers_of(config: Config) -> list[str]:
    """The names of the teachers: `teacher`, or `teacher 1` and so on; `reference` if that teaches too."""
    if not config.row.distill:
        return []
    sections = config.teacher.each
    names = ["teacher"] if len(sections) == 1 else [f"teacher {number}" for number in range(1, len(sections) + 1)]
    if not config.row.uses_reference:
        return names or ["reference"]
    # A teacher that is also the reference is used once for both.
    own = config.reference.model, config.reference.checkpoint, config.reference.cache
    same = [(one.model, one.checkpoint, one.cache) == own for one in sections]
    return ["reference" if is_same else name for name, is_same in zip(names, same, strict=True)] or ["reference"]


def frozen_section(name: str, config: Config) -> FrozenSection:
    """The config's `reference`, or the section of one of its teachers."""
    if name == "reference":
        return config.reference
    return (config.teacher.each or [FrozenSection()])[int(name.removeprefix("teacher") or 1) - 1]


def load_frozen(name: str, config: Config, progress: FileProgress | None = None) -> Tower:
    """The `reference` or a teacher of the config, in evaluation mode and without gradients.

    Raises:
        AcedError: it cannot be loaded, or has no trained weights: an untrained model would select at random.
    """
    section = frozen_section(name, config)
    key = name.partition(" ")[0]
    if section.model == GIVEN:
        raise AcedError(f"{key}.model = '{GIVEN}' stands for a model that is handed over: aced.train(.., {key}=..).")
    if section.model in TOWERS:
        tower: Tower = made(TOWERS, section.model, section.checkpoint, config.run.seed)
        return tower.to(device_of(config)).requires_grad_(False).eval()
    recipe = trained_recipe(section.model, section.checkpoint, key)
    return load_recipe(recipe, device_of(config), progress=progress).requires_grad_(False).eval()


def without_bias(towers: Mapping[str, Tower], config: Config) -> str | None:
    """A warning about a reference that scores by the sigmoid loss, which its logits are not made for."""
    reference = towers.get("reference") if config.row.score is not None else None
    if reference is None or LOSSES.find(config.loss).scores != "sigmoid":
        return None
    if getattr(reference.model, "logit_bias", None) is not None:
        return None
    return (
        f"{reference.name} has no logit bias, so its sigmoid losses say little about a pair: set method.loss=softmax "
        "for a reference that was trained as CLIP was."
    )


def without_difference(towers: Mapping[str, Tower], student: Tower, config: Config) -> str | None:
    """A warning about a reference that the student equals, where pairs are chosen by their difference."""
    reference = towers.get("reference")
    if reference is None or not (config.row.scores_student and config.row.scores_reference):
        return None
    if config.method.since:  # the student has changed by then
        return None
    own, other = student.model.state_dict(), reference.model.state_dict()
    if student.view != reference.view or own.keys() != other.keys():
        return None
    if not all(torch.equal(value, other[key]) for key, value in own.items()):
        return None
    return (
        f"reference.model = '{config.reference.model}' has the student's own weights: at first every pair has the "
        "learnability 0, so batches are random; name a model that knows more than the student."
    )
