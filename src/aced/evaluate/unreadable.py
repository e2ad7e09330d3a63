"""A task without its unreadable images and everything that belongs to them.

A classification loses the image and its label, retrieval the image and its captions (in both directions), and a set of
several images is lost as a whole: with one image fewer it would be easier than the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from aced.errors import AcedError
from aced.evaluate.chance import chance_in_sets
from aced.evaluate.image_faults import ImageFaults
from aced.evaluate.tasks import Association, Attributes, CaptionSelection, Classification, Multilabel, Retrieval, Task

_T = TypeVar("_T", bound=Task)
_Item = TypeVar("_Item")


def without_lost(task: _T, images: Tensor, faults: ImageFaults) -> tuple[_T, Tensor]:
    """The task and its images, `[n, d]`, without lost ones; the same objects if none is lost.

    Chance is recomputed for the rest, if it depends on it.

    Raises:
        AcedError: nothing remains, or nothing that the main metric counts.
    """
    if not faults.lost:
        return task, images
    usable = torch.ones(len(images), dtype=torch.bool)
    usable[list(faults.lost)] = False
    sets = _sets(task, usable)
    kept = torch.cat([part.all().expand(len(part)) for part in usable.split(sets)])
    whole = [bool(part.all()) for part in usable.split(sets)]
    if not any(whole):
        first = next(iter(faults.left_out.values()))
        raise AcedError(f"Task '{task.name}': none of its images can be read ({first.example}).")
    return replace(task, **_parts(task, whole)), images[kept.to(images.device)]


def _sets(task: Task, usable: Tensor) -> list[int]:
    """How many images form a unit."""
    if isinstance(task, CaptionSelection):
        return [task.images_per_set] * len(task.captions)
    if isinstance(task, Association):
        return [len(row) for row in task.associated]
    return [1] * len(usable)


def _parts(task: Task, whole: list[bool]) -> dict[str, Any]:
    """The fields of a task that change when only some of its images, or sets of images, remain."""
    rows = torch.tensor(whole)
    if isinstance(task, Classification):
        groups = task.groups
        if groups is not None:
            groups = replace(groups, metadata=groups.metadata[rows])
        return {"labels": task.labels[rows], "groups": groups}
    if isinstance(task, Multilabel):
        labels = task.labels[rows]
        return {"labels": labels, "chance": float(labels.float().mean())}
    if isinstance(task, Retrieval):
        captions = _only(task.captions, whole)
        return {"captions": captions, "chance": task.chance * len(whole) / len(captions)}
    if isinstance(task, CaptionSelection):
        return {"captions": _only(task.captions, whole)}
    if isinstance(task, Attributes):
        return {"metadata": task.metadata[rows]}
    associated = _only(task.associated, whole)
    chance = chance_in_sets(associated, task.main_metric)
    if chance is None:
        raise AcedError(f"Task '{task.name}': no set of 10 candidates or more is left whose images can all be read.")
    return {"cues": _only(task.cues, whole), "associated": associated, "chance": chance}


def _only(items: Sequence[_Item], keep: Sequence[bool]) -> list[_Item]:
    return [item for item, kept in zip(items, keep, strict=True) if kept]
