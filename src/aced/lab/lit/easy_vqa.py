"""easy-VQA as published: images of shapes, with questions that have one of thirteen answers."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aced.errors import AcedError
from aced.lab.lit.texts import TextExamples, TextPictures
from aced.pool.images import ImageFault, decode_image
from aced.pool.views import View

SPLITS = ("train", "test")


def is_easy_vqa(folder: Path) -> bool:
    """Whether a folder looks like easy-VQA: unpacked (`train/questions.json`) or as published (`.tar.gz`)."""
    return any((folder / name).is_file() for name in ("train/questions.json", "train.tar.gz"))


def load_easy_vqa(folder: Path, split: str) -> TextExamples:
    """The questions of a split, `train` or `test`.

    Raises:
        AcedError: a file is missing, damaged, or not part of the data set.
    """
    files = _Unpacked(folder / split) if (folder / split).is_dir() else _Packed(folder / f"{split}.tar.gz", split)
    questions = _questions(files)
    ids = sorted({row[2] for row in questions})
    place = {one: row for row, one in enumerate(ids)}
    answers = sorted({row[1] for row in questions})
    pictures = TextPictures(
        f"{folder.resolve().name} {split}", files.fingerprint, [f"{split}/{one}" for one in ids], _Images(files, ids)
    )
    return TextExamples(
        name=folder.resolve().name,
        kind="vqa",
        source=pictures,
        rows=[place[row[2]] for row in questions],
        texts=[(row[1],) for row in questions],
        questions=[row[0] for row in questions],
        types=["yes/no" if row[1] in ("yes", "no") else "open" for row in questions],
        chance=1 / len(answers),
    )


class _Files:
    """The files of a split by their names in it."""

    where: Path
    fingerprint: str

    def read(self, name: str) -> bytes:
        """The content of a file.

        Raises:
            AcedError: it is not there, or cannot be read.
        """
        raise NotImplementedError

    def missing(self, name: str) -> AcedError:
        return AcedError(f"easy-VQA: {self.where} has no {name}; get the data set again.")


class _Unpacked(_Files):
    def __init__(self, folder: Path) -> None:
        self.where = folder
        entries = sorted(path for path in folder.rglob("*") if path.is_file())
        states = [[str(path.relative_to(folder)), path.stat().st_size, path.stat().st_mtime_ns] for path in entries]
        self.fingerprint = hashlib.sha256(json.dumps(states).encode()).hexdigest()[:16]

    def read(self, name: str) -> bytes:
        try:
            return (self.where / name).read_bytes()
        except FileNotFoundError:
            raise self.missing(name) from None


class _Packed(_Files):
    """A `.tar.gz`, held in memory as a whole: the published ones have about one megabyte."""

    def __init__(self, path: Path, split: str) -> None:
        self.where = path
        try:
            content = path.read_bytes()
            with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as tar:
                members = [(member.name, tar.extractfile(member)) for member in tar if member.isfile()]
                self._files = {name.partition(f"{split}/")[2]: file.read() for name, file in members if file}
        except FileNotFoundError:
            raise AcedError(f"easy-VQA: there is no {path}; name the folder of the published archives.") from None
        except (OSError, EOFError, tarfile.TarError) as error:
            raise AcedError(f"easy-VQA: {path} cannot be read ({error}); get the file again.") from None
        self.fingerprint = hashlib.sha256(content).hexdigest()[:16]

    def read(self, name: str) -> bytes:
        if name not in self._files:
            raise self.missing(name)
        return self._files[name]


def _questions(files: _Files) -> list[tuple[str, str, int]]:
    """(question, answer, picture) of a split."""
    try:
        content: Any = json.loads(files.read("questions.json"))
        rows = [(str(question), str(answer), int(picture)) for question, answer, picture in content]
    except (ValueError, TypeError) as error:
        raise AcedError(
            f"easy-VQA: questions.json in {files.where} is not a list of [question, answer, picture] ({error})."
        ) from None
    if not rows:
        raise AcedError(f"easy-VQA: questions.json in {files.where} holds no question.")
    return rows


class _Images:
    """Decodes the images on first use, once for each view."""

    def __init__(self, files: _Files, ids: Sequence[int]) -> None:
        self._files, self._ids = files, ids
        self._known: dict[View, Tensor] = {}

    @cached_property
    def _raw(self) -> list[Any]:
        raw = []
        for one in self._ids:
            name = f"images/{one}.png"
            try:
                raw.append(decode_image(self._files.read(name)))
            except ImageFault as fault:
                raise AcedError(f"easy-VQA: {name} in {self._files.where} cannot be used: {fault}.") from None
        return raw

    def __call__(self, view: View) -> Tensor:
        if view not in self._known:
            self._known[view] = torch.stack([torch.from_numpy(view.apply(image)) for image in self._raw])
        return self._known[view]
