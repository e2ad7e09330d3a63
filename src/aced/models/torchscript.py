"""The tensors in a TorchScript archive, by their names in its state dict; its code is never run.

Such an archive is a zip of raw numbers, a pickle that assigns them to attributes of modules, and source code. The
pickle is read with access only to what makes tensors; modules become empty objects. The code is only searched for its
lists of parameters and buffers: other tensors (a mask) are not part of a state dict.
"""

from __future__ import annotations

import io
import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_CLASS = re.compile(r"^class (\w+)\(Module\):\n  __parameters__ = \[(.*?)\]\n  __buffers__ = \[(.*?)\]", re.M | re.S)
_TYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
_LISTS = {"build_intlist", "build_doublelist", "build_boollist", "build_tensorlist", "restore_type_tag"}


def is_torchscript(names: Sequence[str]) -> bool:
    """Whether the members of a zip archive are those of a TorchScript archive."""
    return any(re.search(r"(^|/)(constants\.pkl|code/)", name) for name in names)


def read_torchscript(path: Path) -> dict[str, Tensor]:
    """The parameters and buffers of the module in an archive, by their names.

    Raises:
        pickle.UnpicklingError: its pickle holds more than modules and tensors.
        OSError, KeyError, ValueError, RuntimeError, zipfile.BadZipFile: it is damaged.
    """
    with zipfile.ZipFile(path) as archive:
        name = min((name for name in archive.namelist() if name.endswith("data.pkl")), key=len)
        root = name.removesuffix("data.pkl")
        module = _Reader(archive, root).load()
        return dict(_tensors(module, _Source(archive, root), ""))


class _Module:
    """A module without its code: attributes in `__dict__`, the name of its class in `where`."""

    where = ""


class _Reader(pickle.Unpickler):
    """Reads the pickle of an archive; anything but modules, tensors and lists of plain values is refused."""

    def __init__(self, archive: zipfile.ZipFile, root: str) -> None:
        super().__init__(io.BytesIO(archive.read(f"{root}data.pkl")))
        self._archive, self._root = archive, root
        self._read: dict[str, Tensor] = {}

    def find_class(self, module: str, name: str) -> Any:
        """As in `pickle.Unpickler`, for a few harmless names."""
        if module.startswith("__torch__"):
            return type(name, (_Module,), {"where": f"{module}.{name}"})
        if module == "torch" and name in _TYPES:
            return _TYPES[name]
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuilt
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch.jit._pickle" and name in _LISTS:
            return _first
        raise pickle.UnpicklingError(f"GLOBAL {module}.{name}")

    def persistent_load(self, pid: Any) -> Tensor:
        """The numbers of a storage, as stored in the archive."""
        kind, dtype, key, _, count = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype):
            raise pickle.UnpicklingError(f"GLOBAL {kind}")
        if key not in self._read:
            content = bytearray(self._archive.read(f"{self._root}data/{key}"))
            self._read[key] = torch.frombuffer(content, dtype=dtype, count=count) if count else torch.empty(0)
        return self._read[key]


def _rebuilt(storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Tensor:
    return storage.as_strided(size, stride, offset).clone()


def _first(values: Any, *_: Any) -> Any:
    return values


class _Source:
    """Which tensors of a module are parameters and buffers, according to the lists in the archive's code."""

    def __init__(self, archive: zipfile.ZipFile, root: str) -> None:
        self._archive, self._root = archive, root
        self._files: dict[str, dict[str, set[str]]] = {}

    def names(self, where: str) -> set[str] | None:
        """The names of a class's parameters and buffers; None if its code is missing."""
        file, _, name = where.rpartition(".")
        if file not in self._files:
            member = f"{self._root}code/{file.replace('.', '/')}.py"
            found = member in self._archive.namelist()
            code = self._archive.read(member).decode("utf-8", "replace") if found else ""
            self._files[file] = {
                one[1]: set(re.findall(r'"([^"]+)"', f"{one[2]},{one[3]}")) for one in _CLASS.finditer(code)
            }
        return self._files[file].get(name)


def _tensors(module: Any, source: _Source, prefix: str) -> Iterator[tuple[str, Tensor]]:
    if not isinstance(module, _Module):
        return
    names = source.names(module.where)
    for name, value in vars(module).items():
        if isinstance(value, Tensor) and (names is None or name in names):
            yield f"{prefix}{name}", value
        elif isinstance(value, _Module):
            yield from _tensors(value, source, f"{prefix}{name}.")
