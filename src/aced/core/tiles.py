"""A rank's rows of the logits of its images with all texts, in tiles computed in the best way for the device."""

from __future__ import annotations

import torch
from torch import Tensor

from aced.core import products
from aced.core.embeddings import Scalar
from aced.core.shares import Share


class LogitTiles:
    """This rank's rows of the logits of its images with all texts; use it without autocast.

    Attributes:
        image: `[r, d]`, and `text` `[b, d]`, in the type in which they are multiplied: float32 (float64 stays), or a
            narrow one on a device that multiplies it exactly.
    """

    def __init__(self, image: Tensor, text: Tensor, scale: Scalar, bias: Scalar, multiplied_in: torch.dtype) -> None:
        self.scale, self.bias = scale, bias
        narrow = image.to(multiplied_in)
        self.narrow = products.multiplies_narrow(narrow)
        self.image, self.text = (narrow, text.to(multiplied_in)) if self.narrow else (wide(image), wide(text))

    @classmethod
    def of(cls, share: Share) -> LogitTiles:
        """Of embeddings that need no gradient."""
        own = share.own
        return cls(own.image, share.texts, own.scale, own.bias, share.multiplied_in)

    def __len__(self) -> int:
        return len(self.image)

    def logits(self, rows: slice) -> Tensor:
        """`[rows, b]` logits in float32 (float64 stays)."""
        if self.narrow:
            z = products.narrow_product(self.image[rows], self.text.T)
            # The scale comes afterwards: multiplied into either side it would be rounded once more.
            return z.mul_(self.scale).add_(self.bias)
        return ((self.image[rows] * self.scale) @ self.text.T).add_(self.bias)

    def factor(self, g: Tensor) -> Tensor:
        """A derivative with respect to logits in the type for multiplication with the embeddings."""
        return g.to(self.image.dtype) if self.narrow else g

    def product(self, a: Tensor, b: Tensor) -> Tensor:
        """`a @ b` of two of the table's type, in float32 (float64 stays)."""
        return products.narrow_product(a, b) if self.narrow else a @ b


def wide(values: Tensor) -> Tensor:
    """The values in float32, or in float64 where they are."""
    return values if values.dtype == torch.float64 else values.float()
