"""Views: how a tower wants to see a raw image, before normalisation.

A tower's preprocessing has two halves. The geometric half (resize, crop) is a `View`; the reader applies it to
the raw uint8 image, in a worker process where there is one, so that the super-batch travels as uint8. The other
half (scaling to floats, mean and standard deviation) belongs to the tower and runs on its device. Together they
are open_clip's inference transform.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
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
        crop: 0 for the whole image; k > 0 for crop number k, see `crop_box`.
    """

    size: int
    mode: Literal["shortest", "squash"] = "shortest"
    interpolation: Literal["bicubic", "bilinear", "nearest"] = "bicubic"
    # Not in the repr, which a tower's fingerprint is made from: crops are no part of a tower's preprocessing.
    crop: int = field(default=0, repr=False)

    def cropped(self, crop: int) -> View:
        """The same view of crop number `crop`."""
        return replace(self, crop=crop)

    def apply(self, image: np.ndarray) -> np.ndarray:
        """`[H, W, 3]` uint8 to `[3, size, size]` uint8, pixel for pixel what open_clip's transform gives."""
        size = self.size
        if self.crop:
            top, left, height, width = crop_box(self.crop, *image.shape[:2])
            image = image[top : top + height, left : left + width]
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


_LEAST_SIDE = 0.7
"""Smallest side of a crop relative to the image's."""


def crop_box(crop: int, height: int, width: int) -> tuple[int, int, int, int]:
    """Crop number k >= 1 of an image as (top, left, height, width) in pixels.

    Both sides are shortened to the share s in [0.7, 1), so that the aspect ratio stays, and the place is uniform. s and
    the place follow from k alone: crop k is the same part of every image, for every tower.
    """
    digest = hashlib.sha256(f"aced crop {crop}".encode()).digest()
    side, down, right = (int.from_bytes(digest[i : i + 4], "little") / 2**32 for i in (0, 4, 8))
    share = _LEAST_SIDE + (1 - _LEAST_SIDE) * side
    tall, wide = max(1, round(share * height)), max(1, round(share * width))
    return int(down * (height - tall + 1)), int(right * (width - wide + 1)), tall, wide
