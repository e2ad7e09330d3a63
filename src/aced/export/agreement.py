"""What is written is used once, on pictures and captions, and compared with the model that it came from."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from aced.errors import AcedError
from aced.models import Tower

TOLERANCE = 1e-4
"""Largest difference between two embeddings of length 1, in any of their numbers, that rounding explains."""
PAIRS = 8

Encode = Callable[[Tensor], Tensor]
"""Pixels `[B, 3, S, S]` float or ids `[B, T]` int64 to features `[B, d]` of any length."""


class Examples:
    """Pairs of the built-in scenes as a tower sees them.

    Attributes:
        pixels: `[B, 3, S, S]` float, mean and standard deviation applied.
        ids: `[B, context_length]` int64.
        captions: B texts.
        image: what the tower makes of the pixels, `[B, d]` of length 1.
        text: what it makes of the ids.
    """

    def __init__(self, tower: Tower) -> None:
        from aced.lab.scenes import make_pool

        pairs = make_pool(PAIRS, 0).read(range(PAIRS), [tower.view])
        with torch.no_grad():
            self.pixels = tower.pixels(pairs.images[tower.view])
            self.captions = list(pairs.texts)
            self.ids = tower.tokenizer(self.captions)
            self.image = tower.embed_whole(pairs.images[tower.view])
            self.text = tower.embed_text(self.captions)


def difference(examples: Examples, image: Encode, text: Encode) -> float:
    """The largest difference between what a copy of a model makes of the examples and what the model does.

    NaN and shapes that differ count as infinitely far.
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
    """Raise an AcedError where a copy does not embed as its model does.

    Args:
        found: see `difference`.
        what: the program that reads the copy.
    """
    if not found <= TOLERANCE:
        raise AcedError(
            f"{what} computes other embeddings than the model has (they differ by {found:.2g}, and rounding explains "
            f"{TOLERANCE:g}); nothing was written."
        )
