"""A source that fits into memory: decoded once, then read by indexing."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from aced.errors import AcedError
from aced.pool.loader.reading import chunk_size, read_all
from aced.pool.source import Candidates, Fault, Source
from aced.pool.views import View, image_bytes

_MEMINFO, _CGROUP = Path("/proc/meminfo"), Path("/sys/fs/cgroup")


class InMemory(Source):
    """A `Source` with the samples of another one, decoded in given views (21,750 images of 64 px: 267 MB).

    Args:
        source: the source to decode.
        views: the views that will be requested repeatedly.
        progress: called with (samples done, all samples).
        workers: processes that decode; 0 decodes in this one.

    Attributes:
        in_memory: True: other processes would not load it any faster.
        captions_vary: False: it keeps one caption of each sample.

    Raises:
        AcedError: it does not fit into the memory of this machine, or as `source` raises.
    """

    in_memory = True
    captions_vary = False

    def __init__(
        self,
        source: Source,
        views: Sequence[View],
        progress: Callable[[int, int], None] | None = None,
        *,
        workers: int = 0,
    ) -> None:
        self.within: Source = source
        n = len(source)
        views = list(dict.fromkeys(views))
        _check_memory(source.name, n, views)
        self._images = {view: torch.empty((n, 3, view.size, view.size), dtype=torch.uint8) for view in views}
        self._texts = [""] * n
        self._faulty: dict[int, Fault] = {}
        self._notes: dict[str, list[Fault]] = {}
        seen = 0
        for done, part in read_all(source, views, chunk=chunk_size(views), workers=workers):
            for view, pixels in part.images.items():
                self._images[view][part.indices] = pixels
            for row, text in zip(part.indices.tolist(), part.texts, strict=True):
                self._texts[row] = text
            for note in part.notes:
                self._notes.setdefault(note.key, []).append(note)
            why = {fault.key: fault for fault in part.faults}
            missing = sorted(set(range(seen, done)).difference(part.indices.tolist()))
            # A sample whose tar was lost meanwhile is identified by its position.
            in_order = part.faults if len(part.faults) == len(missing) else [None] * len(missing)
            for row, fault in zip(missing, in_order, strict=True):
                key = self.keys[row]
                reason = why.get(key) or fault
                self._faulty[row] = reason or Fault(key, "left_out", f"{key}: left out without a reason.")
            seen = done
            if progress is not None:
                progress(done, n)

    def __len__(self) -> int:
        return len(self._texts)

    def read(self, indices: Sequence[int], views: Sequence[View]) -> Candidates:
        """The samples at `indices` (in that order) in every view; faulty ones are left out and reported.

        For a view that is not held, the source itself is read: correct, but no faster.

        Raises:
            IndexError: an index is not in `range(len(self))`.
        """
        if any(view not in self._images for view in views):
            return self.within.read(indices, views)
        wanted = [int(index) for index in indices]
        if wanted and not (min(wanted) >= 0 and max(wanted) < len(self)):
            raise IndexError(f"samples {min(wanted)} to {max(wanted)} of {len(self)}")
        good = [index for index in wanted if index not in self._faulty]
        rows: Tensor = torch.tensor(good, dtype=torch.int64)
        return Candidates(
            indices=rows,
            texts=[self._texts[index] for index in good],
            images={view: self._images[view][rows] for view in views},
            faults=tuple(self._faulty[index] for index in wanted if index in self._faulty),
            notes=tuple(note for index in good for note in self._notes.get(self.keys[index], ()))
            if self._notes
            else (),
        )


def decoded_bytes(n: int, views: Sequence[View]) -> int:
    """Bytes of n decoded images in each of some views."""
    return n * image_bytes(list(dict.fromkeys(views)))


def free_memory() -> int | None:
    """Bytes that this process may still use without evicting anything; None if the system does not report it."""
    try:
        words = _MEMINFO.read_text(encoding="ascii").split()
        free = 1024 * int(words[words.index("MemAvailable:") + 1])
    except (OSError, ValueError, IndexError):
        return None
    try:
        limit, used = (int((_CGROUP / f"memory.{name}").read_text(encoding="ascii")) for name in ("max", "current"))
        words = (_CGROUP / "memory.stat").read_text(encoding="ascii").split()
        cache = int(words[words.index("inactive_file") + 1])
    except (OSError, ValueError, IndexError):
        return free  # no such cgroup, or "max": nothing limits the memory
    return min(free, max(0, limit - used + cache))


def _check_memory(name: str, n: int, views: Sequence[View]) -> None:
    need = decoded_bytes(n, views)
    try:
        physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        # The system does not report it; the allocation will.
        return
    if need > physical:
        raise AcedError(
            f"{name} needs {need / 1e9:.1f} GB decoded and this machine has {physical / 1e9:.1f} GB: "
            "read it from the tars instead of keeping it in memory."
        )
