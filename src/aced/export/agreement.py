"""The check of an export: it is run once on images and captions, and compared with the original model."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from aced.errors import AcedError
from aced.models import Tower

TOLERANCE = 1e-4
"""Largest difference between two unit-length embeddings, in any component, that rounding explains."""
CAPTIONS = (
    "a dog",
    "two children on a beach, seen from behind",
    "A red bus stops at a crossing in the rain.",
    "white flowers in a vase on a wooden table beside the window",
    "the number 7 on a door",
    "An aerial view of a river that winds through fields, with a small town and a bridge in the distance",
    "portrait of a smiling woman with a hat",
    "close-up of a circuit board",
)

Encode = Callable[[Tensor], Tensor]
"""Pixels `[B, 3, S, S]` float or ids `[B, T]` int64 to features `[B, d]` of any length."""


class Examples:
    """Synthetic images, smooth like photos, and captions, as a tower sees them.

    Attributes:
        pixels: `[B, 3, S, S]` float, mean and standard deviation applied.
        ids: `[B, context_length]` int64.
        captions: B texts.
        image: the tower's embeddings of the pixels, `[B, d]` of length 1.
        text: its embeddings of the ids.
    """

    def __init__(self, tower: Tower) -> None:
        colours = torch.rand(len(CAPTIONS), 3, 7, 7, generator=torch.Generator().manual_seed(0))
        side = tower.view.size
        images = (255 * F.interpolate(colours, (side, side), mode="bilinear")).to(torch.uint8)
        with torch.no_grad():
            self.pixels = tower.pixels(images)
            self.captions = list(CAPTIONS)
            self.ids = tower.tokenizer(self.captions)
            self.image = tower.embed_whole(images)
            self.text = tower.embed_text(self.captions)


def difference(examples: Examples, image: Encode, text: Encode) -> float:
    """The largest difference between a copy's and the model's embeddings of the examples.

    NaN and differing shapes count as infinitely far.
    """
    largest = 0.0
    with torch.no_grad():
        for encode, given, wanted in ((image, examples.pixels, examples.image), (text, examples.ids, examples.text)):
            found = F.normalize(encode(given).float(), dim=-1)
            if found.shape != wanted.shape or not torch.isfinite(found).all():
                return float("inf")
            largest = max(largest, float((found - wanted).abs().max()))
    return largest


def check_equal(found: float, what: str) -> None:
    """Raise an AcedError if a copy's embeddings differ from its model's.

    Args:
        found: see `difference`.
        what: the program that runs the copy.
    """
    if not found <= TOLERANCE:
        raise AcedError(
            f"{what} computes other embeddings than the model (they differ by {found:.2g}; rounding explains "
            f"{TOLERANCE:g}); nothing was written."
        )
