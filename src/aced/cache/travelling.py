"""Side-cars that travel with their tars, for a streamed pool whose side-cars are in a store too."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from aced.cache.home import Files
from aced.cache.sidecar import Part
from aced.errors import AcedError
from aced.files.download import fetch
from aced.files.remote import Remote
from aced.files.spoolroom import date, exclusive, spooled_name
from aced.pool.fetch.places import Places
from aced.pool.fetch.streamed import Further, brought_of
from aced.pool.packed import PackedStrings
from aced.pool.source import Source
from aced.pool.tars.losttars import TarLost

_FOLDER = "side-cars"


class Travelling(Files):
    """The local files of side-cars that come and go with their tars; pickled, and queried from several processes.

    Args:
        source: the pool, which is streamed.
        parts: of the pool, one for each side-car.
        remotes: the store's entry for each side-car.
    """

    stay = False

    def __init__(self, source: Source, parts: Sequence[Part], remotes: Sequence[Remote]) -> None:
        assert source.places is not None
        self._places: Places = source.places
        streamed, numbers = brought_of(self._places)
        assert streamed is not None
        super().__init__(streamed.folder / _FOLDER)
        sizes = np.asarray(source.part_sizes, dtype=np.int64)
        self._tars = np.flatnonzero(sizes)[: len(parts)]  # tars that have a part
        there = self._tars if numbers is None else np.asarray(numbers)[self._tars]
        self._part_of = {int(tar): part for part, tar in enumerate(there)}
        self._addresses = PackedStrings.of(remote.address for remote in remotes)
        self._states = PackedStrings.of(remote.state for remote in remotes)
        self._sizes = np.array([remote.size or 0 for remote in remotes], dtype=np.int64)

    def further(self, tar: int) -> list[Further]:
        """The files that travel with a tar, by its number in the stream."""
        part = self._part_of.get(tar)
        if part is None:
            return []
        remote = self._remote(part)
        return [Further(remote, f"{_FOLDER}/{spooled_name(remote.address, remote.state)}")]

    def path(self, number: int, name: str) -> Path:
        """As in `Files`; waits for the tar."""
        remote = self._remote(number)
        target = self.folder / spooled_name(remote.address, remote.state)
        if target.exists():
            return target
        try:
            self._places.path(int(self._tars[number]))
        except TarLost as lost:
            raise AcedError(f"{lost} Its side-car is not fetched.") from None
        with exclusive(target) as temporary:  # only if the tar arrived before its companions were known
            if temporary is not None:
                _bring(remote, temporary, target)
        return target

    @contextlib.contextmanager
    def lent(self) -> Iterator[Lent]:
        """The files of any side-cars, one at a time, whichever tars are there."""
        folder = self.folder.parent.with_name(f"lent-{os.getpid()}")
        try:
            yield Lent(self, folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _remote(self, part: int) -> Remote:
        return Remote(self._addresses[part], int(self._sizes[part]), self._states[part])

    def bring(self, number: int, target: Path) -> None:
        """Fetch the side-car of a part to a file of its own."""
        temporary = target.with_suffix(".part")
        _bring(self._remote(number), temporary, target)


class Lent(Files):
    """Side-cars fetched on demand; each replaces the one before."""

    stay = False

    def __init__(self, files: Travelling, folder: Path) -> None:
        super().__init__(folder)
        self._files = files

    def path(self, number: int, name: str) -> Path:
        """As in `Files`."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        self._files.bring(number, self.folder / name)
        return self.folder / name


class TravellingSideCars:
    """The side-cars of several models that travel with a tar."""

    def __init__(self, files: Sequence[Travelling]) -> None:
        self._files = list(files)

    def __call__(self, tar: int) -> list[Further]:
        """Those of a tar, by its number in the stream."""
        return [further for files in self._files for further in files.further(tar)]


def let_travel(source: Source, files: Sequence[object]) -> None:
    """Have the side-cars among `files` that travel fetched together with the tars of a source."""
    if travelling := [one for one in files if isinstance(one, Travelling)]:
        streamed, _ = brought_of(source.places)
        assert streamed is not None
        streamed.travels_with(TravellingSideCars(travelling))


def _bring(remote: Remote, temporary: Path, target: Path) -> None:
    fetch(remote, temporary, same=bool(remote.state))
    date(temporary, remote.state)
    os.replace(temporary, target)
