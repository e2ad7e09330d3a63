"""Captions on disk: training pairs from webdataset tars, tests from retrieval tasks."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from aced.errors import AcedError
from aced.evaluate.task_folders import load_task_folder
from aced.evaluate.tasks import Retrieval
from aced.lab.lit.texts import TextExamples, TextPictures
from aced.pool.loader.reading import read_all
from aced.pool.shards import Shards, open_shards
from aced.runtime.counting import Progress

_LONGEST_CAPTION = 400
"""Characters of a training caption to keep; the decoder writes some twenty words."""


def load_caption_tars(
    path: str, where: tuple[str, str] | None, index_dir: Path | None, progress: Progress | None = None
) -> TextExamples:
    """Training captions in img2dataset's layout.

    Args:
        path: a tar, a folder of tars, a glob or a brace range.
        where: (field, value) of the samples' json: only samples with this value are used.
        index_dir: where the tars' indexes are kept.
        progress: called with (samples read, all samples).

    Raises:
        AcedError: no such tars, a damaged one, none with pairs, or none with that value.
    """
    shards = open_shards([path], index_dir=index_dir)
    wanted = None if where is None else _with_value(shards, *where)
    rows: list[int] = []
    texts: list[tuple[str, ...]] = []
    for done, part in read_all(shards, [], chunk=1024):
        for row, text in zip(part.indices.tolist(), part.texts, strict=True):
            if wanted is None or shards.keys[row] in wanted:
                rows.append(row)
                texts.append((text[:_LONGEST_CAPTION],))
        if progress is not None:
            progress(done, len(shards))
    if not rows:
        chosen = "" if where is None else f" whose {where[0]} is '{where[1]}'"
        raise AcedError(f"{path} holds no pair{chosen}: check --where and the samples' json.")
    return TextExamples(f"{shards.name} captions", "caption", shards, rows, texts)


def _with_value(shards: Shards, field: str, value: str) -> set[str]:
    """Keys of the samples that have a value in a field of their json; for a list its first entry counts."""
    return {key for key, found in zip(shards.keys, shards.fields(field), strict=True) if _word(found) == value}


def _word(found: object) -> str | None:
    if isinstance(found, list):
        found = next((entry for entry in found if entry is not None), None)
    return None if found is None else str(found).strip()


def load_caption_task(folder: Path) -> TextExamples:
    """The images and captions of a retrieval task in CLIP_benchmark's layout, as a test.

    Raises:
        AcedError: it is not such a task, or is damaged.
    """
    found = [task for task in load_task_folder(folder) if isinstance(task, Retrieval)]
    if not found:
        raise AcedError(f"{folder} is a classification task and has no captions; name a retrieval task.")
    task = found[0]
    name = folder.resolve().name.removeprefix("wds_")
    keys = [f"{name}/{i:06d}" for i in range(len(task.captions))]
    pictures = TextPictures(name, _fingerprint(folder), keys, task.images)
    return TextExamples(f"{name} captions", "caption", pictures, list(range(len(keys))), _tuples(task.captions))


def _tuples(captions: Sequence[Sequence[str]]) -> list[tuple[str, ...]]:
    return [tuple(texts) for texts in captions]


def _fingerprint(folder: Path) -> str:
    """Changes when the task's tars change."""
    states = [(tar.name, tar.stat().st_size, tar.stat().st_mtime_ns) for tar in sorted((folder / "test").glob("*.tar"))]
    return hashlib.sha256(json.dumps(["lit task", states]).encode()).hexdigest()
