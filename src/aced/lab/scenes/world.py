"""The world of the scenes: its objects and attributes, and the draw of a scene's true parameters.

A scene is one row of `ScenePlan.attributes` (what the caption may mention) and one row of each of the other tensors
(what it may not: jitter, shades, noise). All randomness of a scene is drawn here, before any pixel is made, so that an
image does not depend on how many are rendered at once.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

VERSION = 2
"""Increased whenever the same seed would give another image or caption."""

IMAGE_SIZE = 32

SHAPES = ("circle", "square", "triangle", "diamond", "ring", "cross", "star", "crescent")
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (228, 40, 40),
    "orange": (250, 140, 25),
    "yellow": (250, 230, 45),
    "green": (50, 200, 65),
    "cyan": (50, 220, 230),
    "blue": (65, 110, 255),
    "purple": (150, 80, 240),
    "magenta": (240, 35, 185),
    "pink": (255, 160, 190),
    "white": (245, 245, 245),
}
BACKGROUNDS: dict[str, tuple[int, int, int]] = {
    "black": (6, 6, 6),
    "navy": (6, 8, 78),
    "maroon": (72, 4, 10),
    "forest": (2, 48, 10),
    "plum": (54, 4, 62),
    "slate": (40, 44, 48),
}
"""All about equally dark: shapes are learnt several times faster from luminance that means "object"."""
SIZES: dict[str, float] = {"small": 6.0, "medium": 8.5, "large": 12.0}
TEXTURES = ("plain", "striped", "dotted", "checked")
POSITIONS = ("left", "right", "top", "bottom", "centre")

GROUND, COUNT = 0, 1
"""Columns of `ScenePlan.attributes`: the background, and the number of objects (1 or 2)."""
SHAPE, COLOUR, SIZE, TEXTURE, POSITION = range(5)
"""Columns within an object's block of `ScenePlan.attributes`."""
BLOCK = 5
FIRST, SECOND = 2, 2 + BLOCK
WIDTH = 2 + 2 * BLOCK

OPPOSITE = torch.tensor([1, 0, 3, 2])
"""The second object's position, given the first one's; two objects are never at the centre."""

TWO_OBJECTS = 0.15
TAPE = 1 << 20
"""Length of the noise tape: a scene's pixel noise is the stretch of it that starts at the scene's offset."""

HELD_OUT: frozenset[tuple[int, int]] = frozenset(
    ((3 * shape + 1) % len(COLOURS), shape) for shape in range(len(SHAPES))
)
"""(colour, shape) pairs, one for each shape, that only the task of unseen combinations shows."""

_ALL = [(colour, shape) for colour in range(len(COLOURS)) for shape in range(len(SHAPES))]
SEEN = [pair for pair in _ALL if pair not in HELD_OUT]
UNSEEN = [pair for pair in _ALL if pair in HELD_OUT]
ALL_PAIRS = SEEN + UNSEEN


@dataclass(frozen=True)
class ScenePlan:
    """The true parameters of n scenes.

    Attributes:
        attributes: `[n, WIDTH]` int64: background, number of objects, then shape, colour, size, texture and
            position of each of two objects; the second block is -1 where there is no second object.
        jitter: `[n, 2, 7]` in [-1, 1] for each object: x, y, angle, radius, and three shades.
        light: `[n, 5]` in [-1, 1]: three shades of the background and its slope along x and y.
        tape: `[n]` int64 offsets into the noise tape.
    """

    attributes: Tensor
    jitter: Tensor
    light: Tensor
    tape: Tensor

    def __len__(self) -> int:
        return self.attributes.shape[0]

    def __getitem__(self, rows: Tensor | slice) -> ScenePlan:
        """The chosen scenes only."""
        return ScenePlan(self.attributes[rows], self.jitter[rows], self.light[rows], self.tape[rows])


def named_seed(*parts: object) -> int:
    """A 63-bit seed from a name, so that streams of different names are independent."""
    text = "/".join(str(part) for part in (VERSION, *parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(*parts: object) -> torch.Generator:
    """A CPU generator for the stream of this name."""
    return torch.Generator().manual_seed(named_seed(*parts))


def sample(n: int, draw: torch.Generator, unseen: bool = False, single: bool = False) -> ScenePlan:
    """Draw n scenes.

    Args:
        n: number of scenes.
        draw: where the randomness comes from.
        unseen: take the (colour, shape) pairs that are held out everywhere else; one object each.
        single: one object in every scene.
    """
    two = torch.rand(n, generator=draw) < (0.0 if single or unseen else TWO_OBJECTS)
    attributes = torch.full((n, WIDTH), -1)
    attributes[:, GROUND] = torch.randint(len(BACKGROUNDS), (n,), generator=draw)
    attributes[:, COUNT] = 1 + two.long()
    pairs = torch.tensor(UNSEEN if unseen else SEEN)
    first = torch.randint(len(pairs), (n,), generator=draw)
    second = first if unseen else _other_pair(first, torch.rand(n, generator=draw))
    # Two objects fit side by side only if they are not large, and a relation needs them off the centre.
    sizes = torch.rand(n, 2, generator=draw) * torch.where(two, len(SIZES) - 1, len(SIZES))[:, None]
    position = (torch.rand(n, generator=draw) * torch.where(two, 4, len(POSITIONS))).long()
    textures = torch.randint(len(TEXTURES), (n, 2), generator=draw)
    for k, (block, pair) in enumerate(((FIRST, first), (SECOND, second))):
        values = torch.empty(n, BLOCK, dtype=torch.int64)
        values[:, COLOUR], values[:, SHAPE] = pairs[pair].unbind(1)
        values[:, SIZE] = sizes[:, k].long()
        values[:, TEXTURE] = textures[:, k]
        values[:, POSITION] = position if k == 0 else OPPOSITE[position.clamp(max=3)]
        attributes[:, block : block + BLOCK] = values if k == 0 else torch.where(two[:, None], values, -1)
    return ScenePlan(attributes, _uniform(draw, n, 2, 7), _uniform(draw, n, 5), _offsets(n, draw))


def redraw(plan: ScenePlan, draw: torch.Generator, spread: float) -> ScenePlan:
    """The same scenes again with a new noise and a jitter that moves by at most `spread` (of its range)."""
    jitter = plan.jitter + spread * _uniform(draw, *plan.jitter.shape)
    light = plan.light + spread * _uniform(draw, *plan.light.shape)
    return ScenePlan(plan.attributes, jitter.clamp(-1, 1), light.clamp(-1, 1), _offsets(len(plan), draw))


def tell_one_wrong(attributes: Tensor, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    """Change one attribute of the first object or the background of each scene.

    Args:
        attributes: `[n, WIDTH]` true attributes.
        draw: where the randomness comes from.

    Returns:
        the changed attributes `[n, WIDTH]` and the changed columns `[n]`. No change makes a held-out pair.
    """
    wrong = attributes.clone()
    columns = torch.tensor([GROUND, *(FIRST + k for k in (SHAPE, COLOUR, SIZE, TEXTURE, POSITION))])
    # A wrong position of one of two objects would be a wrong relation, which is more than one word.
    choices = torch.where(attributes[:, COUNT] == 2, len(columns) - 1, len(columns))
    changed = columns[(torch.rand(len(attributes), generator=draw) * choices).long()]
    limits = {GROUND: len(BACKGROUNDS), FIRST + SHAPE: len(SHAPES), FIRST + COLOUR: len(COLOURS)}
    limits |= {FIRST + SIZE: len(SIZES), FIRST + TEXTURE: len(TEXTURES), FIRST + POSITION: len(POSITIONS)}
    shifts = torch.rand(len(attributes), generator=draw).tolist()
    for row, (column, u) in enumerate(zip(changed.tolist(), shifts, strict=True)):
        true = int(attributes[row, column])
        others = [value for value in range(limits[column]) if value != true]
        if column == FIRST + SHAPE:
            others = [s for s in others if (int(attributes[row, FIRST + COLOUR]), s) not in HELD_OUT]
        elif column == FIRST + COLOUR:
            others = [c for c in others if (c, int(attributes[row, FIRST + SHAPE])) not in HELD_OUT]
        wrong[row, column] = others[int(u * len(others))]
    return wrong, changed


def _other_pair(first: Tensor, u: Tensor) -> Tensor:
    """For each index into SEEN, another one that differs in both colour and shape; `u` in [0, 1) chooses."""
    options = [[j for j, (c, s) in enumerate(SEEN) if c != colour and s != shape] for colour, shape in SEEN]
    lengths = torch.tensor([len(row) for row in options])
    table = torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in options], batch_first=True)
    return table[first, (u * lengths[first]).long()]


def _uniform(draw: torch.Generator, *shape: int) -> Tensor:
    return torch.rand(*shape, generator=draw) * 2 - 1


def _offsets(n: int, draw: torch.Generator) -> Tensor:
    return torch.randint(TAPE - 3 * IMAGE_SIZE**2, (n,), generator=draw)
