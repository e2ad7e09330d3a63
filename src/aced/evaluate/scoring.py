"""Scoring of one task: every metric of its kind, the main one sample by sample."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from aced.errors import AcedError
from aced.evaluate.evidence import Evidence, standard_error
from aced.evaluate.groups import attribute_scores, group_scores
from aced.evaluate.task_embedder import TaskEmbedder
from aced.evaluate.tasks import (
    Association,
    Attributes,
    CaptionSelection,
    Classification,
    Multilabel,
    Retrieval,
    Task,
    TaskResult,
)
from aced.evaluate.unreadable import without_lost
from aced.evaluate.zeroshot_metrics import best_match, class_ranks, positive_ranks

TOP = (1, 5, 10)
"""k of recall@k in retrieval."""


def score_task(embedder: TaskEmbedder, task: Task) -> TaskResult:
    """Score one task.

    | task | metrics, by CLIP_benchmark's and DataComp's names |
    |---|---|
    | classification | `acc1`, `acc5` (None below 5 classes), `mean_per_class_recall`; by group: `acc_<group>`, ... |
    | multilabel | `mean_average_precision` |
    | retrieval | `text_retrieval_recall@k`, `image_retrieval_recall@k` for k = 1, 5, 10, and `mean_recall@1` |
    | selection | `image_acc`, `text_acc`, `acc` |
    | association | `avg_jaccard_score`, and `jaccard_score_<k>` over the sets of k candidates |
    | attributes | by group: `acc_gender_x_wg`, ... |

    Raises:
        AcedError: parts of the task contradict each other.
        NotFinite: embeddings that are not finite.
    """
    scorers: dict[type, Callable[[TaskEmbedder, Any], TaskResult]] = {
        Classification: _classify,
        Multilabel: _multilabel,
        Retrieval: _retrieve,
        CaptionSelection: _select,
        Association: _associate,
        Attributes: _attributes,
    }
    result = scorers[type(task)](embedder, task)
    return replace(result, faults=embedder.faults(task.images))


_T = TypeVar("_T", bound=Task)


def _seen(embedder: TaskEmbedder, task: _T, count: int, what: str) -> tuple[_T, Tensor]:
    """The embeddings of a task's images, and the task, both without unreadable images."""
    images = embedder.images(task.images, count)
    _check_images(task.name, len(images), count, what)
    return without_lost(task, images, embedder.faults(task.images))


def _result(
    task: Task, metric: str, scores: Mapping[str, Evidence | float | None], n: int, *, reported: str = ""
) -> TaskResult:
    """A result whose value is one of several metrics; `reported` is its name if the main one is called differently."""
    main = scores.get(metric)
    if not isinstance(main, Evidence):
        raise AcedError(
            f"Task '{task.name}': its main metric '{metric}' is not defined for it; it has "
            f"{', '.join(name for name, score in scores.items() if isinstance(score, Evidence))}."
        )
    stderr, by = standard_error(main)
    metrics = {name: score.score() if isinstance(score, Evidence) else score for name, score in scores.items()}
    value = metrics[metric]
    assert value is not None
    return TaskResult(value, task.chance, n, reported or metric, stderr, by, metrics, main)


def _classify(embedder: TaskEmbedder, task: Classification) -> TaskResult:
    _check_classes(task)
    classes = len(task.classes)
    if len(task.labels) and not (int(task.labels.min()) >= 0 and int(task.labels.max()) < classes):
        raise AcedError(
            f"Task '{task.name}': its labels run from {int(task.labels.min())} to {int(task.labels.max())}, "
            f"but there are {classes} classes; number them from 0."
        )
    task, images = _seen(embedder, task, len(task.labels), "labels")
    classifier = embedder.classifier(task.classes, task.templates)
    ranks = positive_ranks(images, classifier, task.labels, torch.arange(classes)).numpy()
    labels = task.labels.cpu().numpy()
    scores: dict[str, Evidence | float | None] = {
        "acc1": Evidence("mean", ranks < 1),
        # As in CLIP_benchmark: top 5 of fewer than 5 classes is meaningless.
        "acc5": Evidence("mean", ranks < 5) if classes >= 5 else None,
        "mean_per_class_recall": Evidence("mean of groups", ranks < 1, labels),
    }
    if task.groups is not None:
        predicted = best_match(images, classifier).cpu().numpy()
        scores |= group_scores(task.groups, ranks < task.groups.top, predicted, labels)
    return _result(task, task.main_metric, scores, len(images))


def _multilabel(embedder: TaskEmbedder, task: Multilabel) -> TaskResult:
    _check_classes(task)
    if task.labels.shape[1:] != (len(task.classes),):
        raise AcedError(
            f"Task '{task.name}': its labels are {list(task.labels.shape)}, but there are {len(task.classes)} "
            "classes; provide one column for each class."
        )
    task, images = _seen(embedder, task, len(task.labels), "rows of labels")
    ranks = class_ranks(images @ embedder.classifier(task.classes, task.templates).T)
    evidence = Evidence("map", ranks.cpu().numpy(), task.labels.bool().numpy())
    return _result(task, task.main_metric, {task.main_metric: evidence}, len(images))


def _retrieve(embedder: TaskEmbedder, task: Retrieval) -> TaskResult:
    if task.direction not in ("image_to_text", "text_to_image", "both"):
        raise AcedError(
            f"Task '{task.name}': the direction '{task.direction}' is unknown; use 'image_to_text', "
            "'text_to_image' or 'both'."
        )
    if not all(task.captions):
        raise AcedError(f"Task '{task.name}': an image has no caption; leave such images out of the task.")
    task, images = _seen(embedder, task, len(task.captions), "sets of captions")
    texts = [caption for captions in task.captions for caption in captions]
    captions = embedder.captions(texts)
    image_owner = torch.arange(len(images))
    text_owner = image_owner.repeat_interleave(torch.tensor([len(lines) for lines in task.captions]))
    scores: dict[str, Evidence | float | None] = {}
    hits: list[np.ndarray] = []
    # Captions of one image are counted together: the image is the unit of the standard error.
    several = len(texts) > len(images)
    if task.direction != "text_to_image":
        ranks = positive_ranks(images, captions, image_owner, text_owner).numpy()
        scores |= {f"text_retrieval_recall@{k}": Evidence("mean", ranks < k) for k in TOP}
        hits.append(ranks < 1)
    if task.direction != "image_to_text":
        ranks = positive_ranks(captions, images, text_owner, image_owner).numpy()
        units = text_owner.numpy() if several else None
        scores |= {f"image_retrieval_recall@{k}": Evidence("mean", ranks < k, units=units) for k in TOP}
        hits.append(ranks < 1)
    if task.direction == "both":
        direction = np.repeat(np.arange(2, dtype=np.uint8), [len(images), len(texts)])
        units = torch.cat([image_owner, text_owner]).numpy()
        scores["mean_recall@1"] = Evidence("mean of groups", np.concatenate(hits), direction, units)
        return _result(task, "mean_recall@1", scores, len(images))
    metric = "text_retrieval_recall@1" if task.direction == "image_to_text" else "image_retrieval_recall@1"
    return _result(task, metric, scores, len(hits[0]), reported="recall1")


def _select(embedder: TaskEmbedder, task: CaptionSelection) -> TaskResult:
    images_per_set = task.images_per_set
    sizes = {len(captions) for captions in task.captions}
    if len(sizes) > 1:
        raise AcedError(f"Task '{task.name}': its sets have {sorted(sizes)} captions; give every set the same number.")
    task, embedded = _seen(embedder, task, len(task.captions) * images_per_set, "places in its sets")
    sets = len(task.captions)
    captions = embedder.captions([caption for captions in task.captions for caption in captions])
    scores = torch.einsum(
        "sid,scd->sic", embedded.view(sets, images_per_set, -1), captions.view(sets, max(sizes), -1)
    ).cpu()
    # The i-th image belongs to the i-th caption; on ties the first wins, as in CLIP_benchmark.
    pairs = torch.arange(min(images_per_set, max(sizes)))
    text = (scores.argmax(dim=2)[:, : len(pairs)] == pairs).all(dim=1).numpy()
    image = (scores.argmax(dim=1)[:, : len(pairs)] == pairs).all(dim=1).numpy()
    found: dict[str, Evidence | float | None] = {
        "image_acc": Evidence("mean", image),
        "text_acc": Evidence("mean", text),
        "acc": Evidence("mean", image & text),
    }
    return _result(task, "acc", found, sets)


def _associate(embedder: TaskEmbedder, task: Association) -> TaskResult:
    task, candidates = _seen(embedder, task, sum(map(len, task.associated)), "candidates")
    sizes = [len(row) for row in task.associated]
    cues = embedder.captions(task.cues)
    jaccard = np.empty(len(sizes), dtype=np.float32)
    for row, (cue, own, belongs) in enumerate(zip(cues, candidates.split(sizes), task.associated, strict=True)):
        truth = np.array(belongs, dtype=bool)
        # On ties the first is chosen.
        chosen = (own @ cue).argsort(descending=True, stable=True)[: truth.sum()].cpu().numpy()
        hits = int(truth[chosen].sum())
        jaccard[row] = hits / (2 * truth.sum() - hits)
    count = np.array(sizes)
    subsets = {"avg_jaccard_score": count > 0, "jaccard_score_5-6": count <= 6, "jaccard_score_10-12": count >= 10}
    subsets |= {f"jaccard_score_{size}": count == size for size in sorted(set(sizes))}
    scores: dict[str, Evidence | float | None] = {
        name: Evidence("mean", jaccard[rows]) for name, rows in subsets.items() if rows.any()
    }
    return _result(task, task.main_metric, scores, int(subsets[task.main_metric].sum()))


def _attributes(embedder: TaskEmbedder, task: Attributes) -> TaskResult:
    task, images = _seen(embedder, task, len(task.metadata), "rows of metadata")
    predicted = {
        name: best_match(images, embedder.classifier(task.classes[name], task.templates[name])).cpu().numpy()
        for name in task.classes
    }
    scores = attribute_scores(predicted, task.metadata.numpy())
    return _result(task, "acc_gender_x_wg", scores, len(images))


def _check_classes(task: Classification | Multilabel) -> None:
    if not len(task.classes) or not task.templates:
        raise AcedError(f"Task '{task.name}': it has no classes or no prompt templates; provide at least one of each.")


def _check_images(task: str, images: int, others: int, what: str) -> None:
    if images != others:
        raise AcedError(f"Task '{task}': {images} images but {others} {what}; provide one for each image.")
    if not images:
        raise AcedError(f"Task '{task}': it has no images; leave it out or check its folder.")
