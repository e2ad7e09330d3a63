"""How embeddings are stored: float32, float16, or int8 with a scale for each block of a row.

int8 is symmetric: in each block of 64 dimensions the largest absolute value becomes 127. Each block has its own scale,
not each row: in large CLIP models a few dimensions are ten times as large as all others, and one scale per row would
leave the rest only a handful of levels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from aced.files.tensorfile import Shape

Dtype = Literal["float32", "float16", "int8"]
DTYPES: tuple[str, ...] = get_args(Dtype)
BLOCK = 64
"""Dimensions of an int8 row that share a scale."""


def layout(name: str, rows: Shape, d: int, dtype: str) -> dict[str, tuple[str, Shape]]:
    """The tensors that hold embeddings `[*rows, d]`: (dtype, shape) by name; int8 has `<name>_scale` as well."""
    tensors: dict[str, tuple[str, Shape]] = {name: (dtype, (*rows, d))}
    if dtype == "int8":
        tensors[f"{name}_scale"] = ("float16", (*rows, -(-d // BLOCK)))
    return tensors


def row_bytes(d: int, dtype: str) -> int:
    """Bytes of one embedding."""
    return d + 2 * -(-d // BLOCK) if dtype == "int8" else d * np.dtype(dtype).itemsize


def encode(name: str, rows: Tensor, dtype: str) -> dict[str, np.ndarray]:
    """`[..., d]` embeddings to the arrays of `layout`."""
    values = rows.detach().float().cpu().numpy()
    if dtype != "int8":
        return {name: values.astype(dtype)}
    blocks = _blocks(values)
    scale = (np.abs(blocks).max(axis=-1) / 127).astype(np.float16)
    # Divided by the scale as stored, so that its rounding adds no further error; 0 / 0 is a block of zeros.
    safe = np.where(scale == 0, np.float16(1), scale).astype(np.float32)
    whole = np.clip(np.rint(blocks / safe[..., None]), -127, 127).astype(np.int8)
    return {name: _rows(whole, values.shape[-1]), f"{name}_scale": scale}


def decode(name: str, stored: Mapping[str, np.ndarray], dtype: str) -> Tensor:
    """The arrays of `layout` to `[..., d]` float32 embeddings, of unit length if storing changed it."""
    if dtype != "int8":
        rows = torch.from_numpy(np.ascontiguousarray(stored[name])).float()
    else:
        values = stored[name].astype(np.float32)
        blocks = _blocks(values) * stored[f"{name}_scale"].astype(np.float32)[..., None]
        rows = torch.from_numpy(np.ascontiguousarray(_rows(blocks, values.shape[-1])))
    # Rounding to 16 bits changes the length of a row by up to 1e-3, rounding to 8 bits by more.
    return rows if dtype == "float32" else torch.nn.functional.normalize(rows, dim=-1)


def _blocks(values: np.ndarray) -> np.ndarray:
    """`[..., d]` to `[..., ceil(d / BLOCK), BLOCK]`, padded with zeros."""
    d = values.shape[-1]
    missing = -d % BLOCK
    padded = np.pad(values, [(0, 0)] * (values.ndim - 1) + [(0, missing)]) if missing else values
    return padded.reshape(*values.shape[:-1], -(-d // BLOCK), BLOCK)


def _rows(blocks: np.ndarray, d: int) -> np.ndarray:
    """The inverse."""
    return blocks.reshape(*blocks.shape[:-2], blocks.shape[-2] * BLOCK)[..., :d]
