"""The precision of models: the meaning of `auto` on a device, autocast, and temporary TensorFloat-32.

TensorFloat-32 rounds the factors of a float32 product to 10 mantissa bits; bfloat16 keeps 7, float16 10.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, get_args

import torch

from aced.errors import AcedError, nearest

Precision = Literal["fp32", "bf16", "fp16"]
"""`fp32`: as the weights are. `bf16`, `fp16`: under autocast; embeddings are normalised and compared in float32."""
AskedPrecision = Literal["auto", "fp32", "bf16", "fp16"]
"""The values that a user may request, see `find_precision`."""

TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
"""The types of autocast; none for `fp32`."""
_AMPERE = (8, 0)
"""Compute capability from which NVIDIA's GPUs multiply bfloat16 and TensorFloat-32 in hardware."""


def check_precision(text: str) -> AskedPrecision:
    """A word of the command line as one of the values; raises AcedError, with the nearest, for any other."""
    for known in get_args(AskedPrecision):
        if text == known:
            return known
    raise AcedError(f"There is no precision '{text}'.{nearest(text, get_args(AskedPrecision))}")


def find_precision(asked: AskedPrecision, device: torch.device) -> Precision:
    """The precision that a name means; `auto` is bf16 on a GPU with hardware support, otherwise fp32."""
    if asked != "auto":
        return asked
    return "bf16" if device.type == "cuda" and _multiplies_bf16(device) else "fp32"


def find_tf32(asked: bool | Literal["auto"], precision: Precision, device: torch.device) -> bool:
    """Whether float32 products may use TensorFloat-32; `auto`: if embeddings are already rounded as coarsely."""
    return device.type == "cuda" and (precision != "fp32" if asked == "auto" else asked)


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """The towers' precision; weights, losses and scores stay in float32."""
    return torch.autocast(device.type, TYPES.get(precision), enabled=precision in TYPES)


@contextmanager
def tensor_float(allowed: bool, device: torch.device) -> Iterator[None]:
    """Allow or forbid TensorFloat-32 in float32 matrix products inside; torch's switches are restored afterwards.

    Convolutions keep cuDNN's own switch. On other devices than a GPU nothing changes.
    """
    if device.type != "cuda":
        yield
        return
    matmul = torch.backends.cuda.matmul
    newer = getattr(matmul, "fp32_precision", None)  # torch has had two sets of switches since 2.9
    try:
        general = torch.get_float32_matmul_precision()
    except RuntimeError:  # both have been used
        general = "highest"
    matmul.allow_tf32 = allowed  # unlike the other switches it does not affect the CPU
    try:
        yield
    finally:
        matmul.allow_tf32 = general != "highest"
        if general == "medium":
            torch.set_float32_matmul_precision(general)
        if newer is not None:
            matmul.fp32_precision = newer


def _multiplies_bf16(device: torch.device) -> bool:
    # torch.cuda.is_bf16_supported() counts emulation too, which is slower than float32.
    return torch.version.hip is not None or torch.cuda.get_device_capability(device) >= _AMPERE
