"""Cached patch tokens: a frozen encoder's tokens of every image of a source, computed once.

They are arrays by tower and source (`aced.cache.keyed`): tokens `[n, T, W]` float16 and valid `[n]` uint8.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from aced.cache.keyed import KeyedArrays
from aced.errors import AcedError
from aced.files.tensorfile import RowFile
from aced.models import Tower
from aced.models.patch_tokens import encode_tokens
from aced.pool.loader.reading import chunk_size, read_all
from aced.pool.source import Source

_MICRO_BATCH = 256
_STEM = "pictures"


class PatchTokens:
    """The tokens of a source's pictures.

    Attributes:
        count: T, tokens of a picture.
        width: W, their width.
    """

    def __init__(self, file: RowFile) -> None:
        self._tokens = file.rows("tokens")
        self._valid = np.asarray(file.rows("valid")).astype(bool)
        self.count, self.width = self._tokens.shape[1:]

    def __len__(self) -> int:
        return len(self._valid)

    def rows(self, indices: Sequence[int] | Tensor) -> Tensor:
        """Tokens of the pictures at B positions: `[B, T, W]` float32."""
        return torch.from_numpy(self._tokens[np.asarray(indices, dtype=np.int64)].astype(np.float32))

    def usable(self, indices: Sequence[int]) -> list[int]:
        """Which of some positions have tokens, as positions in `indices`; unreadable images have none."""
        return np.flatnonzero(self._valid[np.asarray(indices, dtype=np.int64)]).tolist()


def cached_tokens(
    cache: Path, tower: Tower, source: Source, progress: Callable[[int, int], None] | None = None
) -> PatchTokens:
    """The tokens of a source, computed now if missing.

    Args:
        cache: folder of the caches of any number of towers and sources.
        tower: the frozen encoder.
        source: the pictures.
        progress: called with (pictures done, all pictures).

    Raises:
        AcedError: the tower's tokens are not accessible or not finite, no image is usable, or the disk is full or
            damaged.
    """
    kept = KeyedArrays(cache, "tokens", tower.identity())
    file = kept.get(_STEM, source.fingerprint)
    if file is None:
        _fill(kept, tower, source, progress)
        file = kept.get(_STEM, source.fingerprint)
    if file is None:
        raise AcedError(
            f"The tokens just written to {kept.path(_STEM, source.fingerprint)} differ from those read back: "
            "check the disk, or choose another --cache."
        )
    if progress is not None:
        progress(len(source), len(source))
    return PatchTokens(file)


def _fill(kept: KeyedArrays, tower: Tower, source: Source, progress: Callable[[int, int], None] | None) -> None:
    chunks = _encoded(tower, source, progress)
    first = next(chunks, None)
    if first is None:
        raise AcedError(f"No image of {source.name} is usable, so there is nothing to write about.")
    n = len(source)
    valid = np.zeros(n, dtype=np.uint8)
    tensors = {"tokens": ("float16", (n, *first[1].shape[1:])), "valid": ("uint8", (n,))}
    with kept.making(_STEM, source.fingerprint, tensors) as file:
        for rows, tokens in itertools.chain([first], chunks):
            file.put("tokens", tokens, rows)
            valid[rows] = 1
        file.put("valid", valid)


def _encoded(
    tower: Tower, source: Source, progress: Callable[[int, int], None] | None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The readable images, some at a time: `[B]` positions in the source and `[B, T, W]` float16 tokens."""
    for done, candidates in read_all(source, [tower.view], chunk=chunk_size([tower.view])):
        if len(candidates):
            yield candidates.indices.numpy(), _encode(tower, candidates.images[tower.view]).numpy()
        if progress is not None:
            progress(done, len(source))


def _encode(tower: Tower, images: Tensor) -> Tensor:
    """`[B, T, W]` float16 on the CPU."""
    found = torch.cat([encode_tokens(tower, part).cpu() for part in images.split(_MICRO_BATCH)])
    if not torch.isfinite(found).all() or float(found.abs().max()) > torch.finfo(torch.float16).max:
        raise AcedError(f"The patch tokens of '{tower.name}' are not finite numbers: its training has diverged.")
    return found.half()
