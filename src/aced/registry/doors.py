"""Registration of scores, losses and distillations; `aced.methods` and `aced.registry.makers` have the rest.

Names registered in a module that `run.imports` lists, or in an installed plugin, can be used in a config.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar, get_args

from torch import Tensor

from aced.core.named import Table, caller
from aced.core.score_models import SCORES, Loss, Scoring
from aced.errors import AcedError
from aced.registry.makers import ARCHITECTURES, PANELS, SOURCES, TASKS, TOWERS, TRACKERS
from aced.registry.objectives import DISTILLATIONS, LOSSES, Contrastive, Distillation

F = TypeVar("F", bound=Callable[..., Any])


def parts() -> list[Table[Any]]:
    """The tables of a method's parts; each row has an `about`."""
    return [SCORES, LOSSES, DISTILLATIONS, SOURCES, TOWERS, TASKS, TRACKERS, ARCHITECTURES, PANELS]


def register_score(
    name: str, *, student: float = 0.0, reference: float = 0.0, within: bool = False, about: str = ""
) -> Scoring:
    """Add a score for the `score` of a method and of `aced.select`: a weighted sum of the two models' losses.

    Args:
        name: of the score.
        student: weight of the student's loss; 0 if it is not used.
        reference: weight of the reference's loss, likewise; `learnability` has 1 and -1.
        within: see `Scoring`.
        about: one line for `aced methods`.

    Raises:
        AcedError: the name is taken, or the weights are invalid.
    """
    if not (math.isfinite(student) and math.isfinite(reference)) or student == reference == 0:
        raise AcedError(f"The score '{name}' weighs student {student} and reference {reference}: set one of them.")
    row = Scoring(about=about, student=student, reference=reference, within=within)
    SCORES.add(name, row, caller())
    return row


def register_loss(
    name: str, *, scores: Loss = "sigmoid", spread: bool = False, guided: bool = False, about: str = ""
) -> Callable[[Callable[..., Tensor]], Callable[..., Tensor]]:
    """Add a contrastive loss for `method.loss`; a decorator of its function; see `registry.objectives.Contrastive`.

    Args:
        name: of the loss.
        scores: the loss for scoring candidates, `sigmoid` or `softmax`.
        spread: whether the function accepts one process's share of a batch.
        guided: whether it also takes the reference's embeddings of the same pairs.
        about: one line for `aced methods`.

    Raises:
        AcedError: the name is taken, or candidates cannot be scored like this.
    """
    if scores not in get_args(Loss):
        raise AcedError(f"The loss '{name}' scores by '{scores}': use one of {', '.join(get_args(Loss))}.")
    origin = caller()

    def add(function: F) -> F:
        row = Contrastive(about=about, function=function, scores=scores, spread=spread, guided=guided)
        LOSSES.add(name, row, origin)
        return function

    return add


def register_distillation(
    name: str,
    *,
    own_scale: bool = True,
    own_bias: bool = False,
    tempered: bool = False,
    projects: bool = False,
    compares: bool = True,
    spread: bool = False,
    about: str = "",
) -> Callable[[Callable[..., Tensor]], Callable[..., Tensor]]:
    """Add a distillation loss for the `distill` of a method; a decorator of its function.

    Args:
        name: of the distillation.
        own_scale: whether the student gets a separate logit scale for distillation, trained and then discarded.
        own_bias: likewise a logit bias.
        tempered: whether the function takes `teacher_temperature`.
        projects: whether it takes `project`, a list of trained linear maps from the student's width to each teacher's.
        compares: whether pairs are compared with one another, not only pair by pair.
        spread: whether it takes each process's `aced.core.shares.Share` instead of embeddings.
        about: one line for `aced methods`.

    Raises:
        AcedError: the name is taken.
    """
    origin = caller()

    def add(function: F) -> F:
        row = Distillation(
            about=about,
            function=function,
            own_scale=own_scale,
            own_bias=own_bias,
            tempered=tempered,
            projects=projects,
            compares=compares,
            spread=spread,
        )
        DISTILLATIONS.add(name, row, origin)
        return function

    return add
