"""The indexes of a pool's tars, opened on demand within a memory limit, and the keys in them."""

from __future__ import annotations

import contextlib
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from aced.pool.captions import Captions
from aced.pool.packed import NumberedStrings, PackedStrings
from aced.pool.tars.losttars import TarLost, lost_key
from aced.pool.tars.manifest import TarFacts
from aced.pool.tars.tarfiles import TarFiles
from aced.pool.tars.tarindex import TarIndex, index_tar
from aced.pool.tars.tarrows import TarRows, rows_of

BOUND = 256_000_000
"""Bytes of indexes that a process keeps open: those of four million samples."""


class TarIndexes:
    """The samples of each tar by its number; indexes are opened on demand, and the most recent ones are kept.

    Safe to use from threads, and after pickling or a fork in worker processes, each of which keeps its own.

    Args:
        files: the tars' files, which check the state in which a tar was indexed.
        facts: about each tar.
        captions: which are read.
        index_dir: folder of stored indexes; without it headers are read anew.
        lost: samples of lost tars that keep their positions.
        held: samples of tars that stay in memory because no file stores them.
        bound: bytes of the others that are kept open.
    """

    def __init__(
        self,
        files: TarFiles,
        facts: Sequence[TarFacts],
        captions: Captions,
        index_dir: Path | None = None,
        lost: Mapping[int, int] | None = None,
        held: Mapping[int, TarRows] | None = None,
        bound: int = BOUND,
    ) -> None:
        self._files, self._captions = files, captions
        self._marks = [one.mark for one in facts]
        self._told = {number: one.usable(captions.part) for number, one in enumerate(facts) if one.told}
        self._index_dir, self._lost, self._held, self._bound = index_dir, dict(lost or {}), dict(held or {}), bound
        for tar, rows in self._held.items():
            files.expect(tar, rows.state, self._marks[tar])
        self._begin()

    def _begin(self) -> None:
        self._pid, self._lock = os.getpid(), threading.Lock()
        self._open: OrderedDict[int, TarRows] = OrderedDict()
        self._bytes = 0

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_lock", "_open")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._begin()

    def rows(self, tar: int) -> TarRows:
        """The samples of a tar.

        Raises:
            AcedError, TarLost: the tar cannot be read, or differs from the manifest.
        """
        if (held := self._held.get(tar)) is not None:
            return held
        if self._pid != os.getpid():  # a lock may have been forked while another thread held it
            self._begin()
        found = self._open.get(tar)
        if found is None:
            return self._keep(tar, self._opened(tar))
        if 2 * self._bytes > self._bound:  # below that, nothing is evicted soon
            with contextlib.suppress(KeyError):  # another thread has just made room
                self._open.move_to_end(tar)
        return found

    def _opened(self, tar: int) -> TarRows:
        if tar in self._lost:
            return _places_of(self._lost[tar])
        path = self._files.path(tar)
        try:
            index, _ = index_tar(path, self._index_dir)
        except OSError as error:
            raise self._files.unreadable(tar, error) from error
        if self._marks[tar] and index.mark() != self._marks[tar]:
            raise self._files.changed(tar)
        rows = rows_of(index, self._captions.part)
        if tar in self._told:
            rows = self._compared(tar, index, rows)
        self._files.expect(tar, rows.state, index.mark())
        return rows

    def _compared(self, tar: int, index: TarIndex, rows: TarRows) -> TarRows:
        """The samples of a tar, with what is unusual about it beyond the hearsay."""
        if index.fault is not None:
            self._files.refuse(tar, index.fault.detail)
        odd = [(f"tar_{damage.name}", damage.detail, 1) for damage in index.faults]
        if (more := len(rows) - self._told[tar]) > 0:
            odd.append(("count_more", f"it holds {len(rows)} pairs, a file beside it says {self._told[tar]}", more))
        return replace(rows, odd=tuple(odd))

    def _keep(self, tar: int, rows: TarRows) -> TarRows:
        with self._lock:
            if tar not in self._open:
                self._open[tar] = rows
                self._bytes += rows.nbytes
            while self._bytes > self._bound and len(self._open) > 1:
                self._bytes -= self._open.popitem(last=False)[1].nbytes
        return rows

    @property
    def nbytes(self) -> int:
        """Bytes of the indexes in memory."""
        return self._bytes + sum(rows.nbytes for rows in self._held.values())


def _places_of(samples: int) -> TarRows:
    """Placeholders for a lost tar's samples in the order, without their bytes."""
    places = np.tile(np.array([[0, 1]], dtype=np.int64), (samples, 1))
    return TarRows(PackedStrings.of(f"#{row}" for row in range(samples)), places, places, places, (-1, -1))


class TarKeys(NumberedStrings):
    """The keys `<tar>/<key>` of all samples, read from the indexes on demand.

    A sample whose tar cannot be read has its position as key, see `lost_key`.

    Args:
        tars: names of the tars.
        starts: `[tars + 1]` position of the first sample of each tar, and finally the number of samples.
        indexes: of the tars.
    """

    def __init__(self, tars: Sequence[str], starts: np.ndarray, indexes: TarIndexes) -> None:
        self._tars, self._starts, self._indexes = tars, starts, indexes

    def __len__(self) -> int:
        return int(self._starts[-1])

    def string(self, position: int) -> str:
        """The key of a sample."""
        tar = int(np.searchsorted(self._starts, position, side="right")) - 1
        return self.of(tar, position - int(self._starts[tar]))

    def __iter__(self) -> Iterator[str]:
        for tar, count in enumerate(np.diff(self._starts).tolist()):
            yield from (self.of(tar, row) for row in range(count))

    def of(self, tar: int, row: int) -> str:
        """The key of a sample by its tar and its place there."""
        try:
            rows = self._indexes.rows(tar)
        except TarLost:
            return lost_key(self._tars[tar], row)
        return f"{self._tars[tar]}/{rows.keys[row]}" if row < len(rows) else lost_key(self._tars[tar], row)
