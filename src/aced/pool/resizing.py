"""The two resizers: Pillow's, whose pixels equal open_clip's, and torch's, which is several times faster."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

Interpolation = Literal["bicubic", "bilinear", "nearest"]
Resize = Callable[[np.ndarray, tuple[int, int], Interpolation], np.ndarray]
"""`[H, W, 3]` uint8, (width, height) and a filter to `[height, width, 3]` uint8."""

_FILTERS = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "nearest": Image.Resampling.NEAREST,
}


def by_pillow(image: np.ndarray, size: tuple[int, int], interpolation: Interpolation) -> np.ndarray:
    """Pillow's `resize`: the pixels of open_clip's inference transform and of CLIP_benchmark."""
    return np.asarray(Image.fromarray(image).resize(size, _FILTERS[interpolation]))


def by_torch(image: np.ndarray, size: tuple[int, int], interpolation: Interpolation) -> np.ndarray:
    """Torch's vectorised uint8 kernels, which compute Pillow's filter with weights of 16 bits instead of 22.

    Few values differ from Pillow's, nearly all of them by one level of 255 (`benchmarks/loader.py --only pixels` counts
    them). When a side grows, more would differ and little time would be saved: then, and for `nearest`, Pillow is used.
    """
    width, height = size
    tall, wide = image.shape[:2]
    if interpolation == "nearest" or width > wide or height > tall:
        return by_pillow(image, size, interpolation)
    # torch accepts neither Pillow's read-only memory nor a crop's strides directly.
    pixels = torch.from_numpy(np.require(image, requirements=("C", "W"))).permute(2, 0, 1)[None]
    if tall - height > 2 * (wide - width):
        # Each pass rounds to whole levels, so their order matters: here Pillow 13 shrinks the height first.
        pixels = F.interpolate(pixels, size=(height, wide), mode=interpolation, antialias=True)
    resized = F.interpolate(pixels, size=(height, width), mode=interpolation, antialias=True)
    return resized[0].permute(1, 2, 0).numpy()
