"""Zero-shot evaluation of a tower: during training, after it, in the demo and in `aced eval`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from aced.errors import AcedError, reason_of
from aced.evaluate.scoring import score_task
from aced.evaluate.stability.suite import counted
from aced.evaluate.task_embedder import EvaluatedTower, NotFinite, TaskEmbedder, evaluation_mode
from aced.evaluate.tasks import Task, TaskResult, as_json
from aced.runtime.precision import Precision

__all__ = [
    "EvaluatedTower",
    "Scores",
    "TaskProgress",
    "average",
    "chance_average",
    "check_names",
    "evaluate",
    "evaluate_task",
    "score_all",
    "scores_json",
]

TaskProgress = Callable[[str, int, int], None]
"""Called after each task with its name, the number of tasks done and the number of tasks."""


def evaluate(
    tower: EvaluatedTower,
    tasks: Sequence[Task],
    *,
    micro_batch: int = 256,
    precision: Precision = "fp32",
    progress: TaskProgress | None = None,
) -> dict[str, TaskResult]:
    """Score a tower on every task; runs without gradients and in evaluation mode, and restores the mode.

    Tasks that share the same `images` callable (the same object) share one pass of the image tower, tasks with the same
    classes and templates share a classifier, and the two directions of a retrieval task share their captions'
    embeddings. On ties the lower index wins.

    Args:
        tower: the model; see `EvaluatedTower`.
        tasks: tasks with unique names.
        micro_batch: images or texts embedded at a time.
        precision: of the model; scores are float32 in any case.
        progress: called for every finished task.

    Returns:
        One `TaskResult` for each task by name, in the order of `tasks`.

    Raises:
        AcedError: two tasks share a name, parts of a task contradict each other, or a tower's embeddings are not
            finite.
    """
    check_names(tasks)
    results: dict[str, TaskResult] = {}
    embedder = TaskEmbedder(tower, micro_batch, precision=precision)
    for task in tasks:
        results[task.name] = evaluate_task(tower, task, embedder)
        if progress is not None:
            progress(task.name, len(results), len(tasks))
    return results


@dataclass(frozen=True)
class Scores:
    """The result of evaluating several tasks.

    Attributes:
        results: by task, of those that could be scored.
        failed: by task, the reasons for the others.
    """

    results: dict[str, TaskResult] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    @property
    def average(self) -> float | None:
        """The mean in percent over the tasks that count and could be scored; None if there are none.

        Which tasks count depends on all requested tasks, so a lost one does not change which others do.
        """
        count = [name for name in counted([*self.results, *self.failed]) if name in self.results]
        return _mean_percent([self.results[name].value for name in count]) if count else None


def score_all(tower: EvaluatedTower, tasks: Sequence[Task], embedder: TaskEmbedder | None = None) -> Scores:
    """Score a tower on every task that can be scored; a task that fails costs neither the others nor the caller.

    Any exception while a task is scored becomes its reason: missing files, damage, embeddings that are not finite, too
    little memory. A run of days must not end because of one of its figures.

    Args:
        tower: the model.
        tasks: tasks with unique names.
        embedder: of this tower; a new one by default.
    """
    scores = Scores()
    embedder = embedder or TaskEmbedder(tower)
    for task in tasks:
        try:
            scores.results[task.name] = evaluate_task(tower, task, embedder)
        except Exception as error:
            scores.failed[task.name] = reason_of(error)
    return scores


def scores_json(scores: Scores) -> dict[str, Any]:
    """`average`, `tasks` and, if a task could not be scored, `failed`: as in evals.jsonl and results.json."""
    failed = {"failed": dict(scores.failed)} if scores.failed else {}
    return {"average": scores.average, "tasks": as_json(scores.results), **failed}


def check_names(tasks: Sequence[Task]) -> None:
    """Raise an AcedError if two tasks share a name."""
    names = [task.name for task in tasks]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise AcedError(f"Evaluation tasks: the name '{twice[0]}' is used twice; give every task its own name.")


def evaluate_task(tower: EvaluatedTower, task: Task, embedder: TaskEmbedder) -> TaskResult:
    """Score a tower on one task with an embedder of this tower, which remembers what tasks share.

    Raises:
        AcedError: as `evaluate`.
    """
    with torch.no_grad(), evaluation_mode(tower):
        try:
            return score_task(embedder, task)
        except NotFinite as fault:
            raise AcedError(
                f"Task '{task.name}': the model gives {fault} embeddings that are not finite; its "
                "weights have probably diverged, so evaluate an earlier checkpoint."
            ) from None


def average(results: Mapping[str, TaskResult]) -> float:
    """The mean of the values of the tasks that count, in percent: those of a packaged suite, otherwise all.

    See `aced.evaluate.stability.suite`: the scenes tasks have a suite.

    Raises:
        AcedError: there are no results.
    """
    return _mean_percent([results[name].value for name in counted(results)])


def chance_average(results: Mapping[str, TaskResult]) -> float:
    """The mean of the chance levels of the same tasks, in percent.

    Raises:
        AcedError: there are no results.
    """
    return _mean_percent([results[name].chance for name in counted(results)])


def _mean_percent(values: Sequence[float]) -> float:
    if not values:
        raise AcedError("Evaluation: there are no task results to average; name at least one task.")
    return 100.0 * sum(values) / len(values)
