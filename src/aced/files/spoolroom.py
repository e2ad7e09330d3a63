"""A folder for fetched files: what they are called, what they take, and how one of them comes to be there."""

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
"""Seconds after which the folder is looked at again, because another process may fill it too."""
_ORIGIN, NAMED = 17, 25
"""Letters of a spooled file's name that say where it comes from, and those that say in which state too."""


class SpoolRoom:
    """What a folder holds and how much more it may, counted once and kept up to date.

    Attributes:
        sizes: bytes of each file that is whole, by its name.
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
        """Look at the folder, unless that was done a moment ago."""
        with self._lock:
            if time.monotonic() - self._counted > _RECOUNT:
                self.count()

    def count(self) -> None:
        """Look at the folder; what a process left there that was killed is removed."""
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
        """A file is whole."""
        with self._lock:
            self._note(path.name, path.stat().st_size)

    def remove(self, name: str) -> None:
        """A file is gone."""
        with self._lock:
            self._held -= self.sizes.pop(name, 0)
            self._origins.get(name[:_ORIGIN], set()).discard(name)

    def of_origin(self, name: str) -> list[str]:
        """The files that come from the same place."""
        with self._lock:
            return list(self._origins.get(name[:_ORIGIN], ()))

    @contextlib.contextmanager
    def taken(self, size: int, what: str) -> Iterator[None]:
        """Room for a file while it is written.

        Raises:
            AcedError: there is none.
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
        """Make sure that there is room for `size` bytes more.

        Raises:
            AcedError: there is none.
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
                f"{what}: {size / GIGABYTE:.3g} GB are needed below {self.folder} and the disk has "
                f"{free / GIGABYTE:.3g} GB left: free some space, or choose another data.spool_dir."
            )

    def too_much(self, what: str, size: int, taken: int = 0) -> str:
        """The sentence for what does not fit."""
        there = f" beside the {taken / GIGABYTE:.3g} GB that are there" if taken else ""
        return (
            f"{what}: {size / GIGABYTE:.3g} GB{there} are more than data.spool_gb = {self.limit / GIGABYTE:.3g} allows "
            f"in {self.folder}: raise it, delete what is there, or name fewer tars; data.locality=1 or more trains on "
            "tars that are fetched when they are needed."
        )


def spooled_name(origin: str, state: str, ending: str = "") -> str:
    """What a spooled file is called.

    Args:
        origin: the path or address that it comes from.
        state: a text that changes with its content.
        ending: of the name, where it is to have another one.
    """
    hashes = [hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest() for text in (origin, state)]
    base = re.sub(r"[^\w.-]", "_", origin.rstrip("/").rpartition("/")[2])[-60:]
    return f"{hashes[0][:16]}-{hashes[1][:8]}-{base}{ending}"


@contextlib.contextmanager
def exclusive(target: Path) -> Iterator[Path | None]:
    """A temporary file that no other process or thread writes, to become `target`; None where that is there already.

    It is locked for as long, and gone afterwards if it did not become `target`. Of a process that was killed it stays
    as it was, and the next one takes it over.

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
                continue  # whoever had it has made the target of it, or has given it up
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
    """Remove a temporary file that nobody writes."""
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
    """Give a file a time that follows from the state of its original."""
    os.utime(path, ns=(dated(state), dated(state)))


def dated(state: str) -> int:
    """The time (ns) of a file whose original is in this state."""
    return (int.from_bytes(hashlib.sha256(state.encode()).digest()[:4], "little") >> 1) * 10**9
