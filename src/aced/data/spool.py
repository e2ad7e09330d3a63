"""Tars that cannot be read where they lie: addresses are fetched and gzip is unpacked, once, into a folder.

A spooled file's name holds a hash of where it comes from and one of its state there (size and time, or whatever the
store tells), so that a changed original is fetched again and another one is never taken for it. It appears whole or
not at all, and its own time is made from that state, so that it looks the same to every machine.
"""

from __future__ import annotations

import contextlib
import fcntl
import gzip
import hashlib
import json
import os
import re
import shutil
import struct
import uuid
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

from aced.data.atomic import sync, write_atomic, writing
from aced.data.tarpaths import braces
from aced.data.tars import TarFault, require_file
from aced.errors import AcedError

_ADDRESS = re.compile(r"[a-z0-9+.-]+(::|://)")
_GZIP = b"\x1f\x8b"
_CHUNK = 1 << 20
_ATTEMPTS = 3
_SILENCE = 60.0
"""Seconds for which a web server may say nothing."""
# What file systems of fsspec tell about the state of a file, besides its size.
_STATE = ("etag", "ETag", "mtime", "LastModified", "last_modified", "created", "generation", "updated", "sha256")
GIGABYTE = 10**9


@dataclass(frozen=True)
class Remote:
    """A file at an address: its size in bytes (None if it is not told) and a text that changes with its content."""

    address: str
    size: int | None
    state: str


@dataclass(frozen=True)
class Located:
    """A tar to read: what the user called it, where it lies on a local disk, and what was wrong on the way there."""

    source: str
    path: Path
    fault: TarFault | None = None


def is_address(pattern: str) -> bool:
    """Whether a pattern names something that fsspec must fetch; `file://` is a path."""
    return _ADDRESS.match(pattern) is not None and not pattern.startswith("file://")


class Spool:
    """A folder for fetched and unpacked tars.

    Safe for several processes at a time: who comes second waits for the file of the first.

    Args:
        folder: where they are kept.
        limit: bytes that the whole folder may take.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder, self.limit = folder, limit

    def fetch(self, remotes: Sequence[Remote], progress: Callable[[int, int], None] | None = None) -> list[Path]:
        """Local copies of files at addresses.

        Args:
            remotes: from `find`.
            progress: called with (files done, all files).

        Raises:
            AcedError: they do not fit into the limit or onto the disk, or one cannot be fetched whole.
        """
        targets = [self._target(remote.address, remote.state) for remote in remotes]
        missing = sum(remote.size or 0 for remote, path in zip(remotes, targets, strict=True) if not path.exists())
        self._check_room(missing, f"{len(remotes)} tars that must be fetched")
        for number, (remote, target) in enumerate(zip(remotes, targets, strict=True), start=1):
            with self._making(target) as temporary:
                if temporary is not None:
                    self._check_room(remote.size or 0, remote.address)
                    _download(remote, temporary)
                    _date(temporary, remote.state)
            if progress is not None:
                progress(number, len(remotes))
        return targets

    def remember(self, pattern: str, found: Sequence[Remote]) -> None:
        """Keep what an address names, for `recall` when its server is down.

        Raises:
            AcedError: it cannot be written.
        """
        content = json.dumps({"pattern": pattern, "found": [astuple(remote) for remote in found]})
        path = self._list(pattern)
        with writing(path):
            before = path.read_text(encoding="utf-8") if path.is_file() else ""
        if content != before:
            write_atomic(path, content)

    def recall(self, pattern: str) -> list[Remote] | None:
        """What an address named last, where all of that has been fetched and is there; else None."""
        try:
            kept = json.loads(self._list(pattern).read_text(encoding="utf-8"))
            found = [Remote(*fields) for fields in kept["found"]]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        if kept.get("pattern") != pattern or not all(self._target(one.address, one.state).exists() for one in found):
            return None
        return found

    def _list(self, pattern: str) -> Path:
        name = hashlib.sha256(pattern.encode("utf-8", "surrogateescape")).hexdigest()[:16]
        return self.folder / ".found" / f"{name}.json"

    def unpack(self, path: Path) -> Located:
        """A gzip file, unpacked; of a damaged one what can be had, with a fault.

        Raises:
            AcedError: it does not fit into the limit or onto the disk.
        """
        state = os.stat(path)
        target = self._target(os.path.realpath(path), f"{state.st_size} {state.st_mtime_ns}", ".tar")
        told = target.with_suffix(".fault")
        with self._making(target) as temporary:
            if temporary is not None:
                # The last four bytes tell the size (modulo 4 GiB), unless the file is cut.
                with path.open("rb") as file:
                    file.seek(max(0, state.st_size - 4))
                    size = struct.unpack("<I", file.read(4).rjust(4, b"\0"))[0]
                self._check_room(max(state.st_size, size if size < 1100 * state.st_size else 0), str(path))
                detail = self._gunzip(path, temporary)
                told.unlink(missing_ok=True)
                if detail:
                    told.write_text(detail, encoding="utf-8")
                os.utime(temporary, ns=(state.st_mtime_ns, state.st_mtime_ns))
        fault = TarFault("gzip_damaged", told.read_text(encoding="utf-8")) if told.exists() else None
        return Located(str(path), target, fault)

    def _gunzip(self, path: Path, target: Path) -> str:
        """Unpack; gives what is wrong, as the end of a sentence, or nothing."""
        done = 0
        with writing(target), target.open("wb") as out:
            unpacked = gzip.open(path)  # noqa: SIM115 - closed below
            try:
                while True:
                    try:
                        content = unpacked.read1(_CHUNK)
                    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
                        return f"its gzip data are damaged after {done:,} unpacked bytes ({error})"
                    if not content:
                        return ""
                    done += out.write(content)
                    if done > self.limit:
                        raise AcedError(self._too_much(f"{path} unpacked", done))
            finally:
                unpacked.close()

    def _target(self, origin: str, state: str, ending: str = "") -> Path:
        hashes = [hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest() for text in (origin, state)]
        base = re.sub(r"[^\w.-]", "_", origin.rstrip("/").rpartition("/")[2])[-60:]
        return self.folder / f"{hashes[0][:16]}-{hashes[1][:8]}-{base}{ending}"

    @contextlib.contextmanager
    def _making(self, target: Path) -> Iterator[Path | None]:
        """A temporary name to write `target` under, or None where it is there already. One process at a time."""
        if target.exists():
            yield None
            return
        with writing(target):
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = (self.folder / f".{target.name}.lock").open("w", encoding="utf-8")
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if target.exists():
                yield None
                return
            # Whoever holds the lock is alone: what else there is was left by a process that was killed.
            for old in self.folder.glob(f".{target.name}.*.tmp"):
                old.unlink(missing_ok=True)
            temporary = self.folder / f".{target.name}.{uuid.uuid4().hex[:12]}.tmp"
            try:
                yield temporary
                with writing(target):
                    sync(temporary)
                    os.replace(temporary, target)
                    sync(self.folder)
            finally:
                temporary.unlink(missing_ok=True)
            self._drop_older(target)

    def _drop_older(self, target: Path) -> None:
        """Remove what was spooled from the same place in another state."""
        for old in self.folder.glob(f"{target.name[:17]}*"):
            if not old.name.startswith(target.name[:25]):
                old.unlink(missing_ok=True)

    def _check_room(self, size: int, what: str) -> None:
        taken = sum(path.stat().st_size for path in self.folder.iterdir()) if self.folder.is_dir() else 0
        if taken + size > self.limit:
            raise AcedError(self._too_much(what, size, taken))
        place = next((path for path in (self.folder, *self.folder.absolute().parents) if path.is_dir()), Path("/"))
        free = shutil.disk_usage(place).free
        if size > free:
            raise AcedError(
                f"{what}: {size / GIGABYTE:.3g} GB are needed below {self.folder} and the disk has "
                f"{free / GIGABYTE:.3g} GB left: free some space, or choose another data.spool_dir."
            )

    def _too_much(self, what: str, size: int, taken: int = 0) -> str:
        there = f" beside the {taken / GIGABYTE:.3g} GB that are there" if taken else ""
        return (
            f"{what}: {size / GIGABYTE:.3g} GB{there} are more than data.spool_gb = {self.limit / GIGABYTE:.3g} allows "
            f"in {self.folder}: raise it, delete what is there, or name fewer tars."
        )


def is_gzip(path: Path) -> bool:
    """Whether a file begins as gzip does, whatever its name.

    Raises:
        OSError: it cannot be read.
    """
    require_file(path)
    with path.open("rb") as file:
        return file.read(2) == _GZIP


def find(pattern: str) -> list[Remote]:
    """The files that an address names: one file, a folder (its tars), a glob or a brace range.

    Raises:
        AcedError: nothing is there, the protocol is not known or a package for it is missing.
    """
    found: list[Remote] = []
    for address in braces(pattern):
        with _remote(address):
            system, path = _open_url(address)
            names = [path]
            if any(mark in path for mark in "*?["):
                names = sorted(system.glob(path))
            elif not re.search(r"\.(tar|tgz|gz)$", path) and system.isdir(path):
                names = sorted({name for end in (".tar", ".tar.gz", ".tgz") for name in system.glob(f"{path}/*{end}")})
            if not names:
                raise AcedError(f"Nothing matches {address}.")
            for name in names:
                facts = system.info(name)
                size = facts.get("size")
                state = " ".join(f"{key}={facts[key]}" for key in _STATE if facts.get(key) is not None)
                size = None if size is None else int(size)
                found.append(Remote(str(system.unstrip_protocol(name)), size, f"{size} {state}"))
    return found


def read_text(address: str) -> str:
    """The content of a small file at an address, as UTF-8.

    Raises:
        AcedError: it cannot be read.
    """
    with _remote(address):
        system, path = _open_url(address)
        return bytes(system.cat_file(path)).decode("utf-8")


def _open_url(address: str) -> tuple[Any, str]:
    import fsspec

    system, path = fsspec.core.url_to_fs(address, **_patience(address))
    return system, path


def _patience(address: str) -> dict[str, Any]:
    """How long a web server may be silent; what it sends may take as long as it likes.

    By itself aiohttp limits a whole file to five minutes. The clients of other stores have limits of their own.
    """
    protocols = [name for name in ("http", "https") if f"{name}://" in address]
    if not protocols:
        return {}
    import aiohttp

    timeout = aiohttp.ClientTimeout(total=None, sock_connect=_SILENCE, sock_read=_SILENCE)
    return {name: {"client_kwargs": {"timeout": timeout}} for name in protocols}


@contextlib.contextmanager
def _remote(address: str) -> Iterator[None]:
    """Turn what fsspec and its file systems raise into an AcedError."""
    try:
        yield
    except AcedError:
        raise
    except FileNotFoundError as error:
        # fsspec says so of a web server too that does not answer, and names the cause.
        cause = error.__cause__
        if cause is not None and not isinstance(cause, FileNotFoundError):
            reason = f"{type(cause).__name__}: {_first_line(cause)}"
            raise AcedError(f"{address} cannot be reached ({reason}): is its server there?") from error
        raise AcedError(f"There is nothing at {address}.") from None
    except PermissionError as error:
        raise AcedError(f"{address} may not be read ({error}): check the credentials of its store.") from error
    except ImportError as error:
        raise AcedError(f"{address} needs a package that is not installed: {_first_line(error)}.") from error
    except ValueError as error:
        raise AcedError(f"{address} cannot be opened: {_first_line(error)}.") from error
    except Exception as error:
        # File systems raise whatever their client library does: aiohttp.ClientError, botocore's, ...
        raise AcedError(f"{address} cannot be fetched ({type(error).__name__}: {_first_line(error)}).") from error


def _first_line(error: BaseException) -> str:
    lines = str(error).splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__


def _download(remote: Remote, target: Path) -> None:
    """Fetch a file whole; a broken connection is tried again."""
    for attempt in range(1, _ATTEMPTS + 1):
        with writing(target), _remote(remote.address):
            system, path = _open_url(remote.address)
            try:
                system.get_file(path, str(target))
                size = target.stat().st_size
                if remote.size is None or size == remote.size:
                    return
                lost: Exception = OSError(f"{size} of {remote.size} bytes came")
            except (FileNotFoundError, PermissionError):
                raise
            except OSError as error:
                if error.errno is not None:  # the local disk's, not the connection's
                    raise
                lost = error
            if attempt == _ATTEMPTS:
                raise lost


def _date(path: Path, state: str) -> None:
    """Give a file a time that follows from the state of its original."""
    seconds = int.from_bytes(hashlib.sha256(state.encode()).digest()[:4], "little") >> 1
    os.utime(path, (seconds, seconds))
