"""Where a pool's tars are on a local disk: at once, or after fetching or unpacking."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from aced.files.remote import Remote
from aced.pool.fetch.spool import Located, Spool, is_gzip, unspooled
from aced.runtime.counting import Progress


class Places(Protocol):
    """Where tars are; queried from several threads and processes, and pickled."""

    @property
    def stay(self) -> bool:
        """Whether a tar, once there, stays for the duration of the program."""
        ...

    def fetch(self, progress: Progress | None = None) -> None:
        """Fetch all tars that are to stay; `progress` is called with (addresses fetched, all addresses).

        Raises:
            AcedError: they do not fit into the spool, or one cannot be fetched.
        """
        ...

    def path(self, tar: int) -> Path:
        """The local file of a tar, by its number; waits until it is there.

        Raises:
            AcedError, TarLost: it is not available.
        """
        ...


class TarPlaces:
    """Tars in place; those at addresses are fetched, and gzip files unpacked, on first use.

    Args:
        tars: local paths, or a store's entry for a file.
        packed: numbers of local tars that are gzip files.
        found: the local files of tars that are already there.
        spool: where addresses are fetched and gzip files unpacked.
    """

    stay = True

    def __init__(
        self,
        tars: Sequence[str | Remote],
        packed: frozenset[int] = frozenset(),
        found: Mapping[int, Path] | None = None,
        spool: Spool | None = None,
    ) -> None:
        self._tars, self._packed, self._found, self._spool = tars, packed, dict(found or {}), spool

    def path(self, tar: int) -> Path:
        """The local file of a tar, by its number; see `Places`."""
        if tar in self._found:
            return self._found[tar]
        named = self._tars[tar]
        if isinstance(named, str) and not (tar in self._packed and self._spool):
            return Path(named)
        self._found[tar] = locate(named, self._spool).path
        return self._found[tar]

    def fetch(self, progress: Progress | None = None) -> None:
        """Fetch all tars at addresses; see `Places`."""
        far = {number: tar for number, tar in enumerate(self._tars) if isinstance(tar, Remote)}
        if far and self._spool is not None:
            paths = self._spool.fetch(list(far.values()), progress)
            for (number, tar), path in zip(far.items(), paths, strict=True):
                if number not in self._found:
                    self._found[number] = located_at(tar.address, path, self._spool).path


class Moved:
    """Places under other numbers: those of the run that is being resumed.

    Args:
        places: of tars.
        numbers: for each number, the tar's number there; -1 for a lost tar.
    """

    def __init__(self, places: Places, numbers: Sequence[int]) -> None:
        self.places, self.numbers = places, numbers

    @property
    def stay(self) -> bool:
        """As in `Places`."""
        return self.places.stay

    def fetch(self, progress: Progress | None = None) -> None:
        """As in `Places`, including those that are no longer used."""
        self.places.fetch(progress)

    def path(self, tar: int) -> Path:
        """The local file of a tar, by its number; see `Places`."""
        return self.places.path(self.numbers[tar])


def locate(tar: Path | str | Remote, spool: Spool | None) -> Located:
    """A tar on a local disk: an address is fetched and a gzip file unpacked.

    Raises:
        AcedError: an address without a spool, or what the spool raises.
    """
    if isinstance(tar, Remote):
        if spool is None:
            raise unspooled(tar.address)
        return located_at(tar.address, spool.fetch([tar])[0], spool)
    return located_at(str(tar), Path(tar), spool)


def located_at(source: str, path: Path, spool: Spool | None) -> Located:
    """A tar at a local path, unpacked if it is a gzip file and there is a spool.

    Raises:
        AcedError: as the spool.
    """
    try:
        packed = is_gzip(path)
    except OSError:
        packed = False  # the index reports why it cannot be read
    if not packed or spool is None:
        return Located(source, path)
    unpacked = spool.unpack(path)
    return Located(source, unpacked.path, unpacked.fault)
