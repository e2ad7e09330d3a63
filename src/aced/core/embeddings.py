"""Embeddings of image-text pairs with the logit scale and bias that go with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor

Scalar = Tensor | float


@dataclass(frozen=True)
class Embeddings:
    """L2-normalised embeddings of B image-text pairs by one model.

    Attributes:
        image: `[B, d]` image embeddings, rows of unit length, any floating type.
        text: `[B, d]` text embeddings; row i belongs to image i.
        scale: logit scale t > 0 (the factor itself, not its logarithm).
        bias: logit bias c, or None, as CLIP models have it, for 0; only the sigmoid loss has one.

    The logit of image i with text j is `scale * image[i] @ text[j] + bias`.
    """

    image: Tensor
    text: Tensor
    scale: Scalar = 1.0
    bias: Scalar = 0.0

    def __post_init__(self) -> None:
        if cast("Scalar | None", self.bias) is None:
            object.__setattr__(self, "bias", 0.0)
        if self.image.ndim != 2 or self.text.ndim != 2 or self.image.shape != self.text.shape:
            raise ValueError(
                "Embeddings: image and text must both be [B, d], got "
                f"image {list(self.image.shape)} and text {list(self.text.shape)}."
            )
        if not (self.image.is_floating_point() and self.text.is_floating_point()):
            raise ValueError(
                f"Embeddings: image and text must be floating point, got {self.image.dtype} and {self.text.dtype}."
            )
        if self.image.device != self.text.device:
            raise ValueError(
                f"Embeddings: image is on {self.image.device} and text on {self.text.device}; move both to one device."
            )

    def __len__(self) -> int:
        return self.image.shape[0]

    def __getitem__(self, index: Tensor | slice | Sequence[int]) -> Embeddings:
        """The same pairs' embeddings, a subset of the rows."""
        if not isinstance(index, (Tensor, slice)):
            index = list(index)
        return replace(self, image=self.image[index], text=self.text[index])

    @property
    def device(self) -> torch.device:
        """The device of the embeddings."""
        return self.image.device

    def detach(self) -> Embeddings:
        """The same values, detached from the autograd graph."""
        return Embeddings(
            self.image.detach(),
            self.text.detach(),
            self.scale.detach() if isinstance(self.scale, Tensor) else self.scale,
            self.bias.detach() if isinstance(self.bias, Tensor) else self.bias,
        )

    def to(self, device: torch.device | str) -> Embeddings:
        """The same embeddings on another device (including tensor scale and bias)."""
        return Embeddings(
            self.image.to(device),
            self.text.to(device),
            self.scale.to(device) if isinstance(self.scale, Tensor) else self.scale,
            self.bias.to(device) if isinstance(self.bias, Tensor) else self.bias,
        )

    @staticmethod
    def cat(parts: Sequence[Embeddings]) -> Embeddings:
        """Concatenate micro-batches of one model; scale and bias are those of the first."""
        first = parts[0]
        return replace(first, image=torch.cat([p.image for p in parts]), text=torch.cat([p.text for p in parts]))
