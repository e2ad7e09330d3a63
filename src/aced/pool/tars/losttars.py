"""Lost tars: gone or changed while a run reads, or when it is resumed."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from aced.errors import AcedError
from aced.files.patterns import braces, expand_tars
from aced.pool.source import Source
from aced.pool.tars.manifest import NO_STATE, TarFacts

GONE, CHANGED = "tar_gone", "tar_changed"
LOST = frozenset({GONE, CHANGED})
"""Faults of samples in a lost tar."""

_OURS = {errno.EMFILE, errno.ENFILE, errno.ENOMEM}
"""Errors of this process's limits, for which no tar is to blame."""


class TarLost(Exception):
    """A tar that can no longer be read, or has changed: `name` is the fault, the text a whole sentence."""

    def __init__(self, name: str, detail: str) -> None:
        super().__init__(detail)
        self.name = name


def is_lost(error: OSError) -> bool:
    """Whether an error in opening or reading a tar means that the tar is missing, and not a limit of ours."""
    return error.errno not in _OURS


def lost_key(tar: str, row: int) -> str:
    """The key of a lost tar's sample: its position, because a run resumed without the tar knows no other."""
    return f"{tar}/#{row}"


class KnownTar(NamedTuple):
    """A tar as a checkpoint stores it: its name in the source, its mark (see `Shards.parts`) and its samples."""

    name: str
    mark: str
    samples: int


@dataclass(frozen=True)
class KnownTars:
    """The tars of the run that is being resumed, in the order of its samples.

    Attributes:
        tars: all of them.
        mixture: samples of each source, if the run tells them apart.
    """

    tars: tuple[KnownTar, ...]
    mixture: tuple[int, ...] = ()

    @classmethod
    def of(cls, source: Source) -> KnownTars:
        """The tars of a source; none for a source without tars."""
        marks = zip(source.parts.items(), source.part_sizes, strict=True)
        return cls(tuple(KnownTar(name, mark, size) for (name, mark), size in marks), tuple(source.mixture))

    @classmethod
    def load(cls, values: dict[str, Any]) -> KnownTars:
        """From the output of `values`."""
        return cls(tuple(KnownTar(*tar) for tar in values["tars"]), tuple(values["mixture"]))

    def values(self) -> dict[str, Any]:
        """For JSON."""
        return {"tars": [list(tar) for tar in self.tars], "mixture": list(self.mixture)}

    @property
    def groups(self) -> list[int]:
        """Tars of each source, if there are several."""
        counts, ends = [0] * len(self.mixture), np.cumsum(self.mixture).tolist()
        group = done = 0
        for tar in self.tars if ends else ():
            while done >= ends[group] and group + 1 < len(ends):
                group += 1
            counts[group] += 1
            done += tar.samples
        return counts

    def match(self, marks: Sequence[str]) -> list[int]:
        """For each tar the index of its mark (of contents, see `TarIndex.mark`) in `marks`, or -1."""
        there: dict[str, list[int]] = {}
        for number, mark in enumerate(marks):
            there.setdefault(mark, []).append(number)
        found = []
        for tar in self.tars:
            same = there.get(_content(tar.mark), [])
            found.append(same.pop(0) if same else -1)
        return found

    def differences(self, now: KnownTars) -> list[str]:
        """How the tars of today differ, in words: which are lost, with their samples, and how many are new."""
        left = {_content(tar.mark) for tar in now.tars}
        names = {tar.name for tar in now.tars}
        before = {_content(tar.mark) for tar in self.tars}
        lost = [tar for tar in self.tars if _content(tar.mark) not in left]
        told = [f"{t.name} {'has changed' if t.name in names else 'is gone'} ({t.samples:,} samples)" for t in lost]
        changed = {tar.name for tar in lost}
        new = sum(_content(tar.mark) not in before and tar.name not in changed for tar in now.tars)
        return shortened(told) + ([f"{new} {'tar is' if new == 1 else 'tars are'} new"] if new else [])


def _content(mark: str) -> str:
    return mark.rpartition(" ")[2]


def shortened(words: list[str], most: int = 3) -> list[str]:
    """The first few, and how many there are besides."""
    more = len(words) - most
    return words if more <= 0 else [*words[:most], f"{more} more"]


def lost_facts(tar: KnownTar) -> TarFacts:
    """Placeholders for a lost tar's samples in the order."""
    return TarFacts(tar.name, -1, NO_STATE, _content(tar.mark), tar.samples, tar.samples)


def still_there(patterns: Sequence[str]) -> Iterator[str]:
    """The existing part of what patterns name, brace by brace; addresses are passed through."""
    for pattern in patterns:
        if "://" in pattern:
            yield pattern
            continue
        whole = os.path.expanduser(pattern)
        for name in [pattern] if os.path.lexists(whole) else braces(pattern):
            try:
                expand_tars([name])
            except AcedError:
                continue
            yield name
