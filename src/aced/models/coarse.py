"""A tower on smaller images than its own: fewer tokens, resized position embeddings (Flexi-JEST).

A coarser patch whose embedding is resized to it sees what the tower's own patch sees in the smaller image, so this also
covers scoring with coarser patches. Source: arXiv 2406.17711 section 5 (Flexi-JEST), arXiv 2212.08013 (FlexiViT).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from aced.core.embeddings import Embeddings
from aced.errors import AcedError
from aced.models.modes import evaluating
from aced.pool.source import Candidates
from aced.runtime.devices import sent


def check_side(tower: Any, side: int) -> None:
    """Raise an AcedError if `tower` cannot process images of `side` pixels."""
    visual, patch = tower.model.visual, _patch(tower.model.visual)
    if patch is None:
        raise AcedError(
            f"scoring.resolution: '{tower.name}' cannot use smaller images, because its image tower is a "
            f"{type(getattr(visual, 'trunk', visual)).__name__}; leave it out (open_clip's vision transformers and "
            "the packaged models can)."
        )
    if not (0 < side <= tower.view.size and side % patch == 0):
        raise AcedError(
            f"scoring.resolution is {side}; '{tower.name}' accepts multiples of its patch of {patch} pixels up to its "
            f"own {tower.view.size}."
        )


def embed_image(tower: Any, images: Tensor, side: int) -> Tensor:
    """`[B, 3, S, S]` uint8 to `[B, d]` of unit length, at `side` pixels; with gradient if enabled."""
    visual = tower.model.visual
    pixels = F.interpolate(tower.pixels(images), size=(side, side), mode="area")
    if not hasattr(visual, "positional_embedding"):
        return F.normalize(tower.model.encode_image(pixels), dim=-1)  # the packaged trunk resizes itself
    grid = side // visual.patch_size[0], side // visual.patch_size[1]
    resized = {"positional_embedding": resize_positions(visual.positional_embedding, visual.grid_size, grid)}
    found = torch.func.functional_call(visual, resized, (pixels,))
    return F.normalize(found[0] if isinstance(found, tuple) else found, dim=-1)


def resize_positions(positions: Tensor, before: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """`[1 + h w, W]` position embeddings (of a class token, then row by row) to those of another grid.

    Bicubic with antialiasing, as open_clip resizes them for a checkpoint of another image size.
    """
    first, square = positions[:1], positions[1:].reshape(1, *before, -1).permute(0, 3, 1, 2)
    resized = F.interpolate(square.float(), size=grid, mode="bicubic", antialias=True, align_corners=False)
    return torch.cat([first, resized.to(positions.dtype).flatten(2).transpose(1, 2)[0]])


class Resized:
    """A tower that processes images at `side` pixels; it shares the tower's weights."""

    def __init__(self, tower: Any, side: int) -> None:
        self.tower, self.side = tower, side

    def score(self, candidates: Candidates, micro_batch: int) -> Embeddings:
        """As `Tower.score`."""
        with evaluating(self.tower), torch.no_grad():
            if len(candidates) == 0:
                return self.tower.score(candidates, micro_batch)
            return Embeddings.cat([self._embed(part) for part in candidates.split(micro_batch)])

    def _embed(self, candidates: Candidates) -> Embeddings:
        scale, bias = self.tower.scale_and_bias()
        image = embed_image(self.tower, candidates.images[self.tower.view], self.side)
        return Embeddings(image, self.tower.embed_captions(candidates), scale, bias).detach()


class PartlyCoarse:
    """Training images, an evenly spread share of which is processed at `side` pixels.

    Attributes:
        side: their size in pixels.
        share: their share of a batch, from 0 to 1.
    """

    def __init__(self, side: int, share: float) -> None:
        self.side, self.share = side, share

    def rows(self, batch: int) -> Tensor:
        """`[b]` bool: the rows of a batch, in drawing order, to process coarsely; evenly spread."""
        steps = (torch.arange(batch + 1, dtype=torch.float64) * self.share + 1e-9).floor()
        return steps[1:] > steps[:-1]

    def embed_image(self, tower: Any, images: Tensor, coarse: Tensor) -> Tensor:
        """`[B, 3, S, S]` uint8 to `[B, d]` of unit length, those marked in `coarse` `[B]` coarsely; with gradient.

        The marks are on the CPU, so counting them does not wait for a GPU.
        """
        small, full = coarse.nonzero().flatten(), (~coarse).nonzero().flatten()
        if not len(small):
            return tower.embed_image(images)
        parts = [embed_image(tower, images.index_select(0, sent(small, images.device)), self.side)]
        if len(full):
            parts.append(tower.embed_image(images.index_select(0, sent(full, images.device))))
        back = sent(torch.cat([small, full]).argsort(), parts[0].device)
        return torch.cat(parts).index_select(0, back)

    def image_flops(self, tower: Any, coarse: Tensor) -> float:
        """FLOPs per image of one forward pass over images of which `coarse` `[B]` are processed coarsely."""
        share = float(coarse.double().mean()) if len(coarse) else 0.0
        full, small = (tower.flops(tower.context_length, size).image for size in (None, self.side))
        return share * small + (1 - share) * full


def _patch(visual: Any) -> int | None:
    """The side of an image token in pixels, if the tower can process smaller images; otherwise None."""
    own = getattr(getattr(visual, "trunk", None), "token_side", None)
    if own is not None:  # a timm trunk that accepts any multiple of it
        return int(own)
    plain = type(visual).__name__ == "VisionTransformer" and getattr(visual, "attn_pool", None) is None
    return int(visual.patch_size[0]) if plain else None
