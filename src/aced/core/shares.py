"""A batch spread over the processes of a job (ranks), as each of them sees it for a loss.

The b x b logits are split by rows: a rank multiplies the images of its own pairs with the texts of all, which is 1/W of
the work. Gradients of the others' texts return to their owners. So a rank has a part of the loss, and the parts add up
to that of the whole batch; the gradient of its own embeddings is that of the sum.

Shapes: b pairs of the whole batch, r of them this rank's, W ranks, d the width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from aced.core.embeddings import Embeddings, Scalar
from aced.core.ranks import Alone, Ranks


@dataclass(eq=False)
class Share:
    """One rank's pairs of a batch, and access to the texts of all.

    Attributes:
        own: `[r, d]` embeddings of this rank's pairs, with the model's logit scale and bias; r may be 0.
        counts: every rank's r. The pairs of rank 0 come first in the batch, and so on.
        ranks: the ranks.
        multiplied_in: type for products of the embeddings on a device whose tensor cores support it, summed in float32.
            Embeddings in a wider type are rounded for that; gradients arrive in their own type.
        gathered: `[b, d]` texts of all, from their first use on or from the start (`Joined`).
    """

    own: Embeddings
    counts: Sequence[int]
    ranks: Ranks
    multiplied_in: torch.dtype
    gathered: Tensor | None = None

    def __post_init__(self) -> None:
        if len(self.counts) != self.ranks.size or self.counts[self.ranks.rank] != len(self.own):
            raise ValueError(
                f"Share: rank {self.ranks.rank} of {self.ranks.size} has {len(self.own)} pairs, which the counts "
                f"{list(self.counts)} do not match."
            )

    def __len__(self) -> int:
        return sum(self.counts)

    @property
    def start(self) -> int:
        """The number in the batch of this rank's first pair."""
        return sum(self.counts[: self.ranks.rank])

    @property
    def texts(self) -> Tensor:
        """`[b, d]` texts of all, with gradient. The first use is an exchange, and so is its backward pass."""
        if self.gathered is None:
            alone = self.ranks.size == 1
            self.gathered = self.own.text if alone else _Gathered.apply(self.own.text, self.ranks, self.counts)  # type: ignore[no-untyped-call]
        return self.gathered

    def scaled(self, scale: Scalar, bias: Scalar) -> Share:
        """The same pairs with another logit scale and bias; the texts are not gathered again."""
        return replace(self, own=replace(self.own, scale=scale, bias=bias), gathered=self.texts)

    def detach(self) -> Share:
        """The same values, detached from the autograd graph."""
        gathered = None if self.gathered is None else self.gathered.detach()
        return replace(self, own=self.own.detach(), gathered=gathered)


def as_share(pairs: Embeddings | Share) -> Share:
    """A whole batch as the share of the only process."""
    return pairs if isinstance(pairs, Share) else Share(pairs, [len(pairs)], Alone(), pairs.image.dtype)


class _Gathered(torch.autograd.Function):
    """The rows of every rank; the ranks' gradients of a row are summed at its origin."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, ranks: Ranks, counts: Sequence[int]) -> Tensor:
        """As in torch."""
        ctx.ranks, ctx.counts = ranks, counts
        return ranks.gather(rows, counts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        """As in torch."""
        return ctx.ranks.sum_rows(gradient, ctx.counts), None, None
