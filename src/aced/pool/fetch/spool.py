"""The spool: a folder into which addresses are fetched and gzip tars are unpacked, once.

A spooled file's name contains a hash of its origin and one of its state there (its etag, or size and time), so a
changed original is fetched again and never confused with another one. It appears only when complete, and its own time
is derived from that state, so it looks the same on every machine.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import os
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import astuple, dataclass
from pathlib import Path

from aced.errors import AcedError
from aced.files.atomic import sync, write_atomic, writing
from aced.files.download import AT_ONCE, PATIENCE, Watched, fetch
from aced.files.remote import Remote
from aced.files.spoolroom import GIGABYTE as GIGABYTE
from aced.files.spoolroom import NAMED, SpoolRoom, date, exclusive, spooled_name
from aced.pool.tars.tars import TarFault, require_file

_GZIP = b"\x1f\x8b"
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Located:
    """A tar to read: the user's name for it, its path on a local disk, and any fault on the way there."""

    source: str
    path: Path
    fault: TarFault | None = None


class Spool:
    """A folder for fetched and unpacked tars.

    Safe for several processes at a time: a later one waits for the file of the first.

    Args:
        folder: where they are kept.
        limit: maximum size of the folder in bytes.
        patience: seconds for which a file is retried if its server fails.
    """

    def __init__(self, folder: Path, limit: int, patience: float = PATIENCE) -> None:
        self.folder, self.limit, self._patience = folder, limit, patience
        self._room = SpoolRoom(folder, limit)

    def fetch(self, remotes: Sequence[Remote], progress: Callable[[int, int], None] | None = None) -> list[Path]:
        """Local copies of files at addresses, several fetched at a time.

        Args:
            remotes: from `aced.files.remote.find`.
            progress: called with (files done, all files).

        Raises:
            AcedError: they do not fit into the limit or onto the disk, or one cannot be fetched completely.
        """
        self._room.look()
        targets = [self.folder / spooled_name(remote.address, remote.state) for remote in remotes]
        here = targets[0].exists() if len(targets) == 1 else None  # a single file, as on demand
        missing = [
            pair
            for pair in zip(remotes, targets, strict=True)
            if not (pair[1].name in self._room.sizes if here is None else here)
        ]
        if not missing:
            return targets
        all_of_it = sum(remote.size or 0 for remote, _ in missing)
        self._room.check(all_of_it, f"{len(remotes)} tars to fetch")
        done, watched = len(remotes) - len(missing), Watched()
        if progress is not None and done:
            progress(done, len(remotes))
        crew = ThreadPoolExecutor(AT_ONCE)
        try:
            for number, coming in enumerate(
                as_completed([crew.submit(self._fetch, *pair, watched) for pair in missing]), start=done + 1
            ):
                coming.result()
                if progress is not None:
                    progress(number, len(remotes))
        finally:
            watched.stop.set()
            crew.shutdown(cancel_futures=True)
        sync(self.folder)
        return targets

    def _fetch(self, remote: Remote, target: Path, watched: Watched) -> None:
        with self._making(target, remote.size or 0, remote.address) as temporary:
            if temporary is not None:
                fetch(remote, temporary, watched, self._patience)
                date(temporary, remote.state)

    def drop(self, address: str) -> None:
        """Remove what was fetched from an address, and what was unpacked from it; it has no readers left."""
        self._room.look()
        for name in self._room.of_origin(spooled_name(address, "")):
            path = self.folder / name
            for one in (name, *self._room.of_origin(spooled_name(os.path.realpath(path), "", ".tar"))):
                with writing(path):
                    (self.folder / one).unlink(missing_ok=True)
                self._room.remove(one)

    def remember(self, pattern: str, found: Sequence[Remote]) -> None:
        """Remember the files behind an address, for `recall` when its server is down.

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
        """The last known files behind an address if all of them have been fetched and are there; otherwise None."""
        try:
            kept = json.loads(self._list(pattern).read_text(encoding="utf-8"))
            found = [Remote(*fields) for fields in kept["found"]]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        if kept.get("pattern") != pattern or not all(
            (self.folder / spooled_name(one.address, one.state)).exists() for one in found
        ):
            return None
        return found

    def _list(self, pattern: str) -> Path:
        name = hashlib.sha256(pattern.encode("utf-8", "surrogateescape")).hexdigest()[:16]
        return self.folder / ".found" / f"{name}.json"

    def unpack(self, path: Path) -> Located:
        """A gzip file, unpacked; from a damaged one what can be recovered, with a fault.

        Raises:
            AcedError: it does not fit into the limit or onto the disk.
        """
        state = os.stat(path)
        target = self.folder / spooled_name(os.path.realpath(path), f"{state.st_size} {state.st_mtime_ns}", ".tar")
        told = target.with_suffix(".fault")
        # The last four bytes give the size (modulo 4 GiB), unless the file is cut.
        with path.open("rb") as file:
            file.seek(max(0, state.st_size - 4))
            size = struct.unpack("<I", file.read(4).rjust(4, b"\0"))[0]
        size = max(state.st_size, size if size < 1100 * state.st_size else 0)
        with self._making(target, size, str(path)) as temporary:
            if temporary is not None:
                detail = self._gunzip(path, temporary)
                told.unlink(missing_ok=True)
                if detail:
                    told.write_text(detail, encoding="utf-8")
                os.utime(temporary, ns=(state.st_mtime_ns, state.st_mtime_ns))
        fault = TarFault("gzip_damaged", told.read_text(encoding="utf-8")) if told.exists() else None
        return Located(str(path), target, fault)

    def _gunzip(self, path: Path, target: Path) -> str:
        """Unpack; returns the fault, as the end of a sentence, or nothing."""
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
                        raise AcedError(self._room.too_much(f"{path} unpacked", done))
            finally:
                unpacked.close()

    @contextlib.contextmanager
    def _making(self, target: Path, size: int, what: str) -> Iterator[Path | None]:
        """A temporary name to write `target` of `size` bytes under, or None if it is already there.

        Raises:
            AcedError: there is no room for it, or it cannot be written.
        """
        with exclusive(target) as temporary:
            if temporary is None:
                yield None
                return
            with self._room.taken(size, what):
                yield temporary
                with writing(target):
                    sync(temporary)
                    os.replace(temporary, target)
                self._room.add(target)
        self._drop_older(target)

    def _drop_older(self, target: Path) -> None:
        """Remove files spooled from the same place in another state."""
        for name in self._room.of_origin(target.name):
            if not name.startswith(target.name[:NAMED]):
                (self.folder / name).unlink(missing_ok=True)
                self._room.remove(name)


def spool_at(folder: str, gigabytes: float) -> Spool | None:
    """The spool in a folder with a maximum size in 10^9 bytes; None if no folder is given."""
    return Spool(Path(folder), int(gigabytes * GIGABYTE)) if folder else None


def unspooled(address: str, key: str = "data.spool_dir") -> AcedError:
    """The error for an address without a spool; `key` is the key or option that sets one."""
    return AcedError(f"{address} is an address: set {key} to a folder for its tars, or name a local path.")


def is_gzip(path: Path) -> bool:
    """Whether a file begins like gzip, whatever its name.

    Raises:
        OSError: it cannot be read.
    """
    require_file(path)
    with path.open("rb") as file:
        return file.read(2) == _GZIP
