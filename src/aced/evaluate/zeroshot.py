"""Zero-shot evaluation of a tower on classification and retrieval tasks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from aced.data.views import View
from aced.errors import AcedError
from aced.evaluate.metrics import accuracy, best_match, recall_at_1
from aced.evaluate.stability.suite import counted
from aced.evaluate.tasks import Classification, ReadImages, Retrieval, Task, TaskResult

Progress = Callable[[str, int, int], None]
"""Called after each task with its name, the number of tasks done and the number of tasks."""


class EmbeddingTower(Protocol):
    """What evaluation needs of a tower."""

    @property
    def view(self) -> View:
        """How the tower wants its images."""
        ...

    def embed_image(self, images: Tensor, /) -> Tensor:
        """`[B, 3, S, S]` uint8 to `[B, d]` normalised embeddings."""
        ...

    def embed_text(self, texts: list[str], /) -> Tensor:
        """B texts to `[B, d]` normalised embeddings."""
        ...


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
        One `TaskResult` for each task by name, in the order of `tasks`: `acc1` over the images for
        classification, `recall1` over the queries for retrieval.

    Raises:
        AcedError: two tasks of one name, a task whose parts do not fit together, or a tower whose embeddings
            are not finite.
    """
    names = [task.name for task in tasks]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise AcedError(f"Evaluation tasks: the name '{twice[0]}' is used twice; give every task its own name.")
    results: dict[str, TaskResult] = {}
    embedder = _Embedder(tower, micro_batch)
    with torch.no_grad(), _evaluation_mode(tower):
        for task in tasks:
            try:
                if isinstance(task, Classification):
                    results[task.name] = _classify(embedder, task)
                else:
                    results[task.name] = _retrieve(embedder, task)
            except _NotFinite as fault:
                raise AcedError(
                    f"Task '{task.name}': the model gives {fault} embeddings that are not finite; its "
                    "weights have probably diverged, so evaluate an earlier checkpoint."
                ) from None
            if progress is not None:
                progress(task.name, len(results), len(tasks))
    return results


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


class _NotFinite(Exception):
    """Embeddings with infinities or NaN; the message says of what."""


class _Embedder:
    """Embeds each set of images and texts once, however many tasks use it."""

    def __init__(self, tower: EmbeddingTower, micro_batch: int) -> None:
        self._tower = tower
        self._micro_batch = micro_batch
        # The callable is kept beside its embeddings: a collected one could pass its id on to another.
        self._images: dict[int, tuple[ReadImages, Tensor]] = {}
        self._classifiers: dict[tuple[tuple[str, ...], tuple[str, ...]], Tensor] = {}
        self._captions: dict[tuple[str, ...], Tensor] = {}

    def images(self, read: ReadImages) -> Tensor:
        """`[n, d]` float32."""
        if id(read) not in self._images:
            pixels = read(self._tower.view)
            parts = [self._tower.embed_image(part) for part in pixels.split(self._micro_batch)] if len(pixels) else []
            self._images[id(read)] = (read, _joined(parts, "image"))
        return self._images[id(read)][1]

    def classifier(self, classes: Sequence[str], templates: Sequence[str]) -> Tensor:
        """`[C, d]` float32: per class the normalised mean of the normalised embeddings of its prompts."""
        key = (tuple(classes), tuple(templates))
        if key not in self._classifiers:
            # Not str.format: class names and templates may hold other braces.
            prompts = [template.replace("{c}", name) for name in classes for template in templates]
            mean = self._texts(prompts).view(len(classes), len(templates), -1).mean(dim=1)
            self._classifiers[key] = functional.normalize(mean, dim=-1)
        return self._classifiers[key]

    def captions(self, captions: Sequence[str]) -> Tensor:
        """`[m, d]` float32."""
        key = tuple(captions)
        if key not in self._captions:
            self._captions[key] = self._texts(captions)
        return self._captions[key]

    def _texts(self, texts: Sequence[str]) -> Tensor:
        size = self._micro_batch
        parts = [self._tower.embed_text(list(texts[at : at + size])) for at in range(0, len(texts), size)]
        return _joined(parts, "text")


def _joined(parts: Sequence[Tensor], what: str) -> Tensor:
    embedded = torch.cat([part.detach().float() for part in parts]) if parts else torch.zeros(0, 1)
    if not torch.isfinite(embedded).all():
        raise _NotFinite(what)
    # Again in float32: rows that were normalised in bfloat16 differ in length enough to change ranks.
    return functional.normalize(embedded, dim=-1)


def _classify(embedder: _Embedder, task: Classification) -> TaskResult:
    classes = len(task.classes)
    if not classes or not task.templates:
        raise AcedError(f"Task '{task.name}': it has no classes or no prompt templates; give at least one of each.")
    if len(task.labels) and not (int(task.labels.min()) >= 0 and int(task.labels.max()) < classes):
        raise AcedError(
            f"Task '{task.name}': its labels run from {int(task.labels.min())} to {int(task.labels.max())}, "
            f"but there are {classes} classes; number them from 0."
        )
    images = embedder.images(task.images)
    _check_images(task.name, len(images), len(task.labels), "labels")
    predicted = best_match(images, embedder.classifier(task.classes, task.templates))
    value = accuracy(predicted, task.labels.to(predicted.device))
    return TaskResult(value=value, chance=task.chance, n=len(images), metric="acc1")


def _retrieve(embedder: _Embedder, task: Retrieval) -> TaskResult:
    texts = [caption for captions in task.captions for caption in captions]
    if not all(task.captions):
        raise AcedError(f"Task '{task.name}': an image has no caption; leave such images out of the task.")
    images = embedder.images(task.images)
    _check_images(task.name, len(images), len(task.captions), "sets of captions")
    embedded = embedder.captions(texts)
    image_owner = torch.arange(len(images))
    text_owner = image_owner.repeat_interleave(torch.tensor([len(captions) for captions in task.captions]))
    if task.direction == "image_to_text":
        value = recall_at_1(best_match(images, embedded), image_owner, text_owner)
        n = len(images)
    elif task.direction == "text_to_image":
        value = recall_at_1(best_match(embedded, images), text_owner, image_owner)
        n = len(texts)
    else:
        raise AcedError(
            f"Task '{task.name}': the direction '{task.direction}' is not known; use 'image_to_text' or "
            "'text_to_image'."
        )
    return TaskResult(value=value, chance=task.chance, n=n, metric="recall1")


def _check_images(task: str, images: int, others: int, what: str) -> None:
    if images != others:
        raise AcedError(f"Task '{task}': {images} images but {others} {what}; give one for each image.")
    if not images:
        raise AcedError(f"Task '{task}': it has no images; leave it out or check its folder.")


@contextmanager
def _evaluation_mode(tower: object) -> Iterator[None]:
    """Put the tower's modules into evaluation mode; afterwards each gets back the mode that it had.

    Module by module, because `train(True)` on the whole would wake parts that are frozen in evaluation mode.
    """
    roots = [tower] if isinstance(tower, nn.Module) else list(getattr(tower, "__dict__", {}).values())
    modules = [module for root in roots if isinstance(root, nn.Module) for module in root.modules()]
    before = [module.training for module in modules]
    for module in modules:
        module.training = False
    try:
        yield
    finally:
        for module, mode in zip(modules, before, strict=True):
            module.training = mode
