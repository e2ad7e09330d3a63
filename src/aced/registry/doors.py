"""The doors for methods, scores, losses and distillations of others; `aced.registry.makers` has those for the rest.

What is registered in a module that `run.imports` names, or that is installed as a plugin, can be named in a config.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar, get_args

from torch import Tensor

from aced.core.concepts import ByConcepts
from aced.core.named import Table, caller
from aced.core.score_models import SCORES, Loss, Scoring, Strategy
from aced.errors import AcedError
from aced.methods import METHODS, Method
from aced.registry.makers import ARCHITECTURES, PANELS, SOURCES, TASKS, TOWERS, TRACKERS
from aced.registry.objectives import DISTILLATIONS, LOSSES, Contrastive, Distillation

F = TypeVar("F", bound=Callable[..., Any])


def parts() -> list[Table[Any]]:
    """The tables of what methods are made of; each row has an `about`."""
    return [SCORES, LOSSES, DISTILLATIONS, SOURCES, TOWERS, TASKS, TRACKERS, ARCHITECTURES, PANELS]


def register_method(method: Method) -> Method:
    """Add a row to the table of methods; `method.name` and `aced methods` then know it.

    Raises:
        AcedError: the name is taken, or the row names a score, a strategy or a distillation that there is not.
    """
    origin, what = caller(), f"The method '{method.name}'"
    if method.score is not None:
        SCORES.find(method.score)
        if SCORES[method.score].within and method.strategy != "joint":
            raise AcedError(f"{what} has score '{method.score}', which needs strategy='joint'.")
    if method.concepts not in (None, *get_args(ByConcepts)):
        raise AcedError(f"{what} has concepts='{method.concepts}': take one of {', '.join(get_args(ByConcepts))}.")
    if method.concepts is not None and method.score is not None:
        raise AcedError(f"{what} chooses by concepts and by score '{method.score}': leave one of them out.")
    if method.strategy not in get_args(Strategy):
        raise AcedError(f"{what} has strategy '{method.strategy}': take one of {', '.join(get_args(Strategy))}.")
    if method.loss is not None:
        LOSSES.find(method.loss)
    if method.distill is None and (method.second is not None or not method.contrastive):
        raise AcedError(f"{what} has second='{method.second}' or contrastive=False, and distils nothing: set distill.")
    for name, weight in method.distillations:
        DISTILLATIONS.find(name)
        if not 0 < weight < math.inf:
            raise AcedError(f"{what} distils with weight {weight}: give a positive one.")
    if method.columns and method.distill != "softmax":
        raise AcedError(f"{what} has columns, which only distillation by softmax compares with: leave them out.")
    METHODS.add(method.name, method, origin)
    return method


def register_score(
    name: str, *, student: float = 0.0, reference: float = 0.0, within: bool = False, about: str = ""
) -> Scoring:
    """Add a score for the `score` of a method and of `aced.select`: a weighted sum of the two models' losses.

    Args:
        name: of the score.
        student: weight of the student's loss; 0 where it is not asked.
        reference: weight of the reference's loss, likewise; `learnability` has 1 and -1.
        within: see `Scoring`.
        about: one line for `aced methods`.

    Raises:
        AcedError: the name is taken, or the weights are none.
    """
    if not (math.isfinite(student) and math.isfinite(reference)) or student == reference == 0:
        raise AcedError(f"The score '{name}' weighs student {student} and reference {reference}: give one a number.")
    row = Scoring(about=about, student=student, reference=reference, within=within)
    SCORES.add(name, row, caller())
    return row


def register_loss(
    name: str, *, scores: Loss = "sigmoid", spread: bool = False, guided: bool = False, about: str = ""
) -> Callable[[Callable[..., Tensor]], Callable[..., Tensor]]:
    """Add a contrastive loss for `method.loss`; a decorator of its function; see `registry.objectives.Contrastive`.

    Args:
        name: of the loss.
        scores: the loss that candidates are scored by, `sigmoid` or `softmax`.
        spread: whether the function takes one process's share of a batch.
        guided: whether it takes the reference's embeddings of the same pairs as well.
        about: one line for `aced methods`.

    Raises:
        AcedError: the name is taken, or candidates cannot be scored so.
    """
    if scores not in get_args(Loss):
        raise AcedError(f"The loss '{name}' scores by '{scores}': take one of {', '.join(get_args(Loss))}.")
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
        own_scale, own_bias, tempered, projects, compares, spread: see `aced.registry.objectives.Distillation`.
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
