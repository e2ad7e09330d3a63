"""A safetensors file written row by row in any order, and read through a memory map.

The safetensors library only writes tensors that are in memory as a whole. The embeddings of a large source are not, so
this module writes the same format (8 bytes length, JSON header, raw little-endian values) in place.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import mmap
import os
import random
import struct
import threading
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO, TypeVar

import numpy as np

from aced.runtime.descriptors import is_out_of_files, most_maps, out_of_files

_DTYPES = {"float32": "F32", "float16": "F16", "uint8": "U8", "int8": "I8"}
_NUMPY = {code: np.dtype(name).newbyteorder("<") for name, code in _DTYPES.items()}

Shape = tuple[int, ...]
T = TypeVar("T")


class RowFileWriter:
    """Writes tensors of known shapes, rows in any order; the space is reserved at once if the system supports it.

    The header comes last: an unfinished file begins with zeros, and no reader accepts it.

    Args:
        path: a new file.
        tensors: (dtype, shape) of each tensor by name; dtypes float32, float16, uint8 and int8.
        metadata_bytes: room for the metadata passed to `finish`, as JSON.

    Raises:
        OSError: the disk is full or the file cannot be written (from any method).
    """

    def __init__(self, path: Path, tensors: Mapping[str, tuple[str, Shape]], metadata_bytes: int = 0) -> None:
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
        length = len(json.dumps(header)) + metadata_bytes
        self._header, self._length = header, length + -length % 8
        self._path, self._tensors = path, dict(tensors)
        self._start = {name: 8 + self._length + place for name, place in begin.items()}
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            total = 8 + self._length + offset
            if hasattr(os, "posix_fallocate"):
                self._reserve(total)
            os.ftruncate(self._descriptor, total)
        except BaseException:
            self.close()
            raise

    def _reserve(self, total: int) -> None:
        """A full disk is better reported before hours of work than after them."""
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

    def sha256(self) -> str:
        """Hash of everything written so far, without the header."""
        return _sha256(self._path, 8 + self._length)

    def finish(self, metadata: Mapping[str, str] | None = None) -> None:
        """Write the header, flush everything to the disk and close.

        Raises:
            ValueError: the metadata need more room than reserved.
        """
        header = self._header | ({"__metadata__": dict(metadata)} if metadata else {})
        text = json.dumps(header).encode()
        if len(text) > self._length:
            raise ValueError(f"the header needs {len(text)} bytes but only {self._length} are reserved")
        self._write(struct.pack("<Q", self._length) + text.ljust(self._length), 0)
        os.fsync(self._descriptor)
        self.close()

    def close(self) -> None:
        """Close the file; harmless if it is already closed."""
        if self._descriptor >= 0:
            with contextlib.suppress(OSError):
                os.close(self._descriptor)
            self._descriptor = -1


class Header:
    """The header of a safetensors file, and the places of its tensors.

    Args:
        file: at its beginning.
        size: bytes of the whole file.

    Attributes:
        metadata: the strings of the header.
        data_start: offset of the first byte after the header.
        size: bytes of the file.

    Raises:
        ValueError: it is not a safetensors file, is cut off, or has dtypes that `RowFileWriter` does not write.
        OSError: the file cannot be read.
    """

    def __init__(self, file: BinaryIO, size: int) -> None:
        self.size = size
        length = int.from_bytes(file.read(8), "little")
        if not 0 < length <= size - 8:
            raise ValueError("it has no safetensors header")
        header = json.loads(file.read(length))
        self.data_start = end = 8 + length
        self.metadata: dict[str, str] = header.pop("__metadata__", {})
        self._places: dict[str, tuple[np.dtype, Shape, int]] = {}
        for name, entry in header.items():
            try:
                dtype, shape = _NUMPY[entry["dtype"]], tuple(entry["shape"])
                first, last = entry["data_offsets"]
            except (KeyError, TypeError) as error:
                raise ValueError(f"cannot read the header of {name}") from error
            if last - first != math.prod(shape) * dtype.itemsize:
                raise ValueError(f"{name} has another size than its shape")
            end = max(end, self.data_start + last)
            self._places[name] = dtype, shape, self.data_start + first
        if end != size:
            raise ValueError(f"it has {size} bytes instead of {end}")

    @property
    def names(self) -> list[str]:
        """The names of the tensors."""
        return list(self._places)

    def shape(self, name: str) -> Shape:
        """The shape of a tensor."""
        return self._places[name][1]


class RowFile(Header):
    """The tensors of a safetensors file as one memory map: only the requested rows are read.

    Args:
        path: the file.

    Raises:
        ValueError, OSError: as `Header`.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._map: np.ndarray | None = None
        with _MAPS.making_room(lambda: path.open("rb")) as file:
            super().__init__(file, os.fstat(file.fileno()).st_size)

    def rows(self, name: str) -> np.ndarray:
        """A tensor as a read-only memory map."""
        content = self._map
        if content is None:  # mapped on first use: most of many files are opened only for their header
            content = self._map = _MAPS.make(self)
        dtype, shape, start = self._places[name]
        return content[start : start + math.prod(shape) * dtype.itemsize].view(dtype).reshape(shape)

    def sha256(self) -> str:
        """Hash of everything after the header."""
        return _sha256(self._path, self.data_start)

    def release(self) -> None:
        """Release the memory map until the next use."""
        self._map = None

    def mapped(self) -> np.ndarray:
        """The whole file as a new memory map of bytes; raises OSError."""
        with open(self._path, "rb") as file:
            # A tenth of the time of np.memmap; the array keeps the map open.
            return np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)


class _Maps:
    """The mapped files of this process, at most `most_maps`.

    The file to unmap is chosen at random: if files are used in turn, the oldest or least recently used one would always
    be the next that is needed. A map with a current reader is closed once the reader has finished.
    """

    def __init__(self) -> None:
        self._files: list[weakref.ref[RowFile]] = []
        self._gone = 0  # number of these that are no longer used
        self._random = random.Random(0)  # no result depends on it
        self._lock = threading.Lock()

    def make(self, file: RowFile) -> np.ndarray:
        """Map a file.

        Raises:
            AcedError: the process may open no more files, even after releasing all its maps.
            OSError: the file cannot be read.
        """
        with self._lock:
            most = most_maps()
            while len(self._files) >= most:
                self._give_back()
            content = self._made(file.mapped)
            self._files.append(weakref.ref(file, self._count))
        return content

    def making_room(self, opened: Callable[[], T]) -> T:
        """The result of `opened`, releasing maps for it if the process may open no more files; raises as `make`.

        It must not use the maps itself.
        """
        with self._lock:
            return self._made(opened)

    def _made(self, opened: Callable[[], T]) -> T:
        while True:
            try:
                return opened()
            except OSError as error:
                if not is_out_of_files(error):
                    raise
                if not self._files:
                    raise out_of_files() from error
                self._give_back()

    def _count(self, _: object) -> None:
        self._gone += 1

    def _give_back(self) -> None:
        """Forget unused files if there are many, otherwise release one."""
        if 4 * self._gone > len(self._files):
            self._gone, self._files = 0, [one for one in self._files if one() is not None]
            return
        row = self._random.randrange(len(self._files))
        self._files[row], self._files[-1] = self._files[-1], self._files[row]
        if (file := self._files.pop()()) is not None:
            file.release()
        else:
            self._gone -= 1


_MAPS = _Maps()


def _sha256(path: Path, start: int) -> str:
    with open(path, "rb") as file:
        file.seek(start)
        return hashlib.file_digest(file, "sha256").hexdigest()
