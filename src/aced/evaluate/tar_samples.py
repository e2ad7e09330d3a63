"""The samples of an evaluation task's tars: where their images lie, and their labels and captions."""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from aced.data.images import ImageFault, decode_like_pillow
from aced.data.standins import HEAD, stand_in
from aced.data.tarindex import IMAGE_SUFFIXES
from aced.data.tars import Member, list_tar, split_key
from aced.data.views import View
from aced.errors import AcedError
from aced.evaluate.image_faults import FaultNotes, ImageFaults

_KEPT_BYTES = 1 << 28
"""Pixels of a task that are kept for its next evaluation; a larger task is decoded again."""
_TOLD = ("image_truncated", "image_aspect", "image_16_bit")
"""What a pool leaves out or reads otherwise; alpha, EXIF and further frames are the same everywhere."""
_RESIZED_PIXELS = 179_000_000
"""Pixels that a long image may have once its short side fits the view: as many as Pillow opens."""


@dataclass(frozen=True)
class Sample:
    """A key of a task's tar.

    Attributes:
        tar: the file.
        key: the key.
        images: where its image lies, or its images in order (`KEY.0.jpg`, `KEY.1.jpg`, ...).
        parts: the bytes of its other members that were asked for, by suffix.
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
            AcedError: it is no .npy file, or holds other things than whole numbers.
        """
        try:
            array = np.load(io.BytesIO(self.parts[suffix]), allow_pickle=False)
            whole = array.astype(np.int64)
        except (ValueError, OSError, EOFError) as error:
            raise AcedError(f"The .{suffix} of {self} is not a numpy array of numbers ({error}).") from None
        if not np.array_equal(whole, array):
            raise AcedError(f"The .{suffix} of {self} holds numbers that are not whole.")
        return np.asarray(whole).reshape(-1)


def read_samples(folder: Path, needs: Sequence[str], *, optional: Sequence[str] = ()) -> list[Sample]:
    """All samples of a task folder, in the order of its tars.

    Args:
        folder: with `test/0.tar`, ...
        needs: suffixes that every sample must have besides its image.
        optional: suffixes that are read where they are.

    Raises:
        AcedError: a tar is missing or damaged, or a sample lacks its image or a part.
    """
    return [sample for tar in _tars(folder / "test") for sample in _samples_of(tar, needs, optional)]


def _tars(test: Path) -> list[Path]:
    """The tars that nshards.txt counts; without it, all that are there."""
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
            raise AcedError(f"{key} in {tar} has no {lacks}: the evaluation task is incomplete, get it again.")
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


State = tuple[int, int]
"""Size and modification time of a tar, by which a change is noticed."""


def read_member(tar: Path, member: Member, state: State | None = None) -> bytes:
    """The bytes of a member of a tar that had `state` when its headers were read.

    Raises:
        AcedError: the tar cannot be read, or is another than it was.
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


def _state(tar: Path) -> State:
    try:
        state = tar.stat()
    except OSError as error:
        raise AcedError(f"{tar} cannot be read ({error.strerror or error}).") from error
    return state.st_size, state.st_mtime_ns


class TarImages:
    """Decodes a task's images in a view when they are asked for; remembers them where they are few.

    Images are decoded as by Pillow. One that cannot be used is black here, and `faults` names it: whoever scores the
    images leaves it out.
    """

    def __init__(self, samples: Sequence[Sample]) -> None:
        self._places = [(sample, image) for sample in samples for image in sample.images]
        self._states = {tar: _state(tar) for tar in dict.fromkeys(sample.tar for sample in samples)}
        self._known: dict[View, Tensor] = {}
        self._faults: dict[View, ImageFaults] = {}

    def __len__(self) -> int:
        return len(self._places)

    @cached_property
    def structure(self) -> str:
        """A hash of the names and sizes of the images: the same for a copy of the data."""
        names = [[sample.tar.name, sample.key, image.name, image.size] for sample, image in self._places]
        return hashlib.sha256(json.dumps(names).encode()).hexdigest()[:24]

    @cached_property
    def fingerprint(self) -> str:
        """A hash that also changes when one of the files does."""
        states = [[tar.name, *state] for tar, state in self._states.items()]
        offsets = [image.offset for _, image in self._places]
        return hashlib.sha256(json.dumps([self.structure, states, offsets]).encode()).hexdigest()[:24]

    def __call__(self, view: View) -> Tensor:
        """All n images: `[n, 3, size, size]` uint8."""
        if view not in self._known:
            notes = FaultNotes()
            self._known[view] = torch.from_numpy(self._decode(view, 0, len(self), notes))
            self._faults[view] = notes.all()
        return self._known[view]

    def batches(self, view: View, size: int) -> Iterator[Tensor]:
        """The same images, `size` at a time."""
        if view in self._known:
            yield from self._known[view].split(size)
            return
        notes = FaultNotes()
        kept: list[Tensor] | None = [] if len(self) * 3 * view.size**2 <= _KEPT_BYTES else None
        for start in range(0, len(self), size):
            part = torch.from_numpy(self._decode(view, start, min(len(self), start + size), notes))
            if kept is not None:
                kept.append(part)
            yield part
        self._faults[view] = notes.all()
        if kept:
            self._known[view] = torch.cat(kept)

    def faults(self, view: View) -> ImageFaults:
        """What is wrong or odd about the images; known once all of them were read in this view."""
        return self._faults[view]

    def _decode(self, view: View, start: int, end: int, notes: FaultNotes) -> np.ndarray:
        pixels = np.zeros((end - start, 3, view.size, view.size), dtype=np.uint8)
        for row, (sample, image) in enumerate(self._places[start:end]):
            place = f"{image.name} in {sample.tar}"
            try:
                decoded, odd = decode_like_pillow(read_member(sample.tar, image, self._states[sample.tar]))
                _check_resized(decoded, view)
                pixels[row] = view.apply(decoded)
            except ImageFault as fault:
                notes.lose(start + row, fault.name, f"{place}: {fault}")
                continue
            for name, detail in odd:
                if name in _TOLD:
                    notes.odd(name, f"{place}: {detail}")
        return pixels


def _check_resized(pixels: np.ndarray, view: View) -> None:
    """Refuse an image so long that resizing its short side would fill the memory."""
    height, width = pixels.shape[:2]
    if view.mode == "shortest" and view.size**2 * max(width, height) > _RESIZED_PIXELS * min(width, height):
        raise ImageFault("image_too_large", f"{width} x {height} pixels are too long for a view of {view.size} pixels")


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
    # Its lines would pass for class names.
    if content.strip() and (what := stand_in(content[:HEAD])):
        raise AcedError(f"{path}: {what}.")
    lines = [line.strip() for line in text.strip().split("\n")]
    if not all(lines):
        raise AcedError(f"{path} is empty or has an empty line.")
    return lines
