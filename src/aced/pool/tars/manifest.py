"""The manifest of a pool: facts about each tar, so that a run starts without opening any of them.

A manifest is a small file: a header and one JSON list per tar. The first run, `aced embed` or `aced index` writes it
into the folder of indexes; `aced index --out` writes it to any place, where `data.shards` may name it. Its tars are
checked when they are first read.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import json
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

MAGIC = '{"format": "aced manifest"'
_VERSION = 1
EXAMPLES = 1000
"""Number of faults of each name that a manifest lists one by one; the others are counted."""
TOLD = "told-"
"""Prefix of the placeholder for the mark of a tar that was never read."""
NO_STATE = ""
"""The state of a tar that must be checked again in any case."""


class HeaderFault(NamedTuple):
    """A fault that was found in a tar's headers, or several of them.

    Attributes:
        name: of the fault.
        part: `txt` or `json` if it concerns only captions from there, otherwise empty.
        key: of the sample, or the name of a member; empty for the tar itself.
        detail: the end of a sentence; empty if the fault is only counted. A NUL stands for the choice of a caption.
        times: how many faults it stands for.
    """

    name: str
    part: str
    key: str
    detail: str
    times: int = 1


class TarFacts(NamedTuple):
    """What is known of one tar without opening it.

    Attributes:
        source: its path or address.
        size: bytes of the file there; -1 if unknown.
        state: a text that changes with the content: the modification time in ns of a local file, or a store's entry.
        mark: of its content (see `TarIndex.mark`); empty if it was never read.
        txt, json: samples with an image and such a caption; for a tar that was never read, by hearsay.
        packed: whether it is a gzip file.
        faults: those found in its headers.
    """

    source: str
    size: int
    state: str
    mark: str
    txt: int
    json: int
    packed: bool = False
    faults: tuple[HeaderFault, ...] = ()

    def usable(self, part: str) -> int:
        """Samples whose caption is in the `txt` or the `json`."""
        return self.txt if part == "txt" else self.json

    @property
    def told(self) -> bool:
        """Whether the tar was never read, so that its samples are hearsay."""
        return not self.mark and self.state != NO_STATE

    @property
    def content(self) -> str:
        """Identifies its content: the mark or, for a tar that was never read, the hearsay about it."""
        if not self.told:
            return self.mark
        said = json.dumps([os.path.basename(self.source), self.size, self.txt, self.json])
        return f"{TOLD}{hashlib.sha256(said.encode()).hexdigest()[:11]}"


class Repeated(NamedTuple):
    """Keys that occur in more than one tar.

    Attributes:
        times: how often a key occurs again in another tar.
        source, key: the first such key and its tar; empty if there is none.
        exact: whether all keys were compared; otherwise the count is an estimate from a share of them.
    """

    times: int = 0
    source: str = ""
    key: str = ""
    exact: bool = True


NONE_REPEATED = Repeated()


@dataclass(frozen=True)
class Manifest:
    """The tars of a pool in their order, and the keys that several of them share."""

    tars: tuple[TarFacts, ...]
    repeated: Repeated = NONE_REPEATED


def trimmed(tars: Iterable[TarFacts], most: int = EXAMPLES) -> list[TarFacts]:
    """The facts with at most `most` faults of each name listed one by one; the others are counted for each tar."""
    shown: Counter[tuple[str, str]] = Counter()
    found = []
    for tar in tars:
        if tar.faults and (faults := tuple(_trimmed(tar.faults, shown, most))) != tar.faults:
            tar = tar._replace(faults=faults)
        found.append(tar)
    return found


def _trimmed(faults: Sequence[HeaderFault], shown: Counter[tuple[str, str]], most: int) -> list[HeaderFault]:
    kept: list[HeaderFault] = []
    rest: Counter[tuple[str, str]] = Counter()
    for fault in faults:
        kind = fault.name, fault.part
        if fault.detail and shown[kind] < most:
            shown[kind] += 1
            kept.append(fault)
        else:
            rest[kind] += fault.times
    return kept + [HeaderFault(name, part, "", "", count) for (name, part), count in rest.items()]


def dump(manifest: Manifest, folder: str = "") -> str:
    """The text of a manifest; tars in or below `folder` have relative paths, so that both can be moved together."""
    start = f"{folder}{os.sep}" if folder else ""
    again = manifest.repeated._replace(source=_short(manifest.repeated.source, start))
    rows = [
        [_short(tar.source, start), tar.size, tar.state, tar.mark, tar.txt, tar.json, int(tar.packed), tar.faults]
        for tar in manifest.tars
    ]
    body = "\n".join(map(json.dumps, [again, *rows]))
    head = {"version": _VERSION, "tars": len(rows), "sha256": hashlib.sha256(body.encode()).hexdigest()}
    return f"{MAGIC}, {json.dumps(head)[1:]}\n{body}\n"


def parse(text: str, folder: str = "") -> Manifest:
    """The manifest in a text; names that are not full paths or addresses are relative to `folder`.

    Raises:
        ValueError: it is not a manifest, is damaged, or was written by another version.
    """
    if not text.startswith(MAGIC):
        raise ValueError("it is not a manifest")
    first, _, body = text.partition("\n")
    try:
        head = json.loads(first)
        if head["version"] != _VERSION:
            raise ValueError("it was written by another version of aced")
        body = body.removesuffix("\n")
        if hashlib.sha256(body.encode()).hexdigest() != head["sha256"]:
            raise ValueError("its content has changed or is incomplete")
        with _uncollected():
            return _manifest(json.loads(f"[{body.replace(chr(10), ',')}]"), head["tars"], folder)
    except (KeyError, TypeError, RecursionError) as error:
        raise ValueError("it is not as it was written") from error


def _manifest(content: list[Any], count: int, folder: str) -> Manifest:
    again, *rows = content
    if len(rows) != count:
        raise ValueError("it is incomplete")
    repeated = Repeated(*again)
    if repeated.times:
        repeated = repeated._replace(source=_whole(repeated.source, folder))
    return Manifest(tuple(_facts(row, folder) for row in rows), repeated)


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """Without garbage collection meanwhile: this creates a million small objects that all stay."""
    on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if on:
            gc.enable()


def _facts(row: list[Any], folder: str) -> TarFacts:
    source, size, state, mark, txt, of_json, packed, faults = row
    told = tuple(HeaderFault(sys.intern(name), sys.intern(part), *rest) for name, part, *rest in faults)
    return TarFacts(_whole(source, folder), size, state, mark, txt, of_json, bool(packed), told)


def _short(source: str, start: str) -> str:
    """The part after `start`, unless it would look like a full path or an address."""
    rest = source.removeprefix(start)
    return source if "://" in rest or os.path.isabs(rest) or not rest else rest


def _whole(source: str, folder: str) -> str:
    if not folder or "://" in source or os.path.isabs(source):
        return source
    return f"{folder}{'' if folder.endswith('/') else '/'}{source}"
