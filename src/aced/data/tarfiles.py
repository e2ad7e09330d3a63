"""What `Shards` stands on: open tars that are checked for changes, and keys in little memory."""

from __future__ import annotations

import bisect
import itertools
import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from io import FileIO
from pathlib import Path
from typing import Any, overload

import numpy as np

from aced.data.descriptors import is_out_of_files, most_tars, out_of_files
from aced.data.packed import PackedStrings
from aced.errors import AcedError


class TarFiles:
    """Tars opened on demand, a few at a time in each thread and process, and checked against their index.

    Args:
        paths: the tars.
        states: size and modification time (ns) of each when it was indexed.
    """

    def __init__(self, paths: Sequence[Path], states: Sequence[tuple[int, int]]) -> None:
        self._paths = list(paths)
        self._states = list(states)
        self._local = threading.local()

    def __getstate__(self) -> dict[str, Any]:
        return {"_paths": self._paths, "_states": self._states}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._local = threading.local()

    def session(self) -> TarSession:
        """For some reads in one thread; each tar's size and time are checked once in it."""
        return TarSession(self)

    def open(self, tar: int) -> FileIO:
        """The open file of a tar, from this thread's own few."""
        local = self._local
        if getattr(local, "pid", None) != os.getpid():
            local.pid, local.files = os.getpid(), OrderedDict()
        files: OrderedDict[int, FileIO] = local.files
        if tar not in files:
            while len(files) >= most_tars():
                files.popitem(last=False)[1].close()
            files[tar] = self._opened(tar, files)
        files.move_to_end(tar)
        return files[tar]

    def _opened(self, tar: int, others: OrderedDict[int, FileIO]) -> FileIO:
        while True:
            try:
                return FileIO(self._paths[tar])
            except OSError as error:
                if not (is_out_of_files(error) and others):
                    raise self.unreadable(tar, error) from error
                others.popitem(last=False)[1].close()

    def check(self, tar: int, file: FileIO) -> None:
        """Refuse a tar that is not what was indexed."""
        state = os.fstat(file.fileno())
        if (state.st_size, state.st_mtime_ns) != self._states[tar]:
            raise self.changed(tar)

    def changed(self, tar: int) -> AcedError:
        """The error for a tar that changed under the run."""
        return AcedError(
            f"{self._paths[tar]} has changed since it was indexed: wait until it is written, and start again."
        )

    def unreadable(self, tar: int, error: OSError) -> AcedError:
        """The error for a tar that the system does not give."""
        if is_out_of_files(error):
            return out_of_files()
        return AcedError(f"{self._paths[tar]} cannot be read ({error.strerror or error}).")


class TarSession:
    """Reads of one thread, one after the other; made by `TarFiles.session`."""

    def __init__(self, files: TarFiles) -> None:
        self._files = files
        self._checked: set[int] = set()

    def read(self, tar: int, place: np.ndarray) -> bytes:
        """The bytes at `place` (offset, size) of a tar.

        Raises:
            AcedError: the tar changed since it was indexed, is shorter than that, or cannot be read.
        """
        file = self._files.open(tar)
        if tar not in self._checked:
            self._files.check(tar, file)
            self._checked.add(tar)
        offset, size = int(place[0]), int(place[1])
        try:
            content = os.pread(file.fileno(), size, offset)
            while len(content) < size and (more := os.pread(file.fileno(), size - len(content), offset + len(content))):
                content += more
        except OSError as error:
            raise self._files.unreadable(tar, error) from error
        if len(content) < size:
            raise self._files.changed(tar)
        return content


class TarKeys(Sequence[str]):
    """The keys `<tar>/<key>` of all samples, packed: millions of strings are slow to send and fork.

    Args:
        tars: names of the tars.
        keys: the keys in each tar.
    """

    def __init__(self, tars: Sequence[str], keys: Sequence[PackedStrings]) -> None:
        self.tars = list(tars)
        self._first = [0, *itertools.accumulate(len(part) for part in keys)]
        self._keys = PackedStrings.joined(keys)

    def __len__(self) -> int:
        return len(self._keys)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[row] for row in range(*index.indices(len(self)))]
        if index < 0:
            index += len(self)
        key = self._keys[index]
        return f"{self.tars[self.tar_of(index)]}/{key}"

    @property
    def nbytes(self) -> int:
        """Bytes of memory, without the tars' names."""
        return self._keys.nbytes

    def tar_of(self, index: int) -> int:
        """The number of the tar that sample `index` is in."""
        return bisect.bisect_right(self._first, index) - 1

    def repeated(self) -> tuple[int, str | None]:
        """How many keys occur in more than one tar (each further time counts), and the first such key."""
        hashes = np.fromiter(map(hash, self._keys), dtype=np.int64, count=len(self))
        order = np.argsort(hashes, kind="stable")
        again = np.flatnonzero(np.diff(hashes[order]) == 0)
        if not len(again):
            return 0, None
        return len(again), self[int(order[again + 1].min())]
