"""Rows of many tensors packed as rows of bytes, so that all data of a pair travels in one piece."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TypeVar

import torch
from torch import Tensor

K = TypeVar("K")


def packed(tensors: Mapping[K, Tensor]) -> Tensor:
    """Tensors `[n, ...]` of any types on one device, side by side: `[n, bytes of a row]` uint8."""
    parts = []
    for values in tensors.values():
        flat = values.contiguous()
        flat = flat.as_strided((flat.numel(),), (1,))  # a dimension of one element may have any stride
        parts.append(flat.view(torch.uint8).view(len(values), math.prod(values.shape[1:]) * values.itemsize))
    return torch.cat(parts, 1)


def unpacked(rows: Tensor, like: Mapping[K, Tensor]) -> dict[K, Tensor]:
    """The tensors again, with this number of rows; names, types and all other sizes are those of `like`."""
    found, end = {}, 0
    for key, values in like.items():
        start, end = end, end + math.prod(values.shape[1:]) * values.dtype.itemsize
        part = rows[:, start:end].clone(memory_format=torch.contiguous_format).flatten()  # types need aligned bytes
        found[key] = part.view(values.dtype).view(len(rows), *values.shape[1:])
    return found
