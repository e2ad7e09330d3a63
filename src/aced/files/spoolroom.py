"""The room in a spool folder: names of files, their sizes, and how a file is added."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from aced.errors import AcedError
from aced.files.atomic import writing

GIGABYTE = 10**9
_RECOUNT = 30.0
"""Seconds after which the folder is read again, because another process may fill it too."""
_ORIGIN, NAMED = 17, 25
"""Letters of a spooled file's name for its origin, and for its origin and state."""


class SpoolRoom:
    """The content of a folder and its remaining room, counted once and kept up to date.

    Attributes:
        sizes: bytes of each complete file, by its name.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder, self.limit = folder, limit
        self.sizes: dict[str, int] = {}
        self._origins: dict[str, set[str]] = {}
        self._held = self._coming = 0
        self._counted = float("-inf")
        self._lock = threading.RLock()

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "limit": self.limit}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def look(self) -> None:
        """Read the folder, unless that was done a moment ago."""
        with self._lock:
            if time.monotonic() - self._counted > _RECOUNT:
                self.count()

    def count(self) -> None:
        """Read the folder; leftovers of killed processes are removed."""
        with self._lock:
            self.sizes, self._origins, self._held = {}, {}, 0
            for entry in _entries(self.folder):
                if entry.name.endswith(".tmp"):
                    _sweep(Path(entry.path))
                elif not entry.name.startswith("."):
                    with contextlib.suppress(FileNotFoundError):
                        self._note(entry.name, entry.stat().st_size)
            self._counted = time.monotonic()

    def _note(self, name: str, size: int) -> None:
        self.remove(name)
        self.sizes[name] = size
        self._origins.setdefault(name[:_ORIGIN], set()).add(name)
        self._held += size

    def add(self, path: Path) -> None:
        """A file is complete."""
        with self._lock:
            self._note(path.name, path.stat().st_size)

    def remove(self, name: str) -> None:
        """A file is gone."""
        with self._lock:
            self._held -= self.sizes.pop(name, 0)
            self._origins.get(name[:_ORIGIN], set()).discard(name)

    def of_origin(self, name: str) -> list[str]:
        """The files from the same origin."""
        with self._lock:
            return list(self._origins.get(name[:_ORIGIN], ()))

    @contextlib.contextmanager
    def taken(self, size: int, what: str) -> Iterator[None]:
        """Room for a file while it is written.

        Raises:
            AcedError: there is not enough room.
        """
        with self._lock:
            self.check(size, what)
            self._coming += size
        try:
            yield
        finally:
            with self._lock:
                self._coming -= size

    def check(self, size: int, what: str) -> None:
        """Make sure that there is room for `size` more bytes.

        Raises:
            AcedError: there is not enough room.
        """
        with self._lock:
            self.look()
            taken = self._held + self._coming
        if taken + size > self.limit:
            raise AcedError(self.too_much(what, size, taken))
        place = next((path for path in (self.folder, *self.folder.absolute().parents) if path.is_dir()), Path("/"))
        free = shutil.disk_usage(place).free
        if size > free:
            raise AcedError(
                f"{what}: {size / GIGABYTE:.3g} GB are needed below {self.folder}, but the disk has "
                f"{free / GIGABYTE:.3g} GB left: free some space, or choose another data.spool_dir."
            )

    def too_much(self, what: str, size: int, taken: int = 0) -> str:
        """The sentence for files that do not fit."""
        there = f" beside the {taken / GIGABYTE:.3g} GB already there" if taken else ""
        return (
            f"{what}: {size / GIGABYTE:.3g} GB{there} are more than data.spool_gb = {self.limit / GIGABYTE:.3g} allows "
            f"in {self.folder}: raise it, delete files there, or name fewer tars; data.locality=1 or more trains on "
            "tars that are fetched as needed."
        )


def spooled_name(origin: str, state: str, ending: str = "") -> str:
    """The name of a spooled file.

    Args:
        origin: its path or address.
        state: a text that changes with its content.
        ending: suffix of the name, if different.
    """
    hashes = [hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest() for text in (origin, state)]
    base = re.sub(r"[^\w.-]", "_", origin.rstrip("/").rpartition("/")[2])[-60:]
    return f"{hashes[0][:16]}-{hashes[1][:8]}-{base}{ending}"


@contextlib.contextmanager
def exclusive(target: Path) -> Iterator[Path | None]:
    """A temporary file for this process and thread alone, to become `target`; None if that already exists.

    It is locked meanwhile, and removed at the end if it did not become `target`. A killed process leaves it behind, and
    the next one reuses it.

    Raises:
        AcedError: it cannot be written.
    """
    temporary = target.with_name(f".{target.name}.tmp")
    while not target.exists():
        with writing(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            lock = temporary.open("ab")
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not _is(lock.fileno(), temporary):
                continue  # its owner has turned it into the target, or given it up
            try:
                yield temporary
            finally:
                temporary.unlink(missing_ok=True)
            return
    yield None


def _is(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _sweep(temporary: Path) -> None:
    """Remove a temporary file that has no writer."""
    with contextlib.suppress(OSError), temporary.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _is(file.fileno(), temporary):
            temporary.unlink()


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if entry.is_file(follow_symlinks=False)]
    except (FileNotFoundError, NotADirectoryError):
        return []


def date(path: Path, state: str) -> None:
    """Give a file a time derived from the state of its original."""
    os.utime(path, ns=(dated(state), dated(state)))


def dated(state: str) -> int:
    """The time (ns) of a file whose original is in this state."""
    return (int.from_bytes(hashlib.sha256(state.encode()).digest()[:4], "little") >> 1) * 10**9
