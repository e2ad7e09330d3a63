"""Open tars, checked for changes, a few at a time."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np

from aced.errors import AcedError, DataLost
from aced.pool.fetch.places import Places
from aced.pool.tars.losttars import CHANGED, GONE, TarLost, is_lost
from aced.pool.tars.tarindex import index_tar
from aced.runtime.descriptors import is_out_of_files, most_tars, out_of_files

_GAP = 1 << 16
"""Gap in bytes between two pieces of a sample that is read rather than skipped: another read costs more."""


class TarFiles:
    """Tars opened on demand, a few at a time in each thread and process, and checked against their index.

    Args:
        places: where the tars are.
        sources: the user's names for them.
        lost: numbers of tars that are already lost, with the name of the fault.
        skip: whether to leave out the samples of a lost tar and read on.
    """

    def __init__(
        self,
        places: Places,
        sources: Sequence[str],
        lost: Mapping[int, str] | None = None,
        *,
        skip: bool = False,
    ) -> None:
        self._places, self._sources = places, sources
        self._states: dict[int, tuple[int, int]] = {}
        self._marks: dict[int, str] = {}
        self._lost = dict(lost or {})
        self._skip = skip
        self._others: dict[int, tuple[int, int]] = {}  # states in which a tar has changed
        self._local = threading.local()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_local"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._local = threading.local()

    def expect(self, tar: int, state: tuple[int, int], mark: str = "") -> None:
        """Expect a tar to be the indexed file: of this size and modification time (ns).

        Args:
            tar: its number.
            state: of the file.
            mark: of its content, see `TarIndex.mark`; without one, any other state means another file.
        """
        self._states[tar], self._marks[tar] = state, mark

    def session(self) -> TarSession:
        """For several reads in one thread; each tar's size and time are checked once."""
        return TarSession(self)

    def path(self, tar: int) -> Path:
        """The local path of a tar; waits until it is there.

        Raises:
            AcedError, TarLost: it is not available.
        """
        try:
            return self._places.path(tar)
        except TarLost as lost:
            raise self._error(lost.name, str(lost).rstrip(".")) from None

    def open(self, tar: int, *, known: bool = False) -> FileIO:
        """The open file of a tar, from this thread's own few; `known` if it was used a moment ago."""
        if tar in self._lost:
            raise TarLost(self._lost[tar], f"{self._sources[tar]} is lost to this run.")
        local = self._local
        if getattr(local, "pid", None) != os.getpid():
            local.pid, local.files = os.getpid(), OrderedDict()
        files: OrderedDict[int, FileIO] = local.files
        if not known and not self._places.stay and tar in files and not os.fstat(files[tar].fileno()).st_nlink:
            files.pop(tar).close()  # it was removed and fetched again
        if tar not in files:
            while len(files) >= most_tars():
                files.popitem(last=False)[1].close()
            files[tar] = self._opened(tar, files)
        files.move_to_end(tar)
        return files[tar]

    def _opened(self, tar: int, others: OrderedDict[int, FileIO]) -> FileIO:
        while True:
            try:
                return FileIO(self.path(tar))
            except OSError as error:
                if not (is_out_of_files(error) and others):
                    raise self.unreadable(tar, error) from error
                others.popitem(last=False)[1].close()

    def check(self, tar: int, file: FileIO) -> None:
        """Refuse a tar that differs from the indexed one (see `expect`), unless it was only touched, or copied again.

        Raises:
            AcedError, TarLost: it has changed.
        """
        there = os.fstat(file.fileno())
        state = there.st_size, there.st_mtime_ns
        if state == self._states[tar]:
            return
        if self._others.get(tar) == state or not self._is_same(tar, state):
            self._others[tar] = state
            raise self.changed(tar)
        self._states[tar] = state

    def _is_same(self, tar: int, state: tuple[int, int]) -> bool:
        """Whether a tar with another time has the indexed content, as far as its headers tell."""
        if state[0] != self._states[tar][0]:
            return False
        try:
            return index_tar(self.path(tar))[0].mark() == self._marks[tar]
        except OSError:
            return False

    def refuse(self, tar: int, detail: str) -> None:
        """Raise an AcedError about a damaged tar, unless its whole samples are to be read."""
        if not self._skip:
            raise AcedError(
                f'{self._sources[tar]} cannot be used: {detail}. Replace the file, or set data.bad_tars = "skip" to '
                "use the whole samples in it."
            )

    def changed(self, tar: int) -> AcedError | TarLost:
        """The error for a tar that changed during the run."""
        return self._error(CHANGED, f"{self._sources[tar]} has changed since it was indexed")

    def unreadable(self, tar: int, error: OSError) -> AcedError | TarLost:
        """The error for a tar that the system cannot read."""
        if is_out_of_files(error):
            return out_of_files()
        said = f"{self._sources[tar]} can no longer be read ({error.strerror or error})"
        return self._error(GONE, said) if is_lost(error) else AcedError(f"{said}.")

    def _error(self, name: str, said: str) -> AcedError | TarLost:
        if self._skip:
            return TarLost(name, f"{said}.")
        return DataLost(
            f"{said}: restore it and start again; set data.bad_tars=skip to let a run continue without such "
            "a tar, or data.lost_tars=allow to resume one without it."
        )


class TarSession:
    """Consecutive reads of one thread; made by `TarFiles.session`."""

    def __init__(self, files: TarFiles) -> None:
        self._files = files
        self._checked: set[int] = set()
        self._lost: dict[int, TarLost] = {}

    def read(self, tar: int, *places: np.ndarray) -> list[bytes]:
        """The bytes at some places (offset, size) of a tar; neighbours are read at once.

        Raises:
            AcedError: the tar changed since it was indexed, is shorter than that, or cannot be read.
            TarLost: the same, if the samples of such tars are to be left out.
        """
        if tar in self._lost:
            raise self._lost[tar]
        try:
            return self._read(tar, [place.tolist() for place in places])
        except TarLost as lost:
            self._lost[tar] = lost
            raise

    def _read(self, tar: int, places: list[list[int]]) -> list[bytes]:
        known = tar in self._checked
        file = self._files.open(tar, known=known)
        if not known:
            self._files.check(tar, file)
            self._checked.add(tar)
        (start, size), *others = places
        end, wanted = start + size, size + _GAP * len(others)
        for offset, size in others:  # a sample has few, and there are many samples
            start, end, wanted = min(start, offset), max(end, offset + size), wanted + size
        if end - start > wanted:
            return [self._piece(tar, file, *place) for place in places]
        whole = self._piece(tar, file, start, end - start)
        return [whole[offset - start : offset - start + size] for offset, size in places]

    def _piece(self, tar: int, file: FileIO, offset: int, size: int) -> bytes:
        try:
            content = os.pread(file.fileno(), size, offset)
            while len(content) < size and (more := os.pread(file.fileno(), size - len(content), offset + len(content))):
                content += more
        except OSError as error:
            raise self._files.unreadable(tar, error) from error
        if len(content) < size:
            raise self._files.changed(tar)
        return content
