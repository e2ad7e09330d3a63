"""Scenes to pixels: signed distances over a batch, anti-aliased, textured, with a little noise.

Only additions, products, comparisons, roundings and square roots touch the pixels: these give the same bits however the
batch is cut, which transcendental functions do not guarantee.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Literal

import torch
from torch import Tensor

from aced.lab.scenes import world
from aced.lab.scenes.world import COLOUR, COUNT, FIRST, GROUND, IMAGE_SIZE, POSITION, SHAPE, SIZE, TEXTURE

CHUNK = 256
"""Number of scenes rendered at once: the working set then stays in the processor's cache."""

_PIXELS = IMAGE_SIZE**2
_COLOURS = torch.tensor(list(world.COLOURS.values()), dtype=torch.float32)
_GROUNDS = torch.tensor(list(world.BACKGROUNDS.values()), dtype=torch.float32)
_RADII = torch.tensor(list(world.SIZES.values()))
_DIRECTIONS = torch.tensor([(-1.0, 0.0), (1.0, 0.0), (0.0, -1.0), (0.0, 1.0), (0.0, 0.0)])

_SHIFT, _ANGLE, _SCALE = 0.6, 0.08, 0.05
"""Range of the jitter: pixels, radians, share of the radius."""
_SHADE, _GROUND_SHADE, _SLOPE, _NOISE = 12.0, 6.0, 5.0, 5.0
"""Range of the shades and the slope, and standard deviation of the noise, in levels of 255."""
_DARK = 0.4
"""Remaining share of an object's colour in the dark parts of its texture."""


def render(
    plan: world.ScenePlan,
    style: Literal["paint", "sketch"] = "paint",
    progress: Callable[[int, int], None] | None = None,
    chunk: int = CHUNK,
) -> Tensor:
    """Render n scenes.

    Args:
        plan: the n scenes.
        style: `paint` for full pictures, `sketch` for light outlines on black.
        progress: called with (scenes done, n) from time to time.
        chunk: scenes rendered at once; does not change the result.

    Returns:
        `[n, 3, IMAGE_SIZE, IMAGE_SIZE]` uint8.
    """
    images = torch.empty(len(plan), 3, IMAGE_SIZE, IMAGE_SIZE, dtype=torch.uint8)
    for start in range(0, len(plan), chunk):
        part = plan[start : start + chunk]
        pixels = _ground(part) if style == "paint" else torch.full((len(part), 3, _PIXELS), 12.0)
        for k in (0, 1):
            rows = (part.attributes[:, COUNT] > k).nonzero().squeeze(1)
            if len(rows):
                pixels[rows] = _draw_object(pixels[rows], part[rows], k, style)
        pixels += _NOISE * noise(part.tape)
        images[start : start + chunk] = to_bytes(pixels)
        if progress is not None:
            progress(min(start + chunk, len(plan)), len(plan))
    return images


def noise(offsets: Tensor) -> Tensor:
    """`[n]` offsets into the noise tape to `[n, 3, IMAGE_SIZE ** 2]` of roughly standard normal noise."""
    return _tape().unfold(0, 3 * _PIXELS, 1)[offsets].reshape(-1, 3, _PIXELS)


def to_bytes(pixels: Tensor) -> Tensor:
    """`[n, 3, IMAGE_SIZE ** 2]` levels of 255 to `[n, 3, IMAGE_SIZE, IMAGE_SIZE]` uint8."""
    return pixels.round().clamp(0, 255).to(torch.uint8).reshape(-1, 3, IMAGE_SIZE, IMAGE_SIZE)


@cache
def _tape() -> Tensor:
    return torch.randn(world.TAPE, generator=world.generator("tape"))


@cache
def _grid() -> tuple[Tensor, Tensor]:
    """x and y of every pixel's middle, `[IMAGE_SIZE ** 2]` each, zero at the middle of the picture."""
    line = torch.arange(IMAGE_SIZE) - (IMAGE_SIZE - 1) / 2
    return line.repeat(IMAGE_SIZE), line.repeat_interleave(IMAGE_SIZE)


def _ground(part: world.ScenePlan) -> Tensor:
    """The backgrounds, `[m, 3, pixels]`: a shade of the colour with a slight slope."""
    x, y = _grid()
    shade = _GROUNDS[part.attributes[:, GROUND]] + _GROUND_SHADE * part.light[:, :3]
    slope = part.light[:, 3:] * (_SLOPE / IMAGE_SIZE * 2)
    return shade[:, :, None] + (slope[:, :1] * x + slope[:, 1:] * y)[:, None]


def _draw_object(pixels: Tensor, part: world.ScenePlan, k: int, style: str) -> Tensor:
    """Lay object k of each scene over the pixels `[m, 3, pixels]`."""
    block = part.attributes[:, FIRST + k * world.BLOCK : FIRST + (k + 1) * world.BLOCK]
    jitter = part.jitter[:, k]
    radius = _RADII[block[:, SIZE]] * (1 + _SCALE * jitter[:, 3])
    single = (IMAGE_SIZE - 1) / 2 - _RADII[block[:, SIZE]]
    reach = torch.where(part.attributes[:, COUNT] == 2, IMAGE_SIZE / 4, single.clamp(min=5.0))
    centre = _DIRECTIONS[block[:, POSITION]] * reach[:, None] + _SHIFT * jitter[:, :2]
    # In double precision, so that the last bit of sine and cosine, which may depend on the batch, is cut off.
    angle = (_ANGLE * jitter[:, 2]).double()
    cos, sin = angle.cos().float()[:, None], angle.sin().float()[:, None]
    x, y = (axis - centre[:, i, None] for i, axis in enumerate(_grid()))
    x, y = x * cos + y * sin, y * cos - x * sin
    distance = _distances(x / radius[:, None], y / radius[:, None], block[:, SHAPE]) * radius[:, None]
    if style == "sketch":
        # The line lies inside the shape: outside, a sharp corner's distance is only a lower bound.
        cover = torch.minimum(0.5 - distance, distance + 2.3).clamp(0, 1)
        return pixels + cover[:, None] * (225.0 - pixels)
    colour = _COLOURS[block[:, COLOUR]] + _SHADE * jitter[:, 4:]
    paint = colour[:, :, None] * _textures(x, y, block[:, TEXTURE])[:, None]
    return pixels + (0.5 - distance).clamp(0, 1)[:, None] * (paint - pixels)


def _distances(u: Tensor, v: Tensor, shapes: Tensor) -> Tensor:
    """Signed distances `[m, pixels]`, in radii, to shapes of radius 1 at the origin (v points down)."""
    out = torch.empty_like(u)
    for index, name in enumerate(world.SHAPES):
        rows = (shapes == index).nonzero().squeeze(1)
        if len(rows):
            out[rows] = _SHAPE_DISTANCES[name](u[rows], v[rows])
    return out


def _circle(u: Tensor, v: Tensor) -> Tensor:
    return (u * u + v * v).sqrt() - 0.95


def _square(u: Tensor, v: Tensor) -> Tensor:
    return torch.maximum(u.abs(), v.abs()) - 0.82


def _triangle(u: Tensor, v: Tensor) -> Tensor:
    return torch.maximum(v - 0.72, 0.855 * u.abs() - 0.518 * (v + 1.0))


def _diamond(u: Tensor, v: Tensor) -> Tensor:
    return 0.81 * u.abs() + 0.586 * v.abs() - 0.62


def _ring(u: Tensor, v: Tensor) -> Tensor:
    return ((u * u + v * v).sqrt() - 0.7).abs() - 0.25


def _cross(u: Tensor, v: Tensor) -> Tensor:
    long, short = torch.maximum(u.abs(), v.abs()), torch.minimum(u.abs(), v.abs())
    return torch.maximum(long - 0.98, short - 0.3)


def _star(u: Tensor, v: Tensor) -> Tensor:
    """Five points: fold the plane into half of one point, then measure to that point's one edge."""
    u, v = u.abs(), -v
    for cos, sin in ((0.809017, -0.587785), (-0.809017, -0.587785)):
        beyond = 2 * (u * cos + v * sin).clamp(min=0)
        u, v = u - beyond * cos, v - beyond * sin
    # The edge from the tip (0, 1.08) to the notch at radius .45 and 36 degrees.
    return 0.938 * u.abs() + 0.3466 * (v - 1.08)


def _crescent(u: Tensor, v: Tensor) -> Tensor:
    outer = (u * u + v * v).sqrt() - 0.97
    bite = 0.78 - ((u - 0.5) * (u - 0.5) + v * v).sqrt()
    return torch.maximum(outer, bite)


_SHAPE_DISTANCES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "diamond": _diamond,
    "ring": _ring,
    "cross": _cross,
    "star": _star,
    "crescent": _crescent,
}


def _textures(x: Tensor, y: Tensor, textures: Tensor) -> Tensor:
    """How bright the paint is at every pixel, `[m, pixels]` in [_DARK, 1]."""
    out = torch.ones_like(x)
    for index, name in enumerate(world.TEXTURES):
        rows = (textures == index).nonzero().squeeze(1)
        if len(rows) and name != "plain":
            out[rows] -= (1 - _DARK) * _TEXTURE_COVERS[name](x[rows], y[rows])
    return out


def _wave(x: Tensor, period: float) -> Tensor:
    """A square wave between 0 and 1 with edges one pixel wide; 0 at the origin."""
    phase = x / period
    return ((phase - phase.round()).abs() * 2 * period - period / 2 + 0.5).clamp(0, 1)


def _striped(x: Tensor, y: Tensor) -> Tensor:
    return _wave(y, 4.5)


def _dotted(x: Tensor, y: Tensor) -> Tensor:
    period = 5.0
    x, y = x - period * (x / period).round(), y - period * (y / period).round()
    return (1.75 - (x * x + y * y).sqrt()).clamp(0, 1)


def _checked(x: Tensor, y: Tensor) -> Tensor:
    a, b = _wave(x - 1.75, 7.0), _wave(y - 1.75, 7.0)
    return a + b - 2 * a * b


_TEXTURE_COVERS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "striped": _striped,
    "dotted": _dotted,
    "checked": _checked,
}
