"""Views: the geometry in which a tower sees a raw image, before normalisation.

A tower's preprocessing has two halves. The geometric half (resize, crop) is a `View`; the reader applies it to the raw
uint8 image, in a worker process if there is one, so that the super-batch travels as uint8. The other half (scaling to
floats, mean and standard deviation) belongs to the tower and runs on its device. Together they are open_clip's
inference transform.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from aced.pool.resizing import Interpolation, Resize, by_pillow


@dataclass(frozen=True, order=True)
class View:
    """A square image of `size` pixels, made like open_clip's inference transform.

    Attributes:
        size: side in pixels.
        mode: `shortest` resizes the shorter side and crops the centre (CLIP); `squash` resizes both (SigLIP).
        interpolation: Pillow's resampling filter.
        crop: 0 for the whole image; k > 0 for crop number k, see `crop_box`.
    """

    size: int
    mode: Literal["shortest", "squash"] = "shortest"
    interpolation: Interpolation = "bicubic"
    # Not in the repr, which a tower's fingerprint uses: crops are not part of a tower's preprocessing.
    crop: int = field(default=0, repr=False)

    def cropped(self, crop: int) -> View:
        """The same view of crop number `crop`."""
        return replace(self, crop=crop)

    @property
    def least(self) -> int:
        """Minimum short side of an image, in pixels, so that no part of this view is enlarged."""
        return math.ceil(self.size / _SIDES[0]) if self.crop else self.size

    def apply(self, image: np.ndarray, resize: Resize = by_pillow) -> np.ndarray:
        """`[H, W, 3]` uint8 to `[3, size, size]` uint8; with Pillow, pixel for pixel as open_clip's transform."""
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
                image = resize(image, target, self.interpolation)
            top = round((image.shape[0] - size) / 2)
            left = round((image.shape[1] - size) / 2)
            image = image[top : top + size, left : left + size]
        return np.ascontiguousarray(image.transpose(2, 0, 1))


def image_bytes(views: Iterable[View]) -> int:
    """Bytes of one image in all of these views."""
    return sum(3 * view.size**2 for view in views)


_SIDES = (0.6, 0.9)
"""Sides of crops relative to the image's: small enough to differ, large enough to fit the caption."""
_STEPS = (0.8191725133961645, 0.6710436067037893, 0.5497004779019703)
"""1/g, 1/g^2, 1/g^3 with g^4 = g + 1: multiples of these fill a cube evenly (Roberts' R3 sequence)."""


def crop_box(crop: int, height: int, width: int) -> tuple[int, int, int, int]:
    """Crop number k >= 1 of an image as (top, left, height, width) in pixels.

    Both sides are shortened to the same share in [0.6, 0.9), so that the aspect ratio stays. Share and position are
    point k of a sequence that spreads evenly, whatever the number of crops: crop k is the same part of every image, for
    every tower.
    """
    side, down, right = (crop * step % 1 for step in _STEPS)
    share = _SIDES[0] + (_SIDES[1] - _SIDES[0]) * side
    tall, wide = max(1, round(share * height)), max(1, round(share * width))
    return int(down * (height - tall + 1)), int(right * (width - wide + 1)), tall, wide
