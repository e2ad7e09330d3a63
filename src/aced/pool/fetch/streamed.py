"""The folder that streams a pool larger than the disk: each tar stays only as long as it is needed.

Processes coordinate through files alone. A tar appears under its name once it is complete, with a time derived from its
state in the store. A file beside it that ends in `.lost` says that it will never arrive, and why. One file of the
folder says whether a fetcher is at work, so that readers wait, or not, so that each fetches what it needs.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from aced.errors import AcedError
from aced.files.atomic import sync, write_atomic, writing
from aced.files.download import PATIENCE, Watched, fetch
from aced.files.remote import Changed, NotThere, Remote
from aced.files.spoolroom import date, dated, exclusive, spooled_name
from aced.pool.fetch.places import Moved, Places
from aced.pool.source import Source
from aced.pool.tars.losttars import CHANGED, GONE, TarLost
from aced.pool.tars.tarindex import kept_index
from aced.runtime.counting import Progress

_STATE, _LOST, _LOCK = ".state", ".lost", ".lock"
_STATE_BYTES = 4096
"""Written in place, so that a full disk does not keep a process from reporting its failure."""
_INDEX = (4096, 100)
"""Maximum number of bytes of a tar's index, and of each sample in it."""
_LOOKS = (0.002, 0.05)
"""Seconds between two checks for a file: initially, and at most."""
_HOLD = 10.0
"""Seconds for which the folder may still belong to a process that is ending."""


class Further(NamedTuple):
    """A file that travels with a tar.

    Attributes:
        remote: its address, size and state in the store.
        name: its name in the folder; with `/` for subfolders.
    """

    remote: Remote
    name: str


class Streamed:
    """The tars of a pool, some of them in a store. Pickled and forked into reading processes.

    Args:
        folder: of this process and of those that it starts.
        remotes: for each tar the store's entry; None for one that is elsewhere.
        limit: maximum number of bytes in the folder.
        further: files that travel with each tar, by its number.
        patience: seconds for which a file is retried if its server fails.

    Attributes:
        folder, limit, patience: as given.
        count: number of tars.
        index_dir: folder of the indexes of the tars that are there.

    Raises:
        AcedError: a store does not report the size of a tar.
    """

    stay = False

    def __init__(
        self,
        folder: Path,
        remotes: Sequence[Remote | None],
        limit: int,
        *,
        further: Callable[[int], Sequence[Further]] = lambda _: (),
        patience: float = PATIENCE,
    ) -> None:
        self.folder, self.limit, self.patience, self.count = folder, limit, patience, len(remotes)
        self.index_dir = folder / "index"
        self._remotes, self._further = list(remotes), further
        self._others: Places | None = None
        self._samples: Sequence[int] = ()
        if untold := next((one.address for one in self._remotes if one is not None and one.size is None), None):
            raise AcedError(f"{untold}: its server does not report its size, which streaming needs.")

    def settle(self, others: Places, samples: Sequence[int]) -> None:
        """Set the paths of tars outside the store, and each tar's number of samples, whose index takes room."""
        self._others, self._samples = others, samples

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_lock"}

    def travels_with(self, further: Callable[[int], Sequence[Further]]) -> None:
        """Set the files that travel with each tar, before any are fetched."""
        self._further = further

    def is_remote(self, tar: int) -> bool:
        """Whether a tar is in a store."""
        return self._remotes[tar] is not None

    def size(self, tar: int) -> int:
        """Bytes that a tar takes in the folder, with all files that travel with it."""
        remote = self._remotes[tar]
        if remote is None:
            return 0
        index = _INDEX[0] + _INDEX[1] * self._samples[tar] if self._samples else 0
        return index + sum(one.size or 0 for one in (remote, *(further.remote for further in self._further(tar))))

    def path(self, tar: int) -> Path:
        """The local file of a tar; waits until it is there, together with the files that travel with it.

        Raises:
            TarLost: it is gone from the store, or has changed there.
            AcedError: it cannot be fetched.
        """
        remote = self._remotes[tar]
        if remote is None:
            assert self._others is not None
            return self._others.path(tar)
        target, pause = self._target(remote), _LOOKS[0]
        while not target.exists():
            if lost := _read(_beside(target)):
                raise TarLost(*json.loads(lost))
            state = self._state()
            if state.get("failed"):
                raise AcedError(state["failed"])
            if not state.get("fetched"):
                return self._for_itself(tar, target)
            time.sleep(pause)
            pause = min(_LOOKS[1], 1.5 * pause)
        return target

    def fetch(self, progress: Progress | None = None) -> None:
        """Nothing: no tar stays."""

    # ------------------------------------------------------------------ the rest is for the fetching process

    def open(self) -> None:
        """Claim the folder for this process and those that it starts.

        Raises:
            AcedError: it belongs to another run, or cannot be written.
        """
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = (self.folder / _LOCK).open("w", encoding="utf-8")
        until = time.monotonic() + _HOLD
        while True:
            try:
                # A lock of a process and not of a file: children do not inherit it, so it ends with the process.
                fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                if time.monotonic() > until:
                    raise AcedError(
                        f"Another run streams into {self.folder}: wait until it ends, or give this one its own "
                        "data.spool_dir."
                    ) from None
                time.sleep(0.1)
            else:
                break
        self.alone()

    def sweep(self, wanted: Iterable[int]) -> None:
        """Remove what an earlier run left, except complete files of wanted tars that are unchanged in the store."""
        keep: set[Path] = {self.folder / _STATE, self.folder / _LOCK}
        for tar in wanted:
            files = self._files(tar)
            keep |= {target for remote, target in files if _is_whole(remote, target)}
            keep.add(kept_index(files[-1][1], self.index_dir))
        for path in _below(self.folder):
            if path not in keep:
                with writing(path):
                    path.unlink(missing_ok=True)

    def bring(self, tar: int, watched: Watched) -> None:
        """Fetch a tar and the files that travel with it, unless they are there.

        Raises:
            NotThere, Changed: one of them is gone from the store, or has changed there.
            AcedError: one of them cannot be fetched.
        """
        for remote, target in self._files(tar):
            with exclusive(target) as temporary:
                if temporary is None:
                    continue
                fetch(remote, temporary, watched, self.patience, same=bool(remote.state))
                with writing(target):
                    date(temporary, remote.state)
                    sync(temporary)
                    os.replace(temporary, target)

    def remove(self, tar: int) -> None:
        """Remove a tar and the files that travel with it; they have no readers left."""
        target = self._files(tar)[-1][1]
        with contextlib.suppress(OSError):
            os.truncate(target, 0)  # readers that still have it open occupy no space
        for path in (_beside(target), kept_index(target, self.index_dir), *(path for _, path in self._files(tar))):
            with writing(path):
                path.unlink(missing_ok=True)

    def lose(self, tar: int, fault: str, said: str) -> None:
        """Tell readers that a tar will never arrive: the name of the fault and a sentence."""
        write_atomic(_beside(self._files(tar)[-1][1]), json.dumps([fault, said]))

    def awaited(self) -> None:
        """Tell readers to wait for fetched files."""
        self._tell({"fetched": True})

    def alone(self) -> None:
        """Tell readers that there is no fetcher."""
        self._tell({})

    def fail(self, said: str) -> None:
        """Tell readers that nothing more will arrive, and why."""
        self._tell({"failed": said[:1000]})

    def _tell(self, state: dict[str, Any]) -> None:
        content = json.dumps(state).encode().ljust(_STATE_BYTES)
        path = self.folder / _STATE
        with writing(path):
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
            try:
                os.pwrite(descriptor, content, 0)
            finally:
                os.close(descriptor)

    def _state(self) -> dict[str, Any]:
        try:
            return dict(json.loads(_read(self.folder / _STATE) or "{}"))
        except ValueError:  # it is being written
            return {"fetched": True}

    def _target(self, remote: Remote) -> Path:
        return self.folder / spooled_name(remote.address, remote.state)

    def _files(self, tar: int) -> list[tuple[Remote, Path]]:
        """All files of a tar, itself last: a reader that sees it finds the others."""
        remote = self._remotes[tar]
        assert remote is not None
        further = [(one.remote, self.folder / one.name) for one in self._further(tar)]
        return [*further, (remote, self._target(remote))]

    def _for_itself(self, tar: int, target: Path) -> Path:
        """Fetch a tar in the absence of a fetcher; the oldest in the folder make room."""
        whole = sorted((path for path in _below(self.folder) if not path.name.startswith(".")), key=_came)
        taken = sum(path.stat().st_size for path in whole)
        for path in whole:
            if taken + self.size(tar) <= self.limit:
                break
            taken -= path.stat().st_size
            path.unlink(missing_ok=True)
        try:
            self.bring(tar, Watched())
        except NotThere as error:
            raise TarLost(GONE, str(error)) from None
        except Changed as error:
            raise TarLost(CHANGED, str(error)) from None
        return target


def _beside(target: Path) -> Path:
    return target.with_name(f"{target.name}{_LOST}")


def _is_whole(remote: Remote, target: Path) -> bool:
    """Whether a file matches the store's entry in size and time."""
    try:
        there = target.stat()
    except OSError:
        return False
    return there.st_size == remote.size and there.st_mtime_ns == dated(remote.state)


def _below(folder: Path) -> Iterator[Path]:
    for place, _, names in os.walk(folder):
        yield from (Path(place, name) for name in names)


def _came(path: Path) -> float:
    try:
        return path.stat().st_ctime
    except FileNotFoundError:
        return 0.0


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""


def own_folder(spool: Path) -> Path:
    """This process's folder in a spool, among those of its machine; removes folders of ranks that no longer run."""
    ranks, rank = int(os.environ.get("LOCAL_WORLD_SIZE", "1")), int(os.environ.get("LOCAL_RANK", "0"))
    if rank == 0 and spool.is_dir():
        for folder in spool.glob("stream-*"):
            if folder.name.removeprefix("stream-").isdecimal() and int(folder.name.removeprefix("stream-")) >= ranks:
                _clear(folder)
    return spool / f"stream-{rank}"


def _clear(folder: Path) -> None:
    """Remove the content of a folder that no process has locked."""
    with contextlib.suppress(OSError), (folder / _LOCK).open("w", encoding="utf-8") as lock:
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for path in _below(folder):
            if path.name != _LOCK:
                path.unlink(missing_ok=True)


def own_share(spool: Path, limit: int) -> int:
    """Bytes of a spool that this process may fill, beside its permanent files."""
    kept = 0
    if spool.is_dir():
        with os.scandir(spool) as entries:
            kept = sum(entry.stat().st_size for entry in entries if entry.is_file())
    return max(0, limit - kept) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def streams(source: Source) -> bool:
    """Whether tars of a source are fetched as needed, and do not stay."""
    return source.places is not None and not source.places.stay


def brought_of(places: Places | None) -> tuple[Streamed | None, Sequence[int] | None]:
    """The fetcher of tars at some places, None if they stay; and their numbers there, if they differ."""
    numbers = None
    if isinstance(places, Moved):
        numbers, places = places.numbers, places.places
    return (places if isinstance(places, Streamed) else None), numbers
