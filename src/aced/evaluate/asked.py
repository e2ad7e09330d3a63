"""The texts that a task needs embedded, so that they can be computed before it is scored."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain

from aced.evaluate.prompts import prompts_of
from aced.evaluate.tasks import Association, Attributes, Classification, Multilabel, Task


def texts_of(task: Task) -> list[list[str]]:
    """The lists of texts that `aced.evaluate.scoring` needs embedded for a task without lost images."""
    if isinstance(task, Classification | Multilabel):
        return [prompts_of(task.classes, task.templates)]
    if isinstance(task, Attributes):
        return [prompts_of(task.classes[name], task.templates[name]) for name in task.classes]
    if isinstance(task, Association):
        return [list(task.cues)]
    captions: Iterable[Iterable[str]] = task.captions
    return [list(chain.from_iterable(captions))]
