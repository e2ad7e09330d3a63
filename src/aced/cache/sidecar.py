"""A side-car: one model's embeddings of one tar (or of a whole source without tars), as one safetensors file.

Tensors: `image` `[n, views, d]`, `text` `[n, d]`, `valid` `[n]` uint8, `keys` (the n sample keys, JSON in UTF-8), and
for int8 `image_scale` and `text_scale`. The header identifies the model and the data (`SideCarInfo`). A side-car is
written under a temporary name and renamed when complete.

The model's precision is recorded but is not part of its identity: bfloat16 turns an embedding by 1 - cos = 1e-5 to 6e-5
(three architectures), as much as storing it as int8 does, and far less than the differences between samples. So a
side-car made in fp32 on a CPU serves a run in bf16, and a cache may be mixed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from aced.cache.rowcodec import encode, layout, row_bytes
from aced.cache.sealed import SealedWriter, differences, sealed_info, sealed_name
from aced.errors import AcedError
from aced.files.tensorfile import Header, RowFile
from aced.pool.source import Source
from aced.pool.tars.manifest import TOLD
from aced.runtime.descriptors import is_out_of_files, out_of_files

VERSION = 2
_METADATA_BYTES = 8192
_HEADER_BYTES = 400
_BLOCK = 4096
_KIND = "side-car"


@dataclass(frozen=True, slots=True)
class Part:
    """The unit of a side-car: samples `start` to `stop - 1` of a source, usually those of one tar.

    Attributes:
        name: the tar's name in the source.
        mark: a hash that a copy of the tar shares and a changed tar does not.
        lost: whether the tar is lost and only the positions of its samples are kept; their keys are then unknown.
    """

    name: str
    mark: str
    start: int
    stop: int
    lost: bool = False

    def __len__(self) -> int:
        return self.stop - self.start

    @property
    def told(self) -> bool:
        """Whether the tar was never read, so that its content is known only by hearsay."""
        return self.mark.rpartition(" ")[2].startswith(TOLD)

    def keys(self, source: Source) -> Sequence[str]:
        """The samples' keys without the tar's name, which depends on the other tars in the source."""
        return _PartKeys(self, source.keys)


class _PartKeys(Sequence[str]):
    """The keys of a part, made on demand: most parts need only three."""

    def __init__(self, part: Part, keys: Sequence[str]) -> None:
        self._part, self._keys = part, keys

    def __len__(self) -> int:
        return len(self._part)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[row] for row in range(*index.indices(len(self)))]
        row = range(self._part.start, self._part.stop)[index]
        return self._keys[row].removeprefix(f"{self._part.name}/")


def parts_of(source: Source) -> list[Part]:
    """The parts of a source that hold samples, in the order of its samples; a source without tars is one part."""
    if not source.parts:
        return [Part(source.name, source.fingerprint, 0, len(source))]
    ends = np.cumsum(source.part_sizes, dtype=np.int64).tolist()
    found = zip(source.parts.items(), [0, *ends[:-1]], ends, strict=True)
    lost = source.lost
    return [Part(name, mark, start, stop, name in lost) for (name, mark), start, stop in found if stop > start]


@dataclass(frozen=True)
class SideCarInfo:
    """The header of a side-car.

    Attributes:
        version: of this format.
        tower: name of the model.
        identity: hashes of its `weights`, `preprocessing`, `tokenizer` and `architecture`, and of all as `tower`; in
            older files, of the first three.
        part, mark: name and mark of the tar.
        n, d, views, dtype: shape and type of the embeddings.
        scale, bias: logit scale and bias of the model.
        ends: first, middle and last key, used to compare rows with a source.
        usable: samples that have an embedding.
        faults: why the others have none: samples by name of the fault.
        seconds, flops: cost of making it.
        precision: of the model. It is beside the other fields in the header, where older versions find what they
            expect; their side-cars, which lack it, were made in fp32.
        sha256: of everything after the header.
    """

    version: int
    tower: str
    identity: dict[str, str]
    part: str
    mark: str
    n: int
    d: int
    views: int
    dtype: str
    scale: float
    bias: float
    ends: list[str]
    usable: int
    faults: dict[str, int]
    seconds: float
    flops: float
    sha256: str
    precision: str = "fp32"


def sample_bytes(d: int, dtype: str, views: int) -> int:
    """Bytes per sample in a side-car, without its key: `views` images, a text and a mark."""
    return (views + 1) * row_bytes(d, dtype) + 1


def overhead_bytes(part: Part, source: Source) -> int:
    """Bytes of a part's side-car besides `sample_bytes`: header, keys, and half a block of the disk.

    The length of all keys is estimated from three of them.
    """
    ends = _ends(part.keys(source))
    each = sum(len(json.dumps(key)) + 2 for key in ends) / max(1, len(ends))
    return _METADATA_BYTES + _HEADER_BYTES + _BLOCK // 2 + round(each * len(part))


def tower_folder(cache: Path | str, fingerprint: str) -> Path:
    """The folder of one model's side-cars inside a cache folder."""
    return Path(cache) / "embeddings" / fingerprint


def sidecar_path(cache: Path | str, fingerprint: str, part: Part) -> Path:
    """The path of a part's side-car."""
    return tower_folder(cache, fingerprint) / sidecar_name(part)


def sidecar_name(part: Part) -> str:
    """The name of a part's side-car."""
    return sealed_name(stem(part), part.mark)


def stem(part: Part) -> str:
    """The beginning of that name, which depends on the tar's name."""
    return re.sub(r"[^\w.-]+", "_", part.name.rstrip("/").rpartition("/")[2].removesuffix(".tar"))[:80]


class SideCarWriter(SealedWriter):
    """Writes a side-car in place, in any order of its rows; use it under `file_atomic`.

    Args:
        path: the temporary file.
        target: its final name, for messages.
        keys: of the n samples.
        d: width of the embeddings.
        views: images per sample.
        dtype: type in which they are stored.
    """

    def __init__(self, path: Path, target: Path, keys: Sequence[str], d: int, views: int, dtype: str) -> None:
        self._dtype, self._n = dtype, len(keys)
        self._valid = np.zeros(self._n, dtype=np.uint8)
        self._ends = _ends(keys)
        self._keys = np.frombuffer(json.dumps(list(keys)).encode(), np.uint8)
        tensors = layout("image", (self._n, views), d, dtype) | layout("text", (self._n,), d, dtype)
        tensors |= {"valid": ("uint8", (self._n,)), "keys": ("uint8", self._keys.shape)}
        super().__init__(path, target, tensors, _METADATA_BYTES)

    def add(self, rows: Tensor, image: Tensor, text: Tensor) -> None:
        """Write the embeddings of B samples: `[B]` increasing rows, image `[B, views, d]`, text `[B, d]`."""
        places = rows.numpy()
        for name, values in (("image", image), ("text", text)):
            for tensor, block in encode(name, values, self._dtype).items():
                self.put(tensor, block, places)
        self._valid[places] = 1

    @property
    def usable(self) -> int:
        """Number of samples added."""
        return int(self._valid.sum())

    def finish(self, **info: Any) -> None:
        """Write the rest; `info` holds the fields of `SideCarInfo` that do not follow from the rows."""
        self.put("valid", self._valid)
        self.put("keys", self._keys)
        whole = SideCarInfo(
            version=VERSION,
            n=self._n,
            dtype=self._dtype,
            ends=self._ends,
            usable=self.usable,
            sha256="",  # of the written bytes, so it is known last
            **info,
        )
        content = asdict(whole)
        precision = content.pop("precision")
        self.seal(_KIND, content, precision=precision)


def _ends(keys: Sequence[str]) -> list[str]:
    return [keys[i] for i in (0, len(keys) // 2, -1)] if len(keys) else []


class SideCar:
    """An existing side-car, read through a memory map; make one with `open_sidecar`.

    Attributes:
        path: its path.
        info: its header.
        bytes: its size.
    """

    def __init__(self, path: Path, info: SideCarInfo, file: RowFile) -> None:
        self.path, self.info, self.bytes = path, info, file.size
        self._file = file

    @property
    def keys(self) -> list[str]:
        """The samples' keys in the order of the rows."""
        return list(json.loads(self._file.rows("keys").tobytes()))

    def rows_of(self, keys: Sequence[str]) -> np.ndarray | None:
        """The row of each key; None if rows and keys correspond directly.

        A tar's mark covers its keys, so only three of them are compared before the rows are used directly.

        Raises:
            AcedError: a key is missing.
        """
        if len(keys) == self.info.n and _ends(keys) == self.info.ends:
            return None
        row_of = {key: row for row, key in enumerate(self.keys)}
        rows = np.fromiter((row_of.get(key, -1) for key in keys), dtype=np.int64, count=len(keys))
        if (rows < 0).any():
            raise AcedError(
                f"The side-car {self.path} is of other data: {int((rows < 0).sum())} of {len(keys)} samples are not in "
                f"it, for example {keys[int(np.argmin(rows))]}; {_AGAIN}."
            )
        return rows

    def valid(self, rows: np.ndarray) -> np.ndarray:
        """`[B]` rows to `[B]` bool: which have an embedding."""
        return self._file.rows("valid")[rows] != 0

    def stored(self, name: str) -> np.ndarray:
        """A tensor of `layout` for all rows, as stored: a read-only memory map."""
        return self._file.rows(name)

    def slim(self) -> SideCar:
        """The same without the parts for its maker and first reader only, which take more memory than the rest."""
        return SideCar(self.path, replace(self.info, identity={}, ends=[]), self._file)

    def intact(self) -> bool:
        """Whether every byte is as written; reads the whole file."""
        return self._file.sha256() == self.info.sha256


class Damaged(AcedError):
    """A side-car whose content is not as written."""


def open_sidecar(path: Path, identity: Mapping[str, str] | None = None, part: Part | None = None) -> SideCar:
    """Open a side-car by its header, or refuse.

    Args:
        path: the file.
        identity: the model's `identity()`; None for any model.
        part: the expected part; None for any.

    Raises:
        Damaged: it is cut off, or not as written.
        AcedError: it has other weights, preprocessing, tokenizer, tar or version.
    """
    try:
        file = RowFile(path)
        info = read_info(path, file)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise damaged(path, error) from error
    check_made_for(path, info, identity, part)
    return SideCar(path, info, file)


def read_info(path: Path | str, header: Header) -> SideCarInfo:
    """The content of a side-car's header; its text is then removed from `header`.

    Raises:
        ValueError, KeyError, TypeError: it is not as written.
        AcedError: it has another version.
    """
    content = sealed_info(header, _KIND)
    if content["version"] != VERSION:
        raise AcedError(f"The side-car {path} was written by another version of aced: {_AGAIN}.")
    if set(content) != {entry.name for entry in fields(SideCarInfo)} - {"precision"}:
        raise ValueError("its header is not as written")
    info = SideCarInfo(**content, precision=header.metadata.get("precision", "fp32"))
    shapes = layout("image", (info.n, info.views), info.d, info.dtype) | layout("text", (info.n,), info.d, info.dtype)
    if any(header.shape(name) != shape for name, (_, shape) in shapes.items()) or header.shape("valid") != (info.n,):
        raise ValueError("its shapes differ from its header")
    return info


def damaged(path: Path | str, error: Exception) -> AcedError:
    """The error for a side-car that cannot be read."""
    if is_out_of_files(error):
        return out_of_files()
    what = error.strerror if isinstance(error, OSError) else str(error)
    return Damaged(f"The side-car of embeddings {path} is damaged ({what}): {_AGAIN}.")


def check_made_for(path: Path | str, info: SideCarInfo, identity: Mapping[str, str] | None, part: Part | None) -> None:
    """Refuse a side-car of another model or another tar; None accepts any."""
    if identity is not None and (words := differences(info.identity, identity)):
        raise AcedError(
            f"The side-car {path} is of {words} than this model's (it was made by {info.tower}): name that model, or "
            "delete the file and run 'aced embed' again."
        )
    if part is not None and info.mark != part.mark:
        raise AcedError(
            f"The side-car {path} belongs to another tar than {part.name}, or the tar has changed since: {_AGAIN}."
        )


_AGAIN = "delete the file and run 'aced embed' again, which makes only what is missing"
