"""Logits of a few chosen pairs with many candidates, computed in the best way for the device.

A CPU multiplies in float32, whatever the embeddings' type. A GPU multiplies bfloat16 and float16 many times faster on
its tensor cores: the product of two such numbers is exact in float32, and their sum is kept in float32, so it is the
same sum in another order. float32 embeddings are multiplied in float32 on both; TensorFloat-32, which rounds them, is
left to torch's own switch (`torch.set_float32_matmul_precision`).

Shapes: r rows of the candidates, c chosen, d the embedding width.
"""

from __future__ import annotations

import torch
from torch import Tensor

_NARROW = (torch.bfloat16, torch.float16)
_TENSOR_CORES = (8, 0)
"""Minimum compute capability for bfloat16 on tensor cores."""


def write_logits(out: Tensor, chosen: Tensor, rows: Tensor, scale: Tensor) -> None:
    """Write `scale * chosen @ rows.T` into `out`, `[c, r]` float32; without gradient.

    Args:
        out: contiguous.
        chosen: `[c, d]`, of the type of `rows`, or its values in a wider one.
        rows: `[r, d]` embeddings.
        scale: logit scale, without dimensions.
    """
    if multiplies_narrow(rows):
        # The scale comes afterwards: multiplied into either side it would be rounded once more.
        torch.mul(narrow_product(chosen.to(rows.dtype), rows.T), scale, out=out)
    else:
        torch.mm(chosen.float() * scale, rows.float().T, out=out)


def multiplies_narrow(values: Tensor) -> bool:
    """Whether products of these are taken in their own type, with float32 sums: on tensor cores, from torch 2.8."""
    return (
        values.is_cuda
        and values.dtype in _NARROW
        and torch.version.hip is None
        and "dtype" in _mm_overloads()
        and torch.cuda.get_device_capability(values.device) >= _TENSOR_CORES
    )


def _mm_overloads() -> list[str]:
    names: list[str] = torch.ops.aten.mm.overloads()
    return names


def narrow_product(rows: Tensor, other: Tensor) -> Tensor:
    """`[r, d] @ [d, c]` of bfloat16 or float16, summed in float32 and not rounded back."""
    return torch.mm(rows, other, out_dtype=torch.float32)
