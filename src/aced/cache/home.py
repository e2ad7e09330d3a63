"""Where the side-cars of one model are: a folder on a local disk, or in a store (`aced.cache.farhome`)."""

from __future__ import annotations

import contextlib
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from aced.cache.sealed import differences
from aced.cache.sidecar import Part, SideCarInfo, open_sidecar, sidecar_name, stem
from aced.errors import AcedError
from aced.files.atomic import file_atomic, writing


class FileState(NamedTuple):
    """The state of a file: its size, and a text that changes when it is rewritten."""

    size: int
    changed: str


class Home(ABC):
    """The place of a model's side-cars, each under its name (`sidecar_name`); it need not exist."""

    @abstractmethod
    def state(self, name: str) -> FileState | None:
        """The state of a side-car; None if it does not exist."""

    @abstractmethod
    def info(self, name: str, identity: Mapping[str, str] | None = None, part: Part | None = None) -> SideCarInfo:
        """Its header; raises as `open_sidecar`."""

    @abstractmethod
    def named(self, name: str) -> str:
        """Path or address of a file, or of the place itself, for messages."""

    @abstractmethod
    def read_beside(self, name: str) -> bytes:
        """A file beside them; empty if it does not exist or cannot be read."""

    @abstractmethod
    def write_beside(self, name: str, content: bytes) -> None:
        """Write a file beside them whole; raises an AcedError if that is not allowed."""

    @abstractmethod
    def names(self) -> set[str]:
        """All files."""

    def why_missing(self, identity: Mapping[str, str], part: Part) -> str:
        """What the similar side-car of a part belongs to instead, as the end of a sentence; empty if there is none."""
        return ""


class LocalHome(Home):
    """A folder.

    Args:
        folder: its path.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def state(self, name: str) -> FileState | None:
        """As in `Home`."""
        return file_state(f"{self.folder}/{name}")

    def info(self, name: str, identity: Mapping[str, str] | None = None, part: Part | None = None) -> SideCarInfo:
        """As in `Home`."""
        return open_sidecar(self.folder / name, identity, part).info

    def named(self, name: str) -> str:
        """As in `Home`."""
        return f"{self.folder}/{name}".rstrip("/")

    def read_beside(self, name: str) -> bytes:
        """As in `Home`."""
        try:
            return (self.folder / name).read_bytes()
        except OSError:
            return b""

    def write_beside(self, name: str, content: bytes) -> None:
        """As in `Home`."""
        path = self.folder / name
        with file_atomic(path) as temporary, writing(path):
            temporary.write_bytes(content)

    def names(self) -> set[str]:
        """As in `Home`."""
        return set(os.listdir(self.folder))

    def why_missing(self, identity: Mapping[str, str], part: Part) -> str:
        """As in `Home`."""
        own = self.folder / sidecar_name(part)
        for other in sorted(self.folder.parent.glob(f"*/{own.name}")):
            if (found := _info(other)) is None:
                continue
            if what := differences(found.identity, identity):
                return f"the one in {other.parent} belongs to {what} (it was made by {found.tower})"
            return (
                f"the one in {other.parent} predates the recording of architectures; if the config of {found.tower} "
                f"has not changed since, rename that folder to {own.parent.name}"
            )
        named = re.compile(rf"{re.escape(stem(part))}-[0-9a-f]{{12}}\.safetensors")
        others = [other for other in sorted(self.folder.glob("*.safetensors")) if named.fullmatch(other.name)]
        for other in others:
            if (found := _info(other)) is None:
                continue
            how, _, tar = found.mark.rpartition(" ")
            asked, _, own_tar = part.mark.rpartition(" ")
            if tar == own_tar:
                return f"{other} is from the same tar with other captions or pixels ('{how}', not '{asked}')"
        if others:
            return f"{others[0]} is from another tar of that name, or from this one before it changed"
        return ""


class Files:
    """The local files of a store's side-cars, in a folder; pickled, and queried from several processes.

    Args:
        folder: its path.

    Attributes:
        stay: whether they stay, or come and go with their tars.
    """

    stay = True

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, number: int, name: str) -> Path:
        """The file of a part, by its number and the name of its side-car; raises an AcedError if unavailable."""
        return self.folder / name

    def lent(self) -> contextlib.AbstractContextManager[Files]:
        """The files of any side-cars, whichever tars are there; each is read before the next one is requested."""
        return contextlib.nullcontext(self)


def file_state(path: str | Path) -> FileState | None:
    """The state of a local file; None if it does not exist."""
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return FileState(found.st_size, str(found.st_mtime_ns))


def _info(path: Path) -> SideCarInfo | None:
    with contextlib.suppress(AcedError):
        return open_sidecar(path).info
    return None
