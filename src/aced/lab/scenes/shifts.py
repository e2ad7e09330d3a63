"""Corrupted or shifted images, for the pool's noisy samples and the shifted tasks."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from aced.lab.scenes import render, world
from aced.lab.scenes.world import IMAGE_SIZE

_LUMINANCE = (0.299, 0.587, 0.114)
_HEAVY_NOISE = 90.0
"""Standard deviation of noise that nearly hides an image, in levels of 255."""


def grey(images: Tensor) -> Tensor:
    """`[n, 3, h, w]` uint8 without its colours: three equal channels of luminance."""
    red, green, blue = (weight * images[:, i].float() for i, weight in enumerate(_LUMINANCE))
    return (red + green + blue).round().to(torch.uint8)[:, None].repeat(1, 3, 1, 1)


def add_noise(images: Tensor, level: float, draw: torch.Generator) -> Tensor:
    """`[n, 3, 32, 32]` uint8 under normal noise of this standard deviation, in levels of 255."""
    offsets = torch.randint(world.TAPE - 3 * IMAGE_SIZE**2, (len(images),), generator=draw)
    return render.to_bytes(images.flatten(2) + level * render.noise(offsets))


def spoil(images: Tensor, draw: torch.Generator) -> Tensor:
    """Each of `[n, 3, 32, 32]` uint8 under heavy noise, mostly covered, or blurred beyond recognition."""
    choice = torch.randint(3, (len(images),), generator=draw)
    corners = torch.rand(len(images), 5, generator=draw)
    options = (add_noise(images, _HEAVY_NOISE, draw), _cover(images, corners), _blur(images))
    out = torch.empty_like(images)
    for index, option in enumerate(options):
        out[choice == index] = option[choice == index]
    return out


def _cover(images: Tensor, corners: Tensor) -> Tensor:
    """A one-coloured rectangle of 20 to 24 pixels a side over each picture; `corners` `[n, 5]` in [0, 1)."""
    size = 20 + (5 * corners[:, 2]).long()
    left, top = ((corners[:, :2] * (IMAGE_SIZE + 1 - size)[:, None]).long()).unbind(1)
    line = torch.arange(IMAGE_SIZE)
    inside_x = (line >= left[:, None]) & (line < (left + size)[:, None])
    inside_y = (line >= top[:, None]) & (line < (top + size)[:, None])
    inside = (inside_y[:, :, None] & inside_x[:, None, :])[:, None]
    shade = (60 + 120 * corners[:, 2:]).to(torch.uint8)[:, :, None, None]
    return torch.where(inside, shade, images)


def _blur(images: Tensor) -> Tensor:
    """Means over 15 x 15 pixels, which leave a smear of colour."""
    padded = F.pad(images.float(), (7, 7, 7, 7), mode="replicate")
    return F.avg_pool2d(padded, 15, stride=1).round().to(torch.uint8)
