"""The samples of an evaluation task's tars: the places of their images, and their labels and captions."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from aced.errors import AcedError
from aced.files.standins import HEAD, stand_in
from aced.pool.tars.tarindex import IMAGE_SUFFIXES
from aced.pool.tars.tars import Member, list_tar, split_key


@dataclass(frozen=True)
class Sample:
    """A key of a task's tar.

    Attributes:
        tar: the file.
        key: the key.
        images: places of its image, or of its images in order (`KEY.0.jpg`, `KEY.1.jpg`, ...).
        parts: the bytes of its other requested members, by suffix.
    """

    tar: Path
    key: str
    images: tuple[Member, ...]
    parts: dict[str, bytes]

    def __str__(self) -> str:
        return f"{self.key} in {self.tar}"

    def text(self, suffix: str) -> str:
        """A part as text, stripped."""
        return self.parts[suffix].decode("utf-8", "replace").strip()

    def array(self, suffix: str) -> np.ndarray:
        """A part as a flat numpy array of integers.

        Raises:
            AcedError: it is not a .npy file, or holds other values than whole numbers.
        """
        try:
            array = np.load(io.BytesIO(self.parts[suffix]), allow_pickle=False)
            whole = array.astype(np.int64)
        except (ValueError, OSError, EOFError) as error:
            raise AcedError(f"The .{suffix} of {self} is not a numpy array of numbers ({error}).") from None
        if not np.array_equal(whole, array):
            raise AcedError(f"The .{suffix} of {self} holds numbers that are not whole; get the task again.")
        return np.asarray(whole).reshape(-1)


def read_samples(folder: Path, needs: Sequence[str], *, optional: Sequence[str] = ()) -> list[Sample]:
    """All samples of a task folder, in the order of its tars.

    Args:
        folder: with `test/0.tar`, ...
        needs: suffixes that every sample must have besides its image.
        optional: suffixes that are read if present.

    Raises:
        AcedError: a tar is missing or damaged, or a sample lacks its image or a part.
    """
    return [sample for tar in _tars(folder / "test") for sample in _samples_of(tar, needs, optional)]


def _tars(test: Path) -> list[Path]:
    """The tars that nshards.txt counts; without it, all existing ones."""
    there = {path.name for path in test.glob("*.tar") if path.stem.isascii() and path.stem.isdecimal()}
    count_file = test / "nshards.txt"
    count = max(1, len(there))
    if count_file.is_file():
        lines = read_lines(count_file)
        if not (len(lines) == 1 and lines[0].isascii() and lines[0].isdecimal() and int(lines[0]) > 0):
            raise AcedError(f"{count_file} says {lines[0]!r}, not a number of tars.")
        count = int(lines[0])
    tars = [test / f"{number}.tar" for number in range(count)]
    for tar in tars:
        if not tar.is_file():
            raise AcedError(f"The evaluation task {test.parent} lacks {tar.name} of its {count} tars.")
    more = sorted(there - {tar.name for tar in tars}, key=lambda name: int(name[:-4]))
    if more:
        raise AcedError(
            f"{count_file} says {count}, but there is also {more[0]}; correct the number or remove the tar."
        )
    return tars


def _samples_of(tar: Path, needs: Sequence[str], optional: Sequence[str]) -> Iterator[Sample]:
    try:
        listing = list_tar(tar)
    except OSError as error:
        raise AcedError(f"{tar} cannot be read ({error.strerror or error}).") from error
    if listing.fault is not None:
        remedy = "" if ";" in listing.fault.detail else "; get the file again"
        raise AcedError(f"The evaluation tar {tar} cannot be used: {listing.fault.detail}{remedy}.")
    found: dict[str, dict[str, Member]] = {}
    for member in listing.members:
        split = split_key(member.name)
        if split is not None:
            found.setdefault(split[0], {}).setdefault(split[1], member)
    for key, parts in found.items():
        images = _images(parts)
        lacks = "image" if not images else next((f".{suffix}" for suffix in needs if suffix not in parts), None)
        if lacks:
            raise AcedError(f"{key} in {tar} has no {lacks}: the evaluation task is incomplete; get it again.")
        wanted = [suffix for suffix in (*needs, *optional) if suffix in parts]
        yield Sample(tar, key, images, {suffix: read_member(tar, parts[suffix]) for suffix in wanted})
    if not found:
        raise AcedError(f"The evaluation tar {tar} holds no samples.")


def _images(parts: dict[str, Member]) -> tuple[Member, ...]:
    """`KEY.jpg`, or `KEY.0.jpg`, `KEY.1.jpg` and so on as far as they go."""
    single = next((parts[suffix] for suffix in IMAGE_SUFFIXES if suffix in parts), None)
    if single is not None:
        return (single,)
    several: list[Member] = []
    while True:
        names = (f"{len(several)}.{suffix}" for suffix in IMAGE_SUFFIXES)
        following = next((parts[name] for name in names if name in parts), None)
        if following is None:
            return tuple(several)
        several.append(following)


TarState = tuple[int, int]
"""Size and modification time of a tar, by which changes are detected."""


def read_member(tar: Path, member: Member, state: TarState | None = None) -> bytes:
    """The bytes of a member of a tar that had `state` when its headers were read.

    Raises:
        AcedError: the tar cannot be read, or has changed.
    """
    try:
        with open(tar, "rb") as file:
            now = os.fstat(file.fileno())
            file.seek(member.offset)
            content = file.read(member.size)
    except OSError as error:
        raise AcedError(f"{tar} cannot be read ({error.strerror or error}).") from error
    if len(content) < member.size or (state is not None and state != (now.st_size, now.st_mtime_ns)):
        raise AcedError(f"{tar} has changed since its labels were read: evaluate again.")
    return content


def state_of(tar: Path) -> TarState:
    """The current state of a tar.

    Raises:
        AcedError: it cannot be read.
    """
    try:
        state = tar.stat()
    except OSError as error:
        raise AcedError(f"{tar} cannot be read ({error.strerror or error}).") from error
    return state.st_size, state.st_mtime_ns


def read_lines(path: Path) -> list[str]:
    """The lines of a text file of a task; none of them is empty, because an empty line would shift the classes.

    Raises:
        AcedError: there is no such file, it cannot be read, or has an empty line.
    """
    try:
        content = path.read_bytes()
        text = content.decode("utf-8-sig")
    except FileNotFoundError as error:
        raise AcedError(f"The evaluation task {path.parent} has no {path.name}.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise AcedError(f"{path} cannot be read ({error}).") from error
    # Its lines would be used as class names.
    if content.strip() and (what := stand_in(content[:HEAD])):
        raise AcedError(f"{path}: {what}.")
    lines = [line.strip() for line in text.strip().split("\n")]
    if not all(lines):
        raise AcedError(f"{path} is empty or has an empty line.")
    return lines
