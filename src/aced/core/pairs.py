"""Losses over all b x b pairs of a batch: the logits in row tiles, the gradient by formula.

Autograd would keep several b x b matrices, and recomputing them in a backward pass would multiply once more. A loss
is a scalar, though, so its gradient can be taken while a tile of logits is there: with G = dL/dz of the tile,
dL/dx = t G y, dL/dy = t G' x, dL/dt = sum of x (G y), dL/dc = sum of G. Nothing of the size b x b is ever kept: memory
grows with b (d + tile rows), and the products are as many as autograd's (one more where a softmax needs all the rows
before it can begin).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from aced.core.embeddings import Embeddings


class Form:
    """A loss as a function of the logits z `[b, b]`, which it is given tile by tile of rows.

    Attributes:
        surveys: whether `survey` must have seen every tile before the first `tile`.
        shift_free: whether a bias cancels; its gradient is then exactly zero.
        share: factor of the sum: 1/b, or 1/2b where there are two directions.
    """

    surveys: ClassVar[bool] = False
    shift_free: ClassVar[bool] = False

    def __init__(self, count: int) -> None:
        self.share = 1.0 / count

    def survey(self, z: Tensor, rows: slice) -> None:
        """Take note of `z` `[rows, b]`, which stays as it is."""
        raise NotImplementedError

    def tile(self, z: Tensor, rows: slice, *, gradient: bool) -> Tensor:
        """The part of the sum that these rows add; with `gradient`, `z` becomes its derivative (before `share`)."""
        raise NotImplementedError


class Sigmoid(Form):
    """sum_ij softplus(-s_ij z_ij), s_ii = 1, else -1."""

    def tile(self, z: Tensor, rows: slice, *, gradient: bool) -> Tensor:
        """All pairs as negatives, then the diagonal turned into positives: softplus(-z) = softplus(z) - z."""
        total = F.softplus(z).sum() - z.diagonal(rows.start).sum()
        if gradient:
            z.sigmoid_().diagonal(rows.start).sub_(1)
        return total


class SigmoidKD(Form):
    """sum_ij of the binary cross-entropy with the mean of the teachers' sigmoid(z_ij)."""

    def __init__(self, count: int, teachers: Sequence[Embeddings]) -> None:
        super().__init__(count)
        self.teachers = teachers

    def tile(self, z: Tensor, rows: slice, *, gradient: bool) -> Tensor:
        """softplus(z) - p z, whose derivative is sigmoid(z) - p."""
        target = _mean([logits(t, rows).sigmoid_() for t in self.teachers])
        total = F.softplus(z).sum() - (target * z).sum()
        if gradient:
            z.sigmoid_().sub_(target)
        return total


class Softmax(Form):
    """sum_i of the cross-entropies of row i and of column i with the pair itself."""

    surveys, shift_free = True, True

    def __init__(self, count: int) -> None:
        super().__init__(2 * count)
        self.norms = _Norms()

    def survey(self, z: Tensor, rows: slice) -> None:
        """Log-sum-exp of the rows, and of the columns so far."""
        self.norms.note(z, rows)

    def tile(self, z: Tensor, rows: slice, *, gradient: bool) -> Tensor:
        """The derivative is the two softmaxes less 2 on the diagonal."""
        total = self.norms.sum(rows) - 2 * z.diagonal(rows.start).sum()
        if gradient:
            self.norms.softmaxes_(z, rows).diagonal(rows.start).sub_(2)
        return total


class SoftmaxKD(Form):
    """sum_i of the cross-entropies of row i and of column i with the mean of the teachers' softmaxes."""

    surveys, shift_free = True, True

    def __init__(self, count: int, teachers: Sequence[Embeddings]) -> None:
        super().__init__(2 * count)
        self.norms = _Norms()
        self.teachers = [(teacher, _Norms()) for teacher in teachers]

    def survey(self, z: Tensor, rows: slice) -> None:
        """Log-sum-exp of the rows and columns, the student's and each teacher's."""
        if len(z) == z.shape[1]:  # the only tile, which knows its rows and columns itself
            return
        self.norms.note(z, rows)
        for teacher, norms in self.teachers:
            norms.note(logits(teacher, rows), rows)

    def tile(self, z: Tensor, rows: slice, *, gradient: bool) -> Tensor:
        """-sum p log q = log-sum-exp - sum p z, as p adds up to 1; the derivative is q - p, in both directions."""
        theirs = [logits(teacher, rows) for teacher, _ in self.teachers]
        if len(z) == z.shape[1]:
            return self._whole(z, theirs, gradient=gradient)
        target = _mean([norms.softmaxes_(t, rows) for t, (_, norms) in zip(theirs, self.teachers, strict=True)])
        total = self.norms.sum(rows) - (target * z).sum()
        if gradient:
            self.norms.softmaxes_(z, rows).sub_(target)
        return total

    @staticmethod
    def _whole(z: Tensor, theirs: list[Tensor], *, gradient: bool) -> Tensor:
        """The same of a small batch, in half as many operations, which is what it costs."""
        total, derivatives = z.new_zeros(()), []
        for across in (1, 0):
            log_q, p = z.log_softmax(across), _mean([t.softmax(across) for t in theirs])
            total -= (p * log_q).sum()
            derivatives.append(log_q.exp_().sub_(p))
        if gradient:
            torch.add(*derivatives, out=z)
        return total


class _Norms:
    """Log-sum-exp of every row and every column of a matrix that is seen in row tiles."""

    def __init__(self) -> None:
        self.rows: list[Tensor] = []
        self.columns: Tensor | None = None

    def note(self, z: Tensor, rows: slice) -> None:
        self.rows.append(z.logsumexp(1))
        columns = z.logsumexp(0)
        self.columns = columns if self.columns is None else torch.logaddexp(self.columns, columns)
        if rows.stop == z.shape[1]:
            self.rows = [torch.cat(self.rows)]

    def sum(self, rows: slice) -> Tensor:
        """Of the rows and of the columns with the same numbers."""
        assert self.columns is not None
        return self.rows[0][rows].sum() + self.columns[rows].sum()

    def softmaxes_(self, z: Tensor, rows: slice) -> Tensor:
        """`z` becomes its softmax over the row plus its softmax over the column."""
        assert self.columns is not None
        over_rows = (z - self.rows[0][rows, None]).exp_()
        return z.sub_(self.columns).exp_().add_(over_rows)


def mean_over_pairs(student: Embeddings, form: Form, tile: int) -> Tensor:
    """The loss of `form`: a scalar, float32 (float64 stays), differentiable once in embeddings, scale and bias.

    Args:
        student: b pairs.
        form: which loss; used up by the call.
        tile: largest number of logits that is held at once.
    """
    inputs = (wide(student.image), wide(student.text), student.scale, student.bias)
    wanted = [torch.is_grad_enabled() and isinstance(v, Tensor) and v.requires_grad for v in inputs]
    result: Tensor = _OverPairs.apply(*inputs, form, tile, wanted)  # type: ignore[no-untyped-call]
    return result


class _OverPairs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        image: Tensor,
        text: Tensor,
        scale: Tensor | float,
        bias: Tensor | float,
        form: Form,
        tile: int,
        wanted: list[bool],
    ) -> Tensor:
        with torch.autocast(image.device.type, enabled=False):
            total, gradients = _walk(Embeddings(image, text, scale, bias), form, tile, wanted)
        ctx.save_for_backward(*gradients)
        return total

    @staticmethod
    def backward(ctx: Any, above: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # create_graph: the saved gradients would pass for constants
            raise NotImplementedError("aced.losses: a loss over pairs can be differentiated once, not twice.")
        gradients = [None if g is None else g * above.to(g.dtype) for g in ctx.saved_tensors]
        return (*gradients, None, None, None)


def _walk(e: Embeddings, form: Form, tile: int, wanted: list[bool]) -> tuple[Tensor, list[Tensor | None]]:
    """The loss, and the gradients that are wanted of image, text, scale and bias."""
    step = max(1, tile // len(e))
    pieces = [slice(start, min(start + step, len(e))) for start in range(0, len(e), step)]
    z = None
    if form.surveys:
        for rows in pieces:
            z = logits(e, rows)
            form.survey(z, rows)
    totals, gradients = [], _Gradients(e, wanted, form)
    for rows in pieces:
        # A single tile is still there from the survey.
        z = z if z is not None and len(pieces) == 1 else logits(e, rows)
        totals.append(form.tile(z, rows, gradient=any(wanted)))
        gradients.add(z, rows)
    return _sum(totals) * form.share, gradients.all()


class _Gradients:
    """Adds up the gradients of image, text, scale and bias from tiles of dL/dz."""

    def __init__(self, e: Embeddings, wanted: list[bool], form: Form) -> None:
        self.e, self.wanted, self.share, self.shift_free = e, wanted, form.share, form.shift_free
        self.image: list[Tensor] = []
        self.text: Tensor | None = None
        self.scale: list[Tensor] = []
        self.bias: list[Tensor] = []

    def add(self, g: Tensor, rows: slice) -> None:
        """Count the tile `g` `[rows, b]`."""
        own = self.e.image[rows]
        if self.wanted[0] or self.wanted[2]:
            product = g @ self.e.text
            if self.wanted[2]:
                self.scale.append((product * own).sum())
            if self.wanted[0]:
                self.image.append(product)
        if self.wanted[1]:
            self.text = g.T @ own if self.text is None else self.text.addmm_(g.T, own)
        if self.wanted[3] and not self.shift_free:
            self.bias.append(g.sum())

    def all(self) -> list[Tensor | None]:
        """In the order of the inputs; None where none is wanted."""
        factor = self.e.scale * self.share
        image = None
        if self.image:
            image = (self.image[0] if len(self.image) == 1 else torch.cat(self.image)).mul_(factor)
        return [
            image,
            None if self.text is None else self.text.mul_(factor),
            self._scalar(self.scale, self.e.scale) if self.wanted[2] else None,
            self._scalar(self.bias, self.e.bias) if self.wanted[3] else None,
        ]

    def _scalar(self, parts: list[Tensor], like: Tensor | float) -> Tensor:
        assert isinstance(like, Tensor)
        if not parts:
            return torch.zeros_like(like)
        return (_sum(parts) * self.share).to(like.dtype).reshape(like.shape)


def _sum(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.stack(parts).sum()


def logits(e: Embeddings, rows: slice) -> Tensor:
    """`[rows, b]` logits in float32 (float64 stays); to be called without autocast."""
    return ((wide(e.image[rows]) * e.scale) @ wide(e.text).T).add_(e.bias)


def wide(values: Tensor) -> Tensor:
    """The values in float32, or in float64 where they are."""
    return values if values.dtype == torch.float64 else values.float()


def _mean(values: list[Tensor]) -> Tensor:
    """The mean; the first is overwritten."""
    total = values[0]
    for value in values[1:]:
        total += value
    return total if len(values) == 1 else total.div_(len(values))
