"""DataComp's evaluation tasks as data: metric, classes, chance and groups of each, by the name of its folder."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

DATACOMP = Path(__file__).with_name("datacomp.json")
"""The data file; its `provenance` gives the origin of every figure."""

_PREFIXES = ("vtab-", "wilds-", "fairness-", "retrieval-", "misc-")


@dataclass(frozen=True)
class KnownTask:
    """A task of DataComp.

    Attributes:
        key: its key in DataComp's task list.
        title: its name there, which is the `dataset` of eval_results.jsonl.
        main_metric: its main score; for the two tasks that DataComp does not score, ours.
        scored: whether it is one of the 38 tasks of the average.
        size: number of images.
        classes: number of classes; None if it has none.
        chance: its score by guessing; None if DataComp gives none.
        fields: columns of its metadata.
        group_by: columns of each grouping.
        attributes: whether it asks for several attributes at once.
    """

    key: str
    title: str
    main_metric: str
    scored: bool
    size: int
    classes: int | None
    chance: float | None
    fields: tuple[str, ...] = ()
    group_by: tuple[tuple[str, ...], ...] = ()
    attributes: bool = False


@cache
def datacomp_tasks() -> dict[str, KnownTask]:
    """All of DataComp's tasks by key, in its order: the 38 that are scored, and FairFace and UTKFace."""
    content = json.loads(DATACOMP.read_text(encoding="utf-8"))
    return {
        key: KnownTask(
            key=key,
            title=entry["name"],
            main_metric=entry["main_metric"],
            scored=entry.get("scored", True),
            size=entry["size"],
            classes=entry.get("classes"),
            chance=entry.get("chance"),
            fields=tuple(entry.get("fields", ())),
            group_by=tuple(tuple(fields) for fields in entry.get("group_by", ())),
            attributes=entry.get("attributes", False),
        )
        for key, entry in content["tasks"].items()
    }


@cache
def _aliases() -> dict[str, str]:
    content = json.loads(DATACOMP.read_text(encoding="utf-8"))
    aliases: dict[str, str] = {alias: key for alias, key in content["aliases"].items() if alias != "why"}
    return aliases | {_bare(key.replace("/", "-")): key for key in content["tasks"]}


def task_name(folder: str) -> str:
    """The name of a task by that of its folder: `wds_vtab-dtd_test` is `vtab-dtd`."""
    return folder.removeprefix("wds_").removesuffix("_test") or folder


def recognise(name: str) -> KnownTask | None:
    """The task of DataComp with a name, with or without the name of its collection (`vtab-dtd`, `dtd`)."""
    key = _aliases().get(_bare(name.lower().replace("/", "-")))
    return datacomp_tasks()[key] if key else None


def _bare(name: str) -> str:
    prefix = next((prefix for prefix in _PREFIXES if name.startswith(prefix)), "")
    return name[len(prefix) :]


def known_chance(known: KnownTask | None, metric: str, classes: int, size: int) -> float:
    """The score of guessing: DataComp's figure if the task is complete, otherwise k / classes for top-k.

    Args:
        known: the task, if recognised.
        metric: its main metric.
        classes: number of classes in the folder; a part of a task may have fewer.
        size: number of images in the folder.
    """
    if known is not None and known.chance is not None and (known.classes, known.size) == (classes, size):
        return known.chance
    return min(1.0, (5 if "top5" in metric or metric == "acc5" else 1) / classes)
