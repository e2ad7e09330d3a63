"""Zero-shot tasks on disk in CLIP_benchmark's webdataset layout.

A task is a folder `wds_<name>` (or `<name>`) with `test/<i>.tar` and, if there is more than one tar, their
number in `test/nshards.txt`. Classification: `classnames.txt`, `zeroshot_classification_templates.txt` with
`{c}`, and in the tars an image and a `.cls` for each key. Retrieval: `dataset_type.txt` says `retrieval`, and
the tars hold an image and a `.txt` with one caption a line.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from aced.data.images import ImageFault, decode_image
from aced.data.tarindex import IMAGE_SUFFIXES
from aced.data.tars import Member, list_tar, split_key
from aced.data.views import View
from aced.errors import AcedError
from aced.evaluate.tasks import Classification, Retrieval, Task

_LAYOUT = "a task has test/0.tar and classnames.txt (classification) or dataset_type.txt (retrieval)"


def find_task_folders(dirs: Sequence[Path | str]) -> list[Path]:
    """The task folders among some folders: each is one, or holds some; sorted within a folder, each once.

    Raises:
        AcedError: a folder does not exist, or neither is a task nor holds one.
    """
    found: dict[str, Path] = {}
    for folder in map(Path, dirs):
        if not folder.is_dir():
            raise AcedError(f"There is no folder {folder} with evaluation tasks.")
        tasks = [folder] if _is_task(folder) else sorted(filter(_is_task, folder.iterdir()))
        if not tasks:
            raise AcedError(f"{folder} neither is an evaluation task nor holds any: {_LAYOUT}.")
        for task in tasks:
            found.setdefault(os.path.realpath(task), task)
    return list(found.values())


def _is_task(folder: Path) -> bool:
    return (folder / "test").is_dir() and any(
        (folder / name).is_file() for name in ("classnames.txt", "dataset_type.txt")
    )


def load_task_folder(path: Path | str) -> list[Task]:
    """The task in a folder; a retrieval folder gives two, `<name>_i2t` and `<name>_t2i`.

    The images are decoded when they are first asked for, once for each view. Chance is 1 / classes, and for
    retrieval 1 / images in both directions.

    Raises:
        AcedError: not a task folder, or a missing, damaged or contradictory file in it; and from the
            tasks' `images`: an image that cannot be decoded.
    """
    folder = Path(path)
    if not _is_task(folder):
        raise AcedError(f"{folder} is not an evaluation task: {_LAYOUT}.")
    name = folder.resolve().name.removeprefix("wds_")
    kind_file = folder / "dataset_type.txt"
    kind = _lines(kind_file)[0] if kind_file.is_file() else "classification"
    if kind == "retrieval":
        return _retrieval(folder, name)
    if kind == "classification":
        return [_classification(folder, name)]
    raise AcedError(f"{kind_file} says {kind}; known are classification and retrieval.")


def _classification(folder: Path, name: str) -> Classification:
    classes = _lines(folder / "classnames.txt")
    template_file = folder / "zeroshot_classification_templates.txt"
    templates = _lines(template_file)
    without = [template for template in templates if "{c}" not in template]
    if without:
        raise AcedError(f"{template_file} has a template without {{c}} for the class name: {without[0]!r}.")
    samples = _samples(folder, "cls")
    labels = [_label(sample, len(classes)) for sample in samples]
    return Classification(
        name=name,
        images=_Images(samples),
        labels=torch.tensor(labels, dtype=torch.int64),
        classes=classes,
        templates=templates,
        chance=1 / len(classes),
    )


def _label(sample: _Sample, classes: int) -> int:
    content = sample.other.decode("utf-8", "replace").strip()
    if not (content.isascii() and content.isdecimal()):
        raise AcedError(f"The label of {sample} is {content!r}, not a number.")
    label = int(content)
    if label >= classes:
        raise AcedError(f"The label of {sample} is {label}, but there are {classes} classes (from 0).")
    return label


def _retrieval(folder: Path, name: str) -> list[Task]:
    samples = _samples(folder, "txt")
    captions: list[list[str]] = []
    for sample in samples:
        lines = [line.strip() for line in sample.other.decode("utf-8", "replace").split("\n")]
        lines = [line for line in lines if line]
        if not lines:
            raise AcedError(f"{sample} has no caption.")
        captions.append(lines)
    images = _Images(samples)
    # To text, an image's c of all C captions are guessed with probability c / C: 1 / n in the mean.
    chance = 1 / len(samples)
    return [
        Retrieval(f"{name}_i2t", images, captions, "image_to_text", chance),
        Retrieval(f"{name}_t2i", images, captions, "text_to_image", chance),
    ]


@dataclass(frozen=True)
class _Sample:
    """A key of a task's tar: where its image lies, and the bytes of its label or captions."""

    tar: Path
    key: str
    image: Member
    other: bytes

    def __str__(self) -> str:
        return f"{self.key} in {self.tar}"


def _samples(folder: Path, suffix: str) -> list[_Sample]:
    return [sample for tar in _tars(folder / "test") for sample in _samples_of(tar, suffix)]


def _tars(test: Path) -> list[Path]:
    count_file = test / "nshards.txt"
    count = 1
    if count_file.is_file():
        word = _lines(count_file)[0]
        if not (word.isascii() and word.isdecimal() and int(word) > 0):
            raise AcedError(f"{count_file} says {word!r}, not a number of tars.")
        count = int(word)
    tars = [test / f"{number}.tar" for number in range(count)]
    for tar in tars:
        if not tar.is_file():
            raise AcedError(f"The evaluation task {test.parent} lacks {tar.name} of its {count} tars.")
    return tars


def _samples_of(tar: Path, suffix: str) -> Iterator[_Sample]:
    try:
        listing = list_tar(tar)
    except OSError as error:
        raise AcedError(f"{tar} cannot be read ({error.strerror or error}).") from error
    if listing.fault is not None:
        raise AcedError(f"The evaluation tar {tar} cannot be used: {listing.fault.detail}; get the file again.")
    parts: dict[str, dict[str, Member]] = {}
    for member in listing.members:
        split = split_key(member.name)
        if split is not None:
            parts.setdefault(split[0], {}).setdefault(split[1], member)
    for key, found in parts.items():
        image = next((found[one] for one in IMAGE_SUFFIXES if one in found), None)
        if image is None or suffix not in found:
            lacks = "image" if image is None else f".{suffix}"
            raise AcedError(f"{key} in {tar} has no {lacks}: the evaluation task is incomplete, get it again.")
        yield _Sample(tar, key, image, _bytes(tar, found[suffix]))
    if not parts:
        raise AcedError(f"The evaluation tar {tar} holds no samples.")


def _bytes(tar: Path, member: Member) -> bytes:
    try:
        with open(tar, "rb") as file:
            file.seek(member.offset)
            content = file.read(member.size)
    except OSError as error:
        raise AcedError(f"{tar} cannot be read ({error.strerror or error}).") from error
    if len(content) < member.size:
        raise AcedError(f"{tar} has changed since the evaluation began: start it again.")
    return content


class _Images:
    """Decodes a task's images in a view when they are asked for, and remembers them."""

    def __init__(self, samples: Sequence[_Sample]) -> None:
        self._samples = samples
        self._known: dict[View, Tensor] = {}

    def __call__(self, view: View) -> Tensor:
        """All n images: `[n, 3, size, size]` uint8."""
        if view not in self._known:
            pixels = np.empty((len(self._samples), 3, view.size, view.size), dtype=np.uint8)
            for row, sample in enumerate(self._samples):
                try:
                    pixels[row] = view.apply(decode_image(_bytes(sample.tar, sample.image)))
                except ImageFault as fault:
                    raise AcedError(f"The evaluation image {sample} cannot be used: {fault}.") from fault
            self._known[view] = torch.from_numpy(pixels)
        return self._known[view]


def _lines(path: Path) -> list[str]:
    """The lines of a text file; none of them is empty, because an empty line would shift the classes."""
    try:
        text = path.read_text("utf-8-sig")
    except FileNotFoundError as error:
        raise AcedError(f"The evaluation task {path.parent} has no {path.name}.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise AcedError(f"{path} cannot be read ({error}).") from error
    lines = [line.strip() for line in text.strip().split("\n")]
    if not all(lines):
        raise AcedError(f"{path} is empty or has an empty line.")
    return lines
