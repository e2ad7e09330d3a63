"""Labelled pairs in tars: read whole, and written again as webdataset tars whose bytes depend on the pairs alone.

A pair is `KEY.jpg`, `KEY.txt` (the caption) and `KEY.json`, which says what is known of it: at least its `key`, `kind`,
`source` and `label`.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aced.errors import AcedError
from aced.files.atomic import folder_atomic, write_atomic, writing
from aced.files.patterns import expand_tars

TAR = 2000
"""Pairs in a tar."""
NEEDED = ("key", "kind", "source", "label")
PARTS = ("jpg", "json", "txt")


@dataclass(frozen=True)
class Pair:
    """A pair and what is known of it.

    Attributes:
        image: the bytes of its JPEG file.
        about: the fields of its json; `caption` is what its txt says.
    """

    image: bytes
    about: dict[str, Any]

    @property
    def caption(self) -> str:
        """Its text."""
        return str(self.about["caption"])

    def but(self, **changes: Any) -> Pair:
        """The pair with some fields changed or added."""
        return Pair(self.image, self.about | changes)


def read_pairs(places: Sequence[str]) -> list[Pair]:
    """All pairs of some tars or folders of tars, in the order of the tars.

    Raises:
        AcedError: there is no tar, one cannot be read, a pair lacks a file or a field, or two have the same key.
    """
    found = [pair for tar in expand_tars(places) for pair in _pairs_of(tar)]
    seen: set[str] = set()
    for pair in found:
        key = str(pair.about["key"])
        if key in seen:
            raise AcedError(f"The key {key} occurs twice in {' and '.join(places)}: name pools whose keys differ.")
        seen.add(key)
    return found


def _pairs_of(tar: Path) -> list[Pair]:
    parts: dict[str, dict[str, bytes]] = {}
    try:
        with tarfile.open(tar) as opened:
            for member in opened:
                if (file := opened.extractfile(member)) is not None:
                    key, _, part = member.name.partition(".")
                    parts.setdefault(key, {})[part] = file.read()
    except (OSError, tarfile.TarError) as error:
        raise AcedError(f"{tar} cannot be read ({error}).") from None
    return [_pair(f"{key} in {tar}", own) for key, own in parts.items()]


def _pair(where: str, parts: dict[str, bytes]) -> Pair:
    lacks = [part for part in PARTS if part not in parts]
    if lacks:
        raise AcedError(f"{where} has no .{lacks[0]}: this needs pictures with .txt and .json.")
    try:
        about, caption = json.loads(parts["json"]), parts["txt"].decode()
    except ValueError as error:
        raise AcedError(f"{where}: its .json or .txt cannot be read ({error}).") from None
    unknown = [name for name in NEEDED if not isinstance(about, dict) or name not in about]
    if unknown:
        raise AcedError(f"{where}: its .json has no field {unknown[0]!r}; this needs a labelled pool.")
    return Pair(parts["jpg"], about | {"caption": caption})


def write_pool(folder: Path, pairs: Sequence[Pair], first: int = 0) -> None:
    """Write pairs as `NNNNN.tar` of 2,000, renumbered: 5 digits of the tar and 4 of the place, also in `dup_of`.

    Args:
        folder: to write.
        pairs: in the order of the pool.
        first: number of the first tar, so that the keys of several pools differ.

    Raises:
        AcedError: the folder exists and is not empty, it cannot be written, or a copy's original is not among the
            pairs.
    """
    keys = {str(pair.about["key"]): f"{first + at // TAR:05}{at % TAR:04}" for at, pair in enumerate(pairs)}
    numbered = [_renumbered(pair, keys) for pair in pairs]
    with folder_atomic(folder) as filled:
        for start in range(0, len(numbered), TAR):
            some = numbered[start : start + TAR]
            members = [(f"{pair.about['key']}.{part}", _content(pair, part)) for pair in some for part in PARTS]
            write_tar(filled / f"{first + start // TAR:05}.tar", members)


def _renumbered(pair: Pair, keys: dict[str, str]) -> Pair:
    changes = {name: str(pair.about[name]) for name in ("key", "dup_of") if name in pair.about}
    lost = [key for key in changes.values() if key not in keys]
    if lost:
        raise AcedError(f"{pair.about['key']} is a copy of {lost[0]}, which is not in the pool.")
    return pair.but(**{name: keys[key] for name, key in changes.items()})


def _content(pair: Pair, part: str) -> bytes:
    if part == "jpg":
        return pair.image
    return pair.caption.encode() if part == "txt" else json.dumps(pair.about).encode()


def write_tar(path: Path, members: Iterable[tuple[str, bytes]]) -> None:
    """Write files into a tar with neither times nor owners.

    Raises:
        AcedError: the disk is full, or the path cannot be written.
    """
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    write_atomic(path, held.getvalue())


def write_task(folder: Path, pictures: Sequence[tuple[bytes, str]], part: str, texts: dict[str, bytes]) -> None:
    """Write a task folder in CLIP_benchmark's layout.

    Args:
        folder: `wds_<name>`.
        pictures: bytes of the JPEG files, each with its class number or caption.
        part: `cls` or `txt`, whichever these are.
        texts: the files beside `test`, by name.

    Raises:
        AcedError: the folder exists and is not empty, or it cannot be written.
    """
    members = [
        (f"s{at:07}.{name}", content)
        for at, (image, answer) in enumerate(pictures)
        for name, content in sorted({"jpg": image, part: answer.encode()}.items())
    ]
    with folder_atomic(folder) as filled, writing(filled):
        for name, content in texts.items():
            write_atomic(filled / name, content)
        write_atomic(filled / "test/nshards.txt", "1\n")
        write_tar(filled / "test/0.tar", members)
