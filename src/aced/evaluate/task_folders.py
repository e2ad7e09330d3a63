"""Zero-shot tasks on disk in the webdataset layouts of CLIP_benchmark and DataComp; see docs/evaluate.md.

A task is a folder `wds_<name>`, `wds_<name>_test` or `<name>` with `test/<i>.tar` and the number of tars in
`test/nshards.txt`. `dataset_type.txt` gives its kind: `classification` (or no such file), `multilabel`, `retrieval`,
`groups`, `selection` or `association`. A name among DataComp's tasks decides the main metric and the groups.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from aced.errors import AcedError
from aced.evaluate.chance import chance_in_sets, chance_of_selection
from aced.evaluate.datacomp import KnownTask, known_chance, recognise, task_name
from aced.evaluate.groups import ATTRIBUTES, FACE_FIELDS
from aced.evaluate.tar_images import TarImages
from aced.evaluate.tar_samples import Sample, read_lines, read_samples
from aced.evaluate.tasks import (
    Association,
    Attributes,
    CaptionSelection,
    Classification,
    GroupScores,
    Multilabel,
    Retrieval,
    Task,
)
from aced.pool.views import View

_LAYOUT = "a task has test/0.tar and classnames.txt (classification) or dataset_type.txt (retrieval)"
_TEMPLATES = "zeroshot_classification_templates.txt"
_GROUPS = "groups.txt"
_KINDS = ("classification", "multilabel", "retrieval", "groups", "selection", "association")


def find_task_folders(dirs: Sequence[Path | str]) -> list[Path]:
    """The task folders among some folders: each is one, or holds some; sorted within a folder, each once.

    A folder that only looks like a task (`wds_*`, or with tars in `test/`) counts: a missing file is reported when it
    is loaded, instead of leaving it out silently.

    Raises:
        AcedError: a folder does not exist, or neither is a task nor holds one.
    """
    found: dict[str, Path] = {}
    for folder in map(Path, dirs):
        if not folder.is_dir():
            raise AcedError(f"There is no folder {folder} with evaluation tasks.")
        tasks = [folder] if _is_task(folder) else sorted(filter(_looks_like_a_task, folder.iterdir()))
        if not tasks:
            raise AcedError(f"{folder} is not an evaluation task and holds none: {_LAYOUT}.")
        for task in tasks:
            found.setdefault(os.path.realpath(task), task)
    return list(found.values())


def _is_task(folder: Path) -> bool:
    return (folder / "test").is_dir() and any(
        (folder / name).is_file() for name in ("classnames.txt", "dataset_type.txt")
    )


def _looks_like_a_task(folder: Path) -> bool:
    return folder.is_dir() and (
        _is_task(folder) or folder.name.startswith("wds_") or any((folder / "test").glob("*.tar"))
    )


def load_task_folder(path: Path | str) -> list[Task]:
    """The task in a folder.

    The images are decoded on first use. Chance is DataComp's figure if the task is one of its own and complete;
    otherwise 1 / classes, 1 / images in retrieval, and for several labels the share of images that have one.

    Raises:
        AcedError: it is not a task folder, or a file in it is missing, damaged or contradictory; from the
            tasks' `images`: an image cannot be decoded.
    """
    folder = Path(path)
    if not _is_task(folder):
        raise AcedError(f"{folder} is not an evaluation task: {_LAYOUT}.")
    name = task_name(folder.resolve().name)
    known = recognise(name)
    kind_file = folder / "dataset_type.txt"
    kind = read_lines(kind_file)[0].lower() if kind_file.is_file() else "classification"
    if kind not in _KINDS:
        raise AcedError(f"{kind_file} says {kind}; supported are {', '.join(_KINDS[:-1])} and {_KINDS[-1]}.")
    if known is not None and known.attributes and kind == "classification":
        return [_attributes(folder, name)]
    if kind == "retrieval":
        return [_retrieval(folder, name)]
    if kind == "selection":
        return [_selection(folder, name)]
    if kind == "association":
        return [_association(folder, name, known)]
    if kind == "multilabel":
        return [_multilabel(folder, name)]
    return [_classification(folder, name, known, by_group=kind == "groups")]


def lost_task(path: Path | str, why: str) -> Task:
    """A placeholder for an earlier task that can no longer be loaded: scoring it fails, with `why`."""

    def images(view: View) -> Tensor:
        raise AcedError(why)

    name = task_name(Path(path).resolve().name)
    return Classification(name, images, torch.zeros(1, dtype=torch.int64), ["lost"], ["{c}"], chance=1.0)


def _prompts(folder: Path) -> tuple[list[str], list[str]]:
    """Class names and templates."""
    templates = read_lines(folder / _TEMPLATES)
    without = [template for template in templates if "{c}" not in template]
    if without:
        raise AcedError(f"{folder / _TEMPLATES} has a template without {{c}} for the class name: {without[0]!r}.")
    return read_lines(folder / "classnames.txt"), templates


def _classification(folder: Path, name: str, known: KnownTask | None, *, by_group: bool) -> Classification:
    classes, templates = _prompts(folder)
    by_group = by_group or (known is not None and bool(known.group_by))
    samples = read_samples(folder, ["cls", "npy"] if by_group else ["cls"])
    labels = [_label(sample, len(classes)) for sample in samples]
    metric = known.main_metric if known is not None else "acc_wg" if by_group else "acc1"
    return Classification(
        name=name,
        images=TarImages(_single(samples)),
        labels=torch.tensor(labels, dtype=torch.int64),
        classes=classes,
        templates=templates,
        chance=known_chance(known, metric, len(classes), len(samples)),
        main_metric=metric,
        groups=_groups(folder, samples, known) if by_group else None,
    )


def _groups(folder: Path, samples: Sequence[Sample], known: KnownTask | None) -> GroupScores:
    metadata = _metadata(samples)
    if known is not None and known.group_by:
        if metadata.shape[1] != len(known.fields):
            raise AcedError(
                f"The metadata of {folder} have {metadata.shape[1]} fields, but those of {known.key} have "
                f"{len(known.fields)} ({', '.join(known.fields)}); get the task again."
            )
        return GroupScores(
            metadata, known.fields, known.group_by, 5 if "top5" in known.main_metric else 1, "F1" in known.main_metric
        )
    fields = [f"field{number}" for number in range(metadata.shape[1])]
    if not (folder / _GROUPS).is_file():
        return GroupScores(metadata, fields, [fields[:1]])
    fields, group_by = _named_groups(folder / _GROUPS)
    if metadata.shape[1] != len(fields):
        raise AcedError(f"{folder / _GROUPS} names {len(fields)} fields, but the metadata have {metadata.shape[1]}.")
    return GroupScores(metadata, fields, [group_by])


def _named_groups(file: Path) -> tuple[list[str], list[str]]:
    """The columns of the metadata, and those whose combinations of values are the groups."""
    found: dict[str, list[str]] = {}
    for line in read_lines(file):
        word, colon, names = line.partition(":")
        if not colon or word.strip() not in ("fields", "groups"):
            raise AcedError(f"{file}: the line {line!r} is neither 'fields: NAME, NAME' nor 'groups: NAME, NAME'.")
        found[word.strip()] = [name.strip() for name in names.split(",")]
    fields, groups = found.get("fields", []), found.get("groups", [])
    unknown = [name for name in groups if name not in fields]
    if not groups or unknown or len(set(fields)) < len(fields):
        what = f"groups by {unknown[0]!r}, which is not a field" if unknown else "lacks a line or names a field twice"
        raise AcedError(f"{file} {what}; write 'fields: NAME, NAME' and 'groups: NAME, NAME' with names among them.")
    return fields, groups


def _metadata(samples: Sequence[Sample]) -> Tensor:
    rows = [sample.array("npy") for sample in samples]
    for sample, row in zip(samples, rows, strict=True):
        if len(row) != len(rows[0]) or not len(row):
            raise AcedError(
                f"The .npy of {sample} has {len(row)} values, but that of {samples[0]} {len(rows[0])}; get it again."
            )
    return torch.from_numpy(np.stack(rows))


def _label(sample: Sample, classes: int) -> int:
    content = sample.text("cls")
    if not (content.isascii() and content.isdecimal()):
        raise AcedError(f"The label of {sample} is {content!r}, not a number.")
    label = int(content)
    if label >= classes:
        raise AcedError(f"The label of {sample} is {label}, but there are {classes} classes (from 0).")
    return label


def _multilabel(folder: Path, name: str) -> Multilabel:
    classes, templates = _prompts(folder)
    samples = read_samples(folder, ["npy"])
    rows = [sample.array("npy") for sample in samples]
    for sample, row in zip(samples, rows, strict=True):
        if len(row) != len(classes) or not np.isin(row, (0, 1)).all():
            raise AcedError(
                f"The labels of {sample} are {len(row)} values, but there are {len(classes)} classes; provide 0 or 1 "
                "for each class."
            )
    labels = torch.from_numpy(np.stack(rows).astype(bool))
    chance = float(labels.float().mean())
    return Multilabel(name, TarImages(_single(samples)), labels, classes, templates, chance)


def _captions(sample: Sample) -> list[str]:
    lines = [line.strip() for line in sample.text("txt").split("\n")]
    lines = [line for line in lines if line]
    if not lines:
        raise AcedError(f"{sample} has no caption.")
    return lines


def _retrieval(folder: Path, name: str) -> Retrieval:
    samples = read_samples(folder, ["txt"])
    captions = [_captions(sample) for sample in samples]
    # For a text, each of an image's c captions among all C is guessed with probability c / C: 1 / n on average.
    return Retrieval(name, TarImages(_single(samples)), captions, "both", 1 / len(samples))


def _selection(folder: Path, name: str) -> CaptionSelection:
    samples = read_samples(folder, ["txt"])
    captions = [_captions(sample) for sample in samples]
    first = samples[0]
    for sample, lines in zip(samples, captions, strict=True):
        if (len(sample.images), len(lines)) != (len(first.images), len(captions[0])):
            raise AcedError(
                f"{sample} has {len(sample.images)} images and {len(lines)} captions, but {first.key} "
                f"{len(first.images)} and {len(captions[0])}; give every set the same number."
            )
    try:
        chance = chance_of_selection(len(first.images), len(captions[0]))
    except AcedError as error:
        raise AcedError(f"{folder}: {error}") from None
    return CaptionSelection(name, TarImages(samples), captions, len(first.images), chance)


def _association(folder: Path, name: str, known: KnownTask | None) -> Association:
    samples = read_samples(folder, ["txt", "npy"])
    rows = [sample.array("npy") for sample in samples]
    for sample, row in zip(samples, rows, strict=True):
        if len(row) != len(sample.images) or not np.isin(row, (0, 1)).all() or not row.any():
            raise AcedError(
                f"The .npy of {sample} has {len(row)} values for {len(sample.images)} candidates; provide 1 for those "
                "that belong to the cue (one at least) and 0 for the others."
            )
    cues = [" ".join(_captions(sample)) for sample in samples]
    metric = known.main_metric if known is not None else "avg_jaccard_score"
    associated = [row.astype(bool).tolist() for row in rows]
    chance = chance_in_sets(associated, metric)
    if chance is None:
        raise AcedError(f"{folder} has no set of 10 candidates or more, which {name} is scored on.")
    return Association(name, TarImages(samples), cues, associated, chance, metric)


def _attributes(folder: Path, name: str) -> Attributes:
    """FairFace's and UTKFace's files: each line of class names and templates begins with the attribute and a colon."""
    files = {part: folder / file for part, file in (("classes", "classnames.txt"), ("templates", _TEMPLATES))}
    found: dict[str, dict[str, list[str]]] = {part: {key: [] for key in ATTRIBUTES} for part in files}
    for part, file in files.items():
        for line in read_lines(file):
            attribute, colon, text = line.partition(":")
            if not colon or attribute not in ATTRIBUTES:
                raise AcedError(
                    f"{file}: the line {line!r} does not begin with one of {', '.join(ATTRIBUTES)} and ':'."
                )
            found[part][attribute].append(text)
        missing = [attribute for attribute, texts in found[part].items() if not texts]
        if missing:
            raise AcedError(f"{file} has no line for '{missing[0]}'.")
    without = [text for texts in found["templates"].values() for text in texts if "{c}" not in text]
    if without:
        raise AcedError(f"{files['templates']} has a template without {{c}} for the class name: {without[0]!r}.")
    samples = read_samples(folder, ["npy"])
    metadata = _metadata(samples)
    if metadata.shape[1] != len(FACE_FIELDS):
        raise AcedError(
            f"The metadata of {folder} have {metadata.shape[1]} fields, not {len(FACE_FIELDS)} "
            f"({', '.join(FACE_FIELDS)}); get the task again."
        )
    images = TarImages(_single(samples))
    return Attributes(name, images, metadata, found["classes"], found["templates"], chance=1 / 2)


def _single(samples: Sequence[Sample]) -> Sequence[Sample]:
    for sample in samples:
        if len(sample.images) != 1:
            raise AcedError(f"{sample} has {len(sample.images)} images, but the task needs one for each key.")
    return samples
