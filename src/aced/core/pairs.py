"""Losses over all b x b pairs of a batch: this rank's rows of the logits in tiles, with the gradient by formula.

Autograd would keep several b x b matrices, and recomputing them in a backward pass would multiply once more. But a loss
is a scalar, so its gradient can be computed while a tile of logits exists: with G = dL/dz of the tile, dL/dx = t G y,
dL/dy = t G' x, dL/dt = sum of x (G y), dL/dc = sum of G. Nothing of the size b x b is ever kept: memory grows with
b (d + tile rows), and the products are as many as autograd's (one more if a softmax needs all the rows before it can
begin).

With several ranks, each has the rows of its own images and the columns of all texts (`aced.core.shares`). Its rows need
no exchange; if a loss uses columns, their log-sum-exps over each rank's rows are exchanged, n b numbers.

Shapes: b pairs, r of them this rank's, d the width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from aced.core.embeddings import Scalar
from aced.core.forms import PairLoss
from aced.core.shares import Share
from aced.core.tiles import LogitTiles, wide


def mean_over_pairs(student: Share, form: PairLoss, tile: int) -> Tensor:
    """This rank's part of the loss of `form`; the parts of all ranks add up to it.

    Returns:
        A scalar, float32 (float64 stays), differentiable once in embeddings, scale and bias. The gradient of this
        rank's embeddings is that of the sum over ranks, if every rank goes backward with the same factor.

    Args:
        student: b pairs, or this rank's of them.
        form: which loss; used up by the call.
        tile: maximum number of logits in memory at once.
    """
    own = student.own
    inputs = (wide(own.image), wide(student.texts), own.scale, own.bias)
    wanted = [torch.is_grad_enabled() and isinstance(v, Tensor) and v.requires_grad for v in inputs]
    # Derivatives with respect to single logits are far too small for float16.
    multiplied_in = torch.bfloat16 if student.multiplied_in == torch.bfloat16 else inputs[0].dtype
    result: Tensor = _OverPairs.apply(*inputs, multiplied_in, form, tile, wanted)  # type: ignore[no-untyped-call]
    return result


class _OverPairs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        image: Tensor,
        text: Tensor,
        scale: Scalar,
        bias: Scalar,
        multiplied_in: torch.dtype,
        form: PairLoss,
        tile: int,
        wanted: list[bool],
    ) -> Tensor:
        with torch.autocast(image.device.type, enabled=False):
            total, gradients = _walk(LogitTiles(image, text, scale, bias, multiplied_in), form, tile, wanted)
        ctx.save_for_backward(*gradients)
        return total

    @staticmethod
    def backward(ctx: Any, above: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # create_graph: the saved gradients would count as constants
            raise NotImplementedError("aced.losses: a loss over pairs can be differentiated once, not twice.")
        gradients = [None if g is None else g * above.to(g.dtype) for g in ctx.saved_tensors]
        return (*gradients, None, None, None, None)


def _walk(table: LogitTiles, form: PairLoss, tile: int, wanted: list[bool]) -> tuple[Tensor, list[Tensor | None]]:
    """This rank's part of the loss, and the requested gradients of image, text, scale and bias."""
    step = max(1, tile // len(table.text))
    # A rank without pairs has one piece without rows, so that it takes part in the exchanges.
    pieces = [slice(start, min(start + step, len(table))) for start in range(0, max(1, len(table)), step)]
    z = None
    if form.surveys:
        for rows in pieces:
            z = table.logits(rows)
            form.survey(z, rows)
        form.join()
    totals, gradients = [], _Gradients(table, wanted, form)
    for rows in pieces:
        # A single tile is kept from the survey.
        z = z if z is not None and len(pieces) == 1 else table.logits(rows)
        totals.append(form.tile(z, rows, gradient=any(wanted)))
        gradients.add(z, rows)
    return _sum(totals) * form.factor, gradients.all()


class _Gradients:
    """Sums the gradients of image, text, scale and bias from tiles of dL/dz."""

    def __init__(self, table: LogitTiles, wanted: list[bool], form: PairLoss) -> None:
        self.table, self.wanted, self.factor, self.shift_free = table, wanted, form.factor, form.shift_free
        self.image: list[Tensor] = []
        self.text: Tensor | None = None
        self.scale: list[Tensor] = []
        self.bias: list[Tensor] = []

    def add(self, derivative: Tensor, rows: slice) -> None:
        """Count the tile `derivative` `[rows, b]`."""
        if self.wanted[3] and not self.shift_free:
            self.bias.append(derivative.sum())
        if not any(self.wanted[:3]):
            return
        g, own = self.table.factor(derivative), self.table.image[rows]
        if self.wanted[0] or self.wanted[2]:
            product = self.table.product(g, self.table.text)
            if self.wanted[2]:
                self.scale.append((product * own).sum())
            if self.wanted[0]:
                self.image.append(product)
        if self.wanted[1]:
            self._add_text(g.T, own)

    def _add_text(self, g: Tensor, own: Tensor) -> None:
        if self.text is None:
            self.text = self.table.product(g, own)
        elif self.table.narrow:
            self.text += self.table.product(g, own)
        else:
            self.text.addmm_(g, own)

    def all(self) -> list[Tensor | None]:
        """In the order of the inputs; None for those that were not requested."""
        factor = self.table.scale * self.factor
        image = None
        if self.image:
            image = (self.image[0] if len(self.image) == 1 else torch.cat(self.image)).mul_(factor)
        return [
            image,
            None if self.text is None else self.text.mul_(factor),
            self._scalar(self.scale, self.table.scale) if self.wanted[2] else None,
            self._scalar(self.bias, self.table.bias) if self.wanted[3] else None,
        ]

    def _scalar(self, parts: list[Tensor], like: Scalar) -> Tensor:
        assert isinstance(like, Tensor)
        if not parts:
            return torch.zeros_like(like)
        return (_sum(parts) * self.factor).to(like.dtype).reshape(like.shape)


def _sum(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.stack(parts).sum()
