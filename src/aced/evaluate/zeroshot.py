"""Zero-shot evaluation of a tower: during training, after it, in the demo and in `aced eval`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch

from aced.errors import AcedError
from aced.evaluate.embedder import Embedder, EmbeddingTower, NotFinite, evaluation_mode
from aced.evaluate.scoring import score_task
from aced.evaluate.stability.suite import counted
from aced.evaluate.tasks import Task, TaskResult

__all__ = ["EmbeddingTower", "Progress", "average", "chance_average", "evaluate", "evaluate_task"]

Progress = Callable[[str, int, int], None]
"""Called after each task with its name, the number of tasks done and the number of tasks."""


def evaluate(
    tower: EmbeddingTower, tasks: Sequence[Task], *, micro_batch: int = 256, progress: Progress | None = None
) -> dict[str, TaskResult]:
    """Score a tower on every task; runs without gradients and in evaluation mode, and restores the mode.

    Tasks that share the same `images` callable (the same object) share one pass of the image tower, tasks
    with the same classes and templates share a classifier, and the two directions of a retrieval task share
    their captions' embeddings. Equal scores are decided for the lower index.

    Args:
        tower: the model; see `EmbeddingTower`.
        tasks: tasks with unique names.
        micro_batch: images or texts embedded at a time.
        progress: told of every finished task.

    Returns:
        One `TaskResult` for each task by name, in the order of `tasks`.

    Raises:
        AcedError: two tasks of one name, a task whose parts do not fit together, or a tower whose embeddings
            are not finite.
    """
    names = [task.name for task in tasks]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise AcedError(f"Evaluation tasks: the name '{twice[0]}' is used twice; give every task its own name.")
    results: dict[str, TaskResult] = {}
    embedder = Embedder(tower, micro_batch)
    for task in tasks:
        results[task.name] = evaluate_task(tower, task, embedder)
        if progress is not None:
            progress(task.name, len(results), len(tasks))
    return results


def evaluate_task(tower: EmbeddingTower, task: Task, embedder: Embedder) -> TaskResult:
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
    """The mean of the values of the tasks that count, in percent: those of a packaged suite, or else all.

    See `aced.evaluate.stability.suite`: the scenes tasks have a suite.

    Raises:
        AcedError: there are no results.
    """
    return _mean_percent([results[name].value for name in counted(results)])


def chance_average(results: Mapping[str, TaskResult]) -> float:
    """The mean over the same tasks of what guessing would score, in percent.

    Raises:
        AcedError: there are no results.
    """
    return _mean_percent([results[name].chance for name in counted(results)])


def _mean_percent(values: Sequence[float]) -> float:
    if not values:
        raise AcedError("Evaluation: there are no task results to average; name at least one task.")
    return 100.0 * sum(values) / len(values)
