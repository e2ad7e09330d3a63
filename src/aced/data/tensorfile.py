"""A safetensors file written row by row in any order, and read through a memory map.

The safetensors library writes only what is in memory as a whole. The embeddings of a large source are not, so
this writes the same format (8 bytes length, JSON header, raw little-endian values) in place.
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np

_DTYPES = {"float32": "F32", "float16": "F16", "uint8": "U8"}
_NUMPY = {code: np.dtype(name).newbyteorder("<") for name, code in _DTYPES.items()}

Shape = tuple[int, ...]


class RowFileWriter:
    """Writes tensors of known shapes, rows in any order; the space is reserved at once where the system can.

    Args:
        path: a new file.
        tensors: (dtype, shape) of each tensor by name; dtypes float32, float16 and uint8.

    Raises:
        OSError: the disk is full or the file cannot be written (from any method).
    """

    def __init__(self, path: Path, tensors: Mapping[str, tuple[str, Shape]]) -> None:
        header: dict[str, dict[str, object]] = {}
        begin: dict[str, int] = {}
        offset = 0
        for name, (dtype, shape) in tensors.items():
            size = math.prod(shape) * np.dtype(dtype).itemsize
            header[name] = {
                "dtype": _DTYPES[dtype],
                "shape": list(shape),
                "data_offsets": [offset, offset + size],
            }
            begin[name] = offset
            offset += size
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        self._tensors = dict(tensors)
        self._start = {name: 8 + len(text) + place for name, place in begin.items()}
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            self._write(struct.pack("<Q", len(text)) + text, 0)
            total = 8 + len(text) + offset
            if hasattr(os, "posix_fallocate"):
                self._reserve(total)
            os.ftruncate(self._descriptor, total)
        except BaseException:
            self.close()
            raise

    def _reserve(self, total: int) -> None:
        """A full disk is better told before hours of work than after them."""
        try:
            os.posix_fallocate(self._descriptor, 0, total)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS):
                raise

    def shape(self, name: str) -> Shape:
        """The shape of a tensor."""
        return self._tensors[name][1]

    def put(self, name: str, rows: np.ndarray, values: np.ndarray) -> None:
        """Write `values` `[len(rows), ...]`, of the tensor's dtype, at `rows` (increasing)."""
        dtype, shape = self._tensors[name]
        if values.dtype != np.dtype(dtype) or values.shape != (len(rows), *shape[1:]):
            raise ValueError(f"{name}: {values.dtype} {values.shape} does not fit {dtype} {shape}")
        if not len(rows):
            return
        row_bytes = math.prod(shape[1:]) * np.dtype(dtype).itemsize
        for run in np.split(np.arange(len(rows)), np.flatnonzero(np.diff(rows) != 1) + 1):
            block = np.ascontiguousarray(values[run[0] : run[-1] + 1])
            self._write(
                block.astype(block.dtype.newbyteorder("<"), copy=False).tobytes(),
                self._start[name] + int(rows[run[0]]) * row_bytes,
            )

    def _write(self, content: bytes, offset: int) -> None:
        view = memoryview(content)
        while view:
            written = os.pwrite(self._descriptor, view, offset)
            view, offset = view[written:], offset + written

    def finish(self) -> None:
        """Flush everything to the disk and close."""
        os.fsync(self._descriptor)
        self.close()

    def close(self) -> None:
        """Close the file; harmless when it is closed already."""
        if self._descriptor >= 0:
            with contextlib.suppress(OSError):
                os.close(self._descriptor)
            self._descriptor = -1


class RowFile:
    """The tensors of a safetensors file as memory maps: only the rows that are asked for are read.

    Raises:
        ValueError: not a safetensors file, or one with dtypes other than float32, float16 and uint8.
        OSError: the file cannot be read.
    """

    def __init__(self, path: Path) -> None:
        size = path.stat().st_size
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > size - 8:
                raise ValueError(f"{path} has no safetensors header")
            header = json.loads(file.read(length))
        self._maps: dict[str, np.ndarray] = {}
        for name, entry in header.items():
            if name == "__metadata__":
                continue
            try:
                dtype, shape = _NUMPY[entry["dtype"]], tuple(entry["shape"])
                start, end = entry["data_offsets"]
            except (KeyError, TypeError) as error:
                raise ValueError(f"{path}: cannot read the header of {name}") from error
            if end - start != math.prod(shape) * dtype.itemsize or 8 + length + end > size:
                raise ValueError(f"{path}: {name} does not fit into the file")
            self._maps[name] = np.memmap(path, dtype, "r", 8 + length + start, shape)

    @property
    def names(self) -> list[str]:
        """The names of the tensors."""
        return list(self._maps)

    def shape(self, name: str) -> Shape:
        """The shape of a tensor."""
        return self._maps[name].shape

    def rows(self, name: str) -> np.ndarray:
        """A tensor as a read-only memory map."""
        return self._maps[name]
