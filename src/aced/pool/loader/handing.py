"""Handover of a loading process's result: all its tensors in one block of shared memory.

Each block costs a file in `/dev/shm`, a descriptor on both sides and a message through a socket, so twenty separate
tensors would take twenty times as long to receive.
"""

from __future__ import annotations

import io
import math
import pickle
from multiprocessing.reduction import ForkingPickler
from typing import Any, NamedTuple

import torch
from torch import Tensor

_ALIGNED = 64


class _Place(NamedTuple):
    """Where a tensor is in the block."""

    start: int
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def end(self) -> int:
        return self.start + math.prod(self.shape) * self.dtype.itemsize


class _Pickler(pickle.Pickler):
    """Writes everything except the tensors, whose places it records."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, pickle.HIGHEST_PROTOCOL)
        self.tensors: list[tuple[_Place, Tensor]] = []
        self.size = 0

    def persistent_id(self, obj: Any) -> _Place | None:
        if not isinstance(obj, Tensor):
            return None
        place = _Place(-(-self.size // _ALIGNED) * _ALIGNED, obj.dtype, tuple(obj.shape))
        self.tensors.append((place, obj))
        self.size = place.end
        return place


class _Unpickler(pickle.Unpickler):
    """Restores tensors as views of the block."""

    def __init__(self, file: io.BytesIO, block: Tensor) -> None:
        super().__init__(file)
        self._block = block

    def persistent_load(self, pid: _Place) -> Tensor:
        return self._block[pid.start : pid.end].view(pid.dtype).view(pid.shape)


def dumps(result: object) -> bytes:
    """A result as bytes, with its tensors (which must be on the CPU) in one block of shared memory.

    Raises:
        OSError, RuntimeError: there is no room for the block, or it cannot be shared.
    """
    file = io.BytesIO()
    pickler = _Pickler(file)
    pickler.dump(result)
    # Allocated there directly, so that nothing is copied twice.
    storage = torch.UntypedStorage._new_shared(pickler.size) if pickler.size else torch.UntypedStorage(0)
    block = torch.empty(0, dtype=torch.uint8).set_(storage)
    for place, tensor in pickler.tensors:
        block[place.start : place.end].view(place.dtype).view(place.shape).copy_(tensor)
    return bytes(ForkingPickler.dumps((block if pickler.size else None, file.getvalue())))


def loads(content: bytes) -> Any:
    """The input of `dumps`, in another process; its tensors share one block of memory."""
    block, rest = pickle.loads(content)
    return _Unpickler(io.BytesIO(rest), torch.empty(0, dtype=torch.uint8) if block is None else block).load()
