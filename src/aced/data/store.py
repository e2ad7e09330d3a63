"""Cached embeddings: a frozen tower's view of every sample, computed once, found by sample key.

A store is a folder of three files: `embeddings.safetensors` (image and text `[n, d]`, valid `[n]` uint8),
`keys.json` (the n sample keys, in row order) and `store.json` (what was embedded by what). It is built in a
temporary sibling folder and renamed when it is whole, and it is read through a memory map, so its size
does not matter. It may hold more samples than the source that is read, or the same in another order.
"""

from __future__ import annotations

import errno
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from aced.core.embeddings import Embeddings
from aced.data.atomic import folder_atomic, write_atomic, writing
from aced.data.reading import chunk_size, read_all
from aced.data.source import Candidates, Source
from aced.data.tensorfile import RowFile, RowFileWriter
from aced.data.views import View
from aced.errors import AcedError

Dtype = Literal["float32", "float16"]

_VERSION = 1
_HASHED_BYTES = 1 << 29
_AGAIN = "delete the folder or run the embedding again into another one"


class EmbeddingTower(Protocol):
    """What the store needs of a tower."""

    name: str

    @property
    def view(self) -> View:
        """How the tower wants to see an image."""
        ...

    def fingerprint(self) -> str:
        """A hash that changes with the weights, the preprocessing or the tokenizer."""
        ...

    def score(self, candidates: Candidates, micro_batch: int) -> Embeddings:
        """The embeddings of all candidates, without gradients."""
        ...


@dataclass(frozen=True)
class StoreInfo:
    """What `store.json` says: which tower embedded which data, and the shape of the result."""

    version: int
    tower: str
    tower_fingerprint: str
    source: str
    source_fingerprint: str
    source_parts: dict[str, str]
    n: int
    d: int
    dtype: str
    scale: float
    bias: float
    bytes: int
    sha256: str
    faults: dict[str, int]


class Store:
    """Embeddings of one tower, addressed by positions in the source it was opened for.

    Attributes:
        folder: where it lies.
        info: tower, data and shape.
    """

    def __init__(self, folder: Path, info: StoreInfo, file: RowFile, rows: np.ndarray) -> None:
        self.folder = folder
        self.info = info
        self._file = file
        self._rows = rows
        self._valid = torch.from_numpy(np.asarray(file.rows("valid"))[rows].astype(bool))

    def __len__(self) -> int:
        """Number of samples of the source."""
        return len(self._rows)

    def valid(self, indices: Tensor) -> Tensor:
        """Which samples have embeddings: `[B]` source positions to `[B]` bool."""
        return self._valid[indices.to("cpu", torch.int64)]

    def lookup(self, indices: Tensor) -> Embeddings:
        """Embeddings of the samples at B source positions: `[B, d]` float32, CPU, rows of unit length.

        Raises:
            AcedError: a sample was faulty when the store was built and so has no embedding.
        """
        indices = indices.to("cpu", torch.int64)
        if not bool(self._valid[indices].all()):
            count = int((~self._valid[indices]).sum())
            raise AcedError(
                f"{count} of {len(indices)} samples have no embedding in {self.folder}, because they "
                f"were faulty when it was made; if the data were repaired since then, {_AGAIN}."
            )
        rows = self._rows[indices.numpy()]
        image, text = (torch.from_numpy(self._file.rows(name)[rows].astype(np.float32)) for name in ("image", "text"))
        if self.info.dtype != "float32":
            # Rounding to 16 bits changes the length of a row by up to 1e-3.
            image, text = (torch.nn.functional.normalize(rows, dim=1) for rows in (image, text))
        return Embeddings(image, text, scale=self.info.scale, bias=self.info.bias)


def store_folder(cache_dir: Path | str, tower_fingerprint: str, source_fingerprint: str) -> Path:
    """Where the embeddings of these data by this tower belong inside a cache folder."""
    names = [hashlib.sha256(text.encode()).hexdigest()[:12] for text in (tower_fingerprint, source_fingerprint)]
    return Path(cache_dir) / "embeddings" / "-".join(names)


def build_store(
    folder: Path | str,
    source: Source,
    tower: EmbeddingTower,
    *,
    micro_batch: int,
    dtype: Dtype = "float32",
    progress: Callable[[int, int], None] | None = None,
    workers: int = 0,
) -> Store:
    """Embed every sample of a source once, or return the store that is already there.

    Args:
        folder: where the store shall lie; only a whole store ever appears there.
        source: the samples.
        tower: the frozen model.
        micro_batch: samples that the tower embeds at a time.
        dtype: how the embeddings are stored.
        progress: called with (samples done, all samples).
        workers: processes that read and decode; 0 does so in this one.

    Raises:
        AcedError: another or a damaged store is in `folder`, no sample is usable, an embedding is not
            finite, or the disk is full.
    """
    folder = Path(folder)
    if dtype not in ("float32", "float16"):
        raise AcedError(f"Embeddings are stored as float32 or float16, not {dtype}.")
    if not (folder.is_dir() and any(folder.iterdir())):
        try:
            with folder_atomic(folder) as temporary:
                _fill(temporary, source, tower, micro_batch, dtype, progress, workers)
        except AcedError as error:
            # Another process made the same store meanwhile: use that one, checked like any other.
            if getattr(error.__cause__, "errno", None) not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
    store = open_store(folder, tower_fingerprint=tower.fingerprint(), source=source)
    if store.info.dtype != dtype:
        raise AcedError(
            f"{folder} holds {store.info.dtype} embeddings and {dtype} is asked for; "
            f"ask for {store.info.dtype}, or {_AGAIN}."
        )
    return store


def _fill(
    folder: Path,
    source: Source,
    tower: EmbeddingTower,
    micro_batch: int,
    dtype: Dtype,
    progress: Callable[[int, int], None] | None,
    workers: int,
) -> None:
    """Write the three files of a store into an empty folder."""
    n = len(source)
    rows = _Rows(folder / "embeddings.safetensors", n, dtype)
    faults: dict[str, int] = {}
    chunk = chunk_size([tower.view], micro_batch)
    try:
        for done, candidates in read_all(source, [tower.view], chunk=chunk, workers=workers):
            for fault in candidates.faults:
                faults[fault.name] = faults.get(fault.name, 0) + 1
            if len(candidates):
                rows.add(candidates.indices, tower.score(candidates, micro_batch), tower.name)
            if progress is not None:
                progress(done, n)
        if rows.d == 0:
            raise AcedError(f"No sample of {source.name} is usable, so there is nothing to embed.")
        rows.finish()
    finally:
        rows.close()
    info = StoreInfo(
        version=_VERSION,
        tower=tower.name,
        tower_fingerprint=tower.fingerprint(),
        source=source.name,
        source_fingerprint=source.fingerprint,
        source_parts=dict(getattr(source, "parts", {})),
        n=n,
        d=rows.d,
        dtype=dtype,
        scale=rows.scale,
        bias=rows.bias,
        bytes=rows.path.stat().st_size,
        sha256=_sha256(rows.path),
        faults=faults,
    )
    write_atomic(folder / "keys.json", json.dumps(list(source.keys)))
    write_atomic(folder / "store.json", json.dumps(asdict(info), indent=1))


class _Rows:
    """The tensor file of a store under construction; it begins with the first embeddings, which tell d."""

    def __init__(self, path: Path, n: int, dtype: Dtype) -> None:
        self.path = path
        self.d = 0
        self.scale = self.bias = 0.0
        self._dtype = dtype
        self._valid = np.zeros(n, dtype=np.uint8)
        self._writer: RowFileWriter | None = None

    def add(self, indices: Tensor, found: Embeddings, tower: str) -> None:
        if not (torch.isfinite(found.image).all() and torch.isfinite(found.text).all()):
            raise AcedError(f"The tower {tower} gives embeddings that are not finite numbers.")
        rows = indices.numpy()
        with writing(self.path):
            if self._writer is None:
                n, self.d = len(self._valid), found.image.shape[1]
                self.scale, self.bias = float(found.scale), float(found.bias)
                pairs = (self._dtype, (n, self.d))
                layout = {"image": pairs, "text": pairs, "valid": ("uint8", (n,))}
                self._writer = RowFileWriter(self.path, layout)
            for name, values in (("image", found.image), ("text", found.text)):
                self._writer.put(name, rows, values.detach().float().cpu().numpy().astype(self._dtype))
        self._valid[rows] = 1

    def finish(self) -> None:
        assert self._writer is not None
        with writing(self.path):
            self._writer.put("valid", np.arange(len(self._valid)), self._valid)
            self._writer.finish()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def open_store(folder: Path | str, *, tower_fingerprint: str, source: Source) -> Store:
    """Open the cached embeddings of a tower for a source, or refuse.

    A file of up to 512 MiB is checked by its hash, a larger one by its size and header.

    Raises:
        AcedError: not a store, of another tower (weights, preprocessing or tokenizer changed), of other
            data, or damaged.
    """
    folder = Path(folder)
    info = _read_info(folder)
    if info.tower_fingerprint != tower_fingerprint:
        raise AcedError(
            f"The embeddings in {folder} are of another tower than this one (they were made by {info.tower}; "
            f"the weights, the preprocessing or the tokenizer differ): {_AGAIN}."
        )
    file, keys = _read_files(folder, info)
    return Store(folder, info, file, _rows_of(folder, info, keys, source))


def _read_info(folder: Path) -> StoreInfo:
    path = folder / "store.json"
    if not path.is_file():
        raise AcedError(f"{folder} is not a store of embeddings (it has no store.json): run the embedding first.")
    content = _json(path)
    if isinstance(content, dict) and content.get("version", _VERSION) != _VERSION:
        raise AcedError(f"The store {folder} was written by another version of aced: {_AGAIN}.")
    names = {entry.name for entry in fields(StoreInfo)}
    if not isinstance(content, dict) or set(content) != names:
        raise _damaged(path, "it is not what was written")
    return StoreInfo(**content)


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise _damaged(path, "it cannot be read") from error


def _damaged(path: Path, what: str) -> AcedError:
    return AcedError(f"The store of embeddings is damaged at {path} ({what}): {_AGAIN}.")


def _read_files(folder: Path, info: StoreInfo) -> tuple[RowFile, list[str]]:
    path = folder / "embeddings.safetensors"
    try:
        size = path.stat().st_size
        if size != info.bytes:
            raise _damaged(path, f"{size} bytes instead of {info.bytes}")
        if size <= _HASHED_BYTES and _sha256(path) != info.sha256:
            raise _damaged(path, "its content has changed")
        file = RowFile(path)
    except (OSError, ValueError) as error:
        raise _damaged(path, "it cannot be read") from error
    shapes = {"image": (info.n, info.d), "text": (info.n, info.d), "valid": (info.n,)}
    if {name: file.shape(name) for name in file.names} != shapes:
        raise _damaged(path, "other shapes than store.json says")
    keys = _json(folder / "keys.json")
    if not isinstance(keys, list) or len(keys) != info.n:
        raise _damaged(folder / "keys.json", "not one key for each row")
    return file, keys


def _rows_of(folder: Path, info: StoreInfo, keys: list[str], source: Source) -> np.ndarray:
    """The store's row of each sample of the source, `[len(source)]` int64."""
    parts = getattr(source, "parts", {})
    changed = [part for part, mark in parts.items() if info.source_parts.get(part, mark) != mark]
    if changed:
        raise AcedError(
            f"The embeddings in {folder} are of other data: {len(changed)} tars have changed since they "
            f"were embedded, for example {min(changed)}; {_AGAIN}."
        )
    if keys == list(source.keys):
        return np.arange(len(keys))
    row_of = {key: row for row, key in enumerate(keys)}
    rows = np.fromiter((row_of.get(key, -1) for key in source.keys), dtype=np.int64, count=len(source))
    missing = _first(source.keys, rows)
    if missing is not None:
        raise AcedError(
            f"The embeddings in {folder} are of other data ({info.source}): {int((rows < 0).sum())} of "
            f"{len(source)} samples of {source.name} are not in it, for example {missing}; {_AGAIN}."
        )
    return rows


def _first(keys: Sequence[str], rows: np.ndarray) -> str | None:
    unknown = np.flatnonzero(rows < 0)
    return keys[int(unknown[0])] if len(unknown) else None
