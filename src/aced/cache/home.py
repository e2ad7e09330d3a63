"""Where the side-cars of one model lie: a folder of a local disk, or of a store (`aced.cache.farhome`)."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from aced.cache.sealed import differences
from aced.cache.sidecar import Part, SideCarInfo, open_sidecar, sidecar_name, stem
from aced.errors import AcedError
from aced.files.atomic import file_atomic, writing


class FileState(NamedTuple):
    """The state of a file: its bytes, and a text that changes when it is written again."""

    size: int
    changed: str


class Home:
    """Where the side-cars of a model lie, each under its name (`sidecar_name`): a folder, which need not be there.

    Args:
        folder: its path.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def state(self, name: str) -> FileState | None:
        """The state of a side-car; None where there is none."""
        return file_state(f"{self.folder}/{name}")

    def info(self, name: str, identity: Mapping[str, str] | None = None, part: Part | None = None) -> SideCarInfo:
        """Its header; raises as `open_sidecar`."""
        return open_sidecar(self.folder / name, identity, part).info

    def named(self, name: str) -> str:
        """Path or address of a file, or of the folder itself, for messages."""
        return f"{self.folder}/{name}".rstrip("/")

    def read_beside(self, name: str) -> bytes:
        """A file beside them; nothing where it is not there or cannot be read."""
        try:
            return (self.folder / name).read_bytes()
        except OSError:
            return b""

    def write_beside(self, name: str, content: bytes) -> None:
        """Write a file beside them whole; raises an AcedError where that is not allowed."""
        path = self.folder / name
        with file_atomic(path) as temporary, writing(path):
            temporary.write_bytes(content)

    def names(self) -> set[str]:
        """All files."""
        return set(os.listdir(self.folder))

    def why_missing(self, identity: Mapping[str, str], part: Part) -> str:
        """Of what else the side-car is that a part seems to have, as the end of a sentence; empty without any."""
        own = self.folder / sidecar_name(part)
        for other in sorted(self.folder.parent.glob(f"*/{own.name}")):
            if (found := _info(other)) is None:
                continue
            if what := differences(found.identity, identity):
                return f"the one in {other.parent} is of {what} (it was made by {found.tower})"
            return (
                f"the one in {other.parent} was made before the architecture was noted; if the config of {found.tower} "
                f"is still what it was then, rename that folder to {own.parent.name}"
            )
        named = re.compile(rf"{re.escape(stem(part))}-[0-9a-f]{{12}}\.safetensors")
        others = [other for other in sorted(self.folder.glob("*.safetensors")) if named.fullmatch(other.name)]
        for other in others:
            if (found := _info(other)) is None:
                continue
            how, _, tar = found.mark.rpartition(" ")
            asked, _, own_tar = part.mark.rpartition(" ")
            if tar == own_tar:
                return f"{other} is of the same tar with other captions or pixels ('{how}', and '{asked}' is asked for)"
        if others:
            return f"{others[0]} is of another tar of that name, or of this one before it was changed"
        return ""


class Files:
    """The local files of a store's side-cars, in a folder; pickled, and asked from several processes.

    Args:
        folder: its path.

    Attributes:
        stay: whether they stay where they are, or come and go with their tars.
    """

    stay = True

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, number: int, name: str) -> Path:
        """That of a part, by its number and the name of its side-car; raises an AcedError where it cannot be had."""
        return self.folder / name

    def lent(self) -> contextlib.AbstractContextManager[Files]:
        """Those of any side-cars, whatever tars are there; each is read before the next one is asked for."""
        return contextlib.nullcontext(self)


def file_state(path: str | Path) -> FileState | None:
    """The state of a local file; None where there is none."""
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return FileState(found.st_size, str(found.st_mtime_ns))


def _info(path: Path) -> SideCarInfo | None:
    with contextlib.suppress(AcedError):
        return open_sidecar(path).info
    return None
