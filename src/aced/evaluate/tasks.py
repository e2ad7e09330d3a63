"""What a zero-shot task is, as data. Scenes and task folders on disk make these; `zeroshot` scores them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from torch import Tensor

from aced.data.views import View

ReadImages = Callable[[View], Tensor]
"""Gives all images of a task in one view: `[n, 3, size, size]` uint8."""


@dataclass(frozen=True)
class Classification:
    """Zero-shot classification: the class whose prompt embedding is nearest to the image.

    Attributes:
        name: unique name of the task.
        images: loads the n images in a view.
        labels: `[n]` int64 indices into `classes`.
        classes: class names.
        templates: prompts with `{c}` where the class name goes; their normalised embeddings are averaged.
        chance: accuracy of guessing, in [0, 1].
    """

    name: str
    images: ReadImages
    labels: Tensor
    classes: Sequence[str]
    templates: Sequence[str]
    chance: float


@dataclass(frozen=True)
class Retrieval:
    """Retrieval among n images and their captions, one direction; scored by recall@1.

    Attributes:
        name: unique name of the task.
        images: loads the n images in a view.
        captions: one or more captions for each image.
        direction: `image_to_text` or `text_to_image`.
        chance: recall@1 of guessing, in [0, 1].
    """

    name: str
    images: ReadImages
    captions: Sequence[Sequence[str]]
    direction: Literal["image_to_text", "text_to_image"]
    chance: float


Task = Classification | Retrieval


@dataclass(frozen=True)
class TaskResult:
    """A task's score: `value` and `chance` in [0, 1], `n` scored queries, and the name of the metric."""

    value: float
    chance: float
    n: int
    metric: str


def as_json(results: Mapping[str, TaskResult]) -> dict[str, dict[str, Any]]:
    """Task results as they stand in results.json and evals.jsonl."""
    return {name: asdict(result) for name, result in results.items()}
