"""The whole samples of one tar for a choice of captions, and the faults of the others by its headers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from aced.errors import AcedError
from aced.pool.captions import Captions
from aced.pool.faults import HARMLESS, LEFT_OUT, FaultList
from aced.pool.packed import PackedStrings
from aced.pool.source import Fault
from aced.pool.tars.manifest import EXAMPLES, HeaderFault, TarFacts
from aced.pool.tars.tarindex import IMAGE_SUFFIXES, TarIndex

PARTS = ("txt", "json")
"""Where captions may be."""
_CAPTION = "\0"
_FEW = 3
"""Number of samples without a caption that are listed one by one, for a tar where all lack it."""


@dataclass(frozen=True)
class TarRows:
    """The n usable samples of a tar, in their order.

    Attributes:
        keys: of the samples.
        image, caption, json: `[n, 2]` int64 offset and size; offset -1 without a json.
        state: size and modification time (ns) of their file.
        odd: for a tar known only by hearsay, what is wrong or unusual: names, details and counts.
    """

    keys: PackedStrings
    image: np.ndarray
    caption: np.ndarray
    json: np.ndarray
    state: tuple[int, int]
    odd: tuple[tuple[str, str, int], ...] = ()

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def nbytes(self) -> int:
        """Bytes of memory."""
        arrays = {id(array): array for array in (self.image, self.caption, self.json)}
        return sum(array.nbytes for array in arrays.values()) + self.keys.nbytes


def rows_of(index: TarIndex, part: str) -> TarRows:
    """The samples of a tar with an image and a caption in its `txt` or `json`."""
    kept = np.flatnonzero(_good(index, part))
    places = {name: rows[kept] for name, rows in index.places.items()}
    state = index.size, index.mtime_ns
    return TarRows(index.keys.take(kept), places["image"], places[part], places["json"], state)


def _good(index: TarIndex, part: str) -> np.ndarray:
    good: np.ndarray = (index.places["image"][:, 1] > 0) & (index.places[part][:, 1] > 0)
    return good


def facts_of(index: TarIndex, source: str, size: int, state: str, *, packed: bool = False) -> TarFacts:
    """A manifest's facts about a tar.

    Args:
        index: of its content.
        source: its path or address.
        size, state: of the file there.
        packed: whether that is a gzip file.
    """
    txt, json = (int(_good(index, part).sum()) for part in PARTS)
    return TarFacts(source, size, state, index.mark(), txt, json, packed, tuple(_told(index)))


def _told(index: TarIndex) -> Iterator[HeaderFault]:
    for damage in index.faults:
        yield HeaderFault(f"tar_{damage.name}", "", "", damage.detail)
    for note in index.notes:
        yield HeaderFault(note.name, "", note.key, note.detail, note.count)
    for part in PARTS:
        good = _good(index, part)
        found = FaultList(EXAMPLES if good.any() else _FEW)
        bare = (index.places["image"][:, 1] > 0) & (index.places[part][:, 0] < 0)
        rest = max(0, int(bare.sum()) - EXAMPLES)  # in a pool without such captions these are all samples
        told = ~good & (~bare | (np.cumsum(bare) <= EXAMPLES))
        for row in map(int, np.flatnonzero(told)):
            found.add(_why(index, row, part))
        if rest:
            found.add(Fault("", "no_caption", "", rest))
        for fault in found:
            yield HeaderFault(fault.name, part, fault.key, fault.detail, fault.count)


def _why(index: TarIndex, row: int, part: str) -> Fault:
    """The part that an incomplete sample lacks."""
    key, image, text = index.keys[row], index.places["image"][row], index.places[part][row]
    suffixes = index.suffixes.get(key, [])
    has = ", ".join(suffixes[:8])
    dotted = [suffix for suffix in suffixes if suffix.rpartition(".")[2] in IMAGE_SUFFIXES and "." in suffix]
    if image[0] < 0 and dotted:
        detail = f"it has no jpg, jpeg, png or webp (only {has}), because a key ends at the first dot of a file name"
        return Fault(key, "dotted_key", detail, len(dotted))
    if image[0] < 0:
        return Fault(key, "no_image", f"it has no jpg, jpeg, png or webp (only {has})")
    if text[0] < 0:
        return Fault(key, "no_caption", f"it has no {part} for the caption {_CAPTION} (only {has})")
    return Fault(key, "empty_member", f"its {'image' if image[1] == 0 else part} has no bytes")


def faults_of(tar: str, facts: TarFacts, captions: Captions) -> Iterator[Fault]:
    """The faults of a tar, by its headers, for a reader of such captions.

    Args:
        tar: its name in the source.
        facts: of it.
        captions: which are read.
    """
    for told in facts.faults:
        if told.part not in ("", captions.part):
            continue
        key = f"{tar}/{told.key}" if told.key else tar
        detail = told.detail.replace(_CAPTION, str(captions))
        if not detail:
            detail = LEFT_OUT.get(told.name) or HARMLESS.get(told.name, told.name)
        elif not told.key:
            detail = f"{detail}; {facts.usable(captions.part)} whole samples of it are used"
        yield Fault(key, told.name, f"{key}: {detail}.", told.times)


def needs_check(facts: TarFacts, part: str) -> bool:
    """Whether `check_tar` would refuse a tar, as far as a manifest says."""
    damaged = any(told.name.startswith("tar_") for told in facts.faults)
    return damaged or (not facts.told and facts.usable(part) == 0)


def check_tar(source: str, index: TarIndex, captions: Captions) -> None:
    """Refuse a damaged tar and one without pairs.

    Raises:
        AcedError: it is damaged or has no pairs.
    """
    whole = int(_good(index, captions.part).sum())
    if index.fault is not None:
        what = f"use the {whole} whole samples in it" if whole else "leave it out"
        raise AcedError(
            f'{source} cannot be used: {index.fault.detail}. Replace the file, or set data.bad_tars = "skip" to {what}.'
        )
    if whole == 0:
        found = sorted({suffix for has in index.suffixes.values() for suffix in has})[:6]
        what = f"; its samples have {', '.join(found)}" if found else ""
        raise AcedError(f"{source} holds no pair of an image (jpg, jpeg, png, webp) and a caption ({captions}){what}.")
