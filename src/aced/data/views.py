"""Views: how a tower wants to see a raw image, before normalisation.

A tower's preprocessing has two halves. The geometric half (resize, crop) is a `View`; the reader applies it to
the raw uint8 image, in a worker process where there is one, so that the super-batch travels as uint8. The other
half (scaling to floats, mean and standard deviation) belongs to the tower and runs on its device. Together they
are open_clip's inference transform.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

_RESAMPLE = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "nearest": Image.Resampling.NEAREST,
}


@dataclass(frozen=True, order=True)
class View:
    """A square image of `size` pixels, made as open_clip's inference transform makes it.

    Attributes:
        size: side in pixels.
        mode: `shortest` resizes the shorter side and crops the centre (CLIP); `squash` resizes both (SigLIP).
        interpolation: Pillow's resampling filter.
    """

    size: int
    mode: Literal["shortest", "squash"] = "shortest"
    interpolation: Literal["bicubic", "bilinear", "nearest"] = "bicubic"

    def apply(self, image: np.ndarray) -> np.ndarray:
        """`[H, W, 3]` uint8 to `[3, size, size]` uint8, pixel for pixel what open_clip's transform gives."""
        size = self.size
        height, width = image.shape[:2]
        if (height, width) != (size, size):
            if self.mode == "squash":
                target = (size, size)
            elif width <= height:
                target = (size, int(size * height / width))
            else:
                target = (int(size * width / height), size)
            if (width, height) != target:
                image = np.asarray(Image.fromarray(image).resize(target, _RESAMPLE[self.interpolation]))
            top = round((image.shape[0] - size) / 2)
            left = round((image.shape[1] - size) / 2)
            image = image[top : top + size, left : left + size]
        return np.ascontiguousarray(image.transpose(2, 0, 1))
