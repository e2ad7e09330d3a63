"""Cached patch tokens: what a frozen encoder sees of every picture of a source, computed once.

A folder of two files: `tokens.safetensors` (tokens `[n, T, W]` float16, valid `[n]` uint8) and `tokens.json` (which
tower, which data). It is made in a temporary sibling folder and renamed when it is whole, and read through a memory
map.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from aced.errors import AcedError
from aced.files.atomic import folder_atomic, write_atomic, writing
from aced.files.tensorfile import RowFile, RowFileWriter
from aced.models import Tower
from aced.models.patch_tokens import encode_tokens
from aced.pool.loader.reading import chunk_size, read_all
from aced.pool.source import Source

_VERSION = 1
_MICRO_BATCH = 256
_FILE, _FACTS = "tokens.safetensors", "tokens.json"


class PatchTokens:
    """The tokens of a source's pictures.

    Attributes:
        count: T, tokens of a picture.
        width: W, their width.
        folder: where they lie.
    """

    def __init__(self, folder: Path, file: RowFile) -> None:
        self.folder = folder
        self._tokens = file.rows("tokens")
        self._valid = np.asarray(file.rows("valid")).astype(bool)
        self.count, self.width = self._tokens.shape[1:]

    def __len__(self) -> int:
        return len(self._valid)

    def rows(self, indices: Sequence[int] | Tensor) -> Tensor:
        """Tokens of the pictures at B positions: `[B, T, W]` float32."""
        return torch.from_numpy(self._tokens[np.asarray(indices, dtype=np.int64)].astype(np.float32))

    def usable(self, indices: Sequence[int]) -> list[int]:
        """Which of some positions have tokens, as positions in `indices`; unreadable pictures have none."""
        return np.flatnonzero(self._valid[np.asarray(indices, dtype=np.int64)]).tolist()


def tokens_folder(cache: Path, tower: Tower, source: Source) -> Path:
    """Where the tokens of a source by a tower belong inside a cache folder."""
    names = [hashlib.sha256(text.encode()).hexdigest()[:12] for text in (tower.fingerprint(), source.fingerprint)]
    return cache / "tokens" / "-".join(names)


def cached_tokens(
    cache: Path, tower: Tower, source: Source, progress: Callable[[int, int], None] | None = None
) -> PatchTokens:
    """The tokens of a source, made now where they are not there.

    Args:
        cache: folder of the caches of any number of towers and sources.
        tower: the frozen encoder.
        source: the pictures.
        progress: called with (pictures done, all pictures).

    Raises:
        AcedError: the tower's tokens are out of reach or not finite, no picture is usable, the folder holds something
            else or something damaged, or the disk is full.
    """
    folder = tokens_folder(cache, tower, source)
    if not folder.exists():
        with folder_atomic(folder) as temporary:
            _fill(temporary, tower, source, progress)
    if progress is not None:
        progress(len(source), len(source))
    return _open(folder, tower, source)


def _fill(folder: Path, tower: Tower, source: Source, progress: Callable[[int, int], None] | None) -> None:
    n = len(source)
    valid = np.zeros(n, dtype=np.uint8)
    writer: RowFileWriter | None = None
    path = folder / _FILE
    try:
        for done, candidates in read_all(source, [tower.view], chunk=chunk_size([tower.view])):
            if len(candidates):
                found = _encode(tower, candidates.images[tower.view])
                with writing(path):
                    if writer is None:
                        writer = RowFileWriter(
                            path, {"tokens": ("float16", (n, *found.shape[1:])), "valid": ("uint8", (n,))}
                        )
                    writer.put("tokens", candidates.indices.numpy(), found.numpy())
                valid[candidates.indices.numpy()] = 1
            if progress is not None:
                progress(done, n)
        if writer is None:
            raise AcedError(f"No picture of {source.name} is usable, so there is nothing to write about.")
        with writing(path):
            writer.put("valid", np.arange(n), valid)
            writer.finish()
    finally:
        if writer is not None:
            writer.close()
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    write_atomic(folder / _FACTS, json.dumps({**_facts(tower, source), "sha256": digest}, indent=1))


def _encode(tower: Tower, images: Tensor) -> Tensor:
    """`[B, T, W]` float16 on the CPU."""
    found = torch.cat([encode_tokens(tower, part).cpu() for part in images.split(_MICRO_BATCH)])
    if not torch.isfinite(found).all() or float(found.abs().max()) > torch.finfo(torch.float16).max:
        raise AcedError(f"The patch tokens of '{tower.name}' are not finite numbers: its training has diverged.")
    return found.half()


def _facts(tower: Tower, source: Source) -> dict[str, Any]:
    return {
        "version": _VERSION,
        "tower": tower.fingerprint(),
        "source": source.fingerprint,
        "n": len(source),
    }


def _open(folder: Path, tower: Tower, source: Source) -> PatchTokens:
    again = "delete the folder and run again"
    path = folder / _FILE
    try:
        facts = json.loads((folder / _FACTS).read_bytes())
        with open(path, "rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
        file = RowFile(path)
    except (OSError, ValueError) as error:
        raise AcedError(f"The cached tokens in {folder} cannot be read ({error}): {again}.") from None
    expected = {**_facts(tower, source), "sha256": digest}
    if not isinstance(facts, dict) or facts != expected:
        known = facts if isinstance(facts, dict) else {}
        wrong = next((key for key in expected if known.get(key) != expected[key]), "an entry more")
        raise AcedError(f"The cached tokens in {folder} are damaged or of something else ({wrong} differs): {again}.")
    return PatchTokens(folder, file)
