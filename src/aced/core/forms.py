"""The losses over pairs as functions of the logits in row tiles: value and derivative.

A softmax needs a whole row and a whole column first, so such a form surveys all tiles in advance. With several ranks
(`aced.core.shares`) each has whole rows. Its columns' log-sum-exps cover only its own rows until the ranks exchange
them, b numbers per model: the only information here that a rank needs from the others.

Shapes: b pairs, r of them this rank's, z `[r, b]` its rows of the logits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from aced.core.ranks import Ranks
from aced.core.shares import Share
from aced.core.tiles import LogitTiles


class PairLoss:
    """A loss as a function of this rank's rows of the logits, z `[r, b]`, tile by tile.

    Rows are counted from the rank's first, whose own column is number `start`.

    Attributes:
        surveys: whether `survey` must have seen every tile, and `join` the other ranks, before the first `tile`.
        shift_free: whether a bias cancels; its gradient is then exactly zero.
        directions: over how many softmaxes of each pair the mean is taken.
        factor: of the sum over the pairs.
    """

    surveys: ClassVar[bool] = False
    shift_free: ClassVar[bool] = False
    directions: ClassVar[int] = 1

    def __init__(self, share: Share) -> None:
        self.factor = 1.0 / (self.directions * len(share))
        self.start, self.ranks = share.start, share.ranks

    def survey(self, z: Tensor, rows: slice) -> None:
        """Register `z` `[rows, b]`, which stays unchanged."""
        raise NotImplementedError

    def join(self) -> None:
        """Exchange the results of the survey with the other ranks."""
        raise NotImplementedError

    def tile(self, z: Tensor, rows: slice, *, gradient: bool) -> Tensor:
        """The part of the sum from these rows; with `gradient`, `z` becomes its derivative (before `share`)."""
        raise NotImplementedError


class Sigmoid(PairLoss):
    """sum_ij softplus(-s_ij z_ij), s_ii = 1, else -1."""

    def tile(self, z: Tensor, rows: slice, *, gradient: bool) -> Tensor:
        """All pairs as negatives, then the diagonal turned into positives: softplus(-z) = softplus(z) - z."""
        total = F.softplus(z).sum() - z.diagonal(self.start + rows.start).sum()
        if gradient:
            z.sigmoid_().diagonal(self.start + rows.start).sub_(1)
        return total


class SigmoidKD(PairLoss):
    """sum_ij of the binary cross-entropy with the mean of the teachers' sigmoid(z_ij)."""

    def __init__(self, share: Share, teachers: Sequence[Share]) -> None:
        super().__init__(share)
        self.teachers = [LogitTiles.of(teacher) for teacher in teachers]

    def tile(self, z: Tensor, rows: slice, *, gradient: bool) -> Tensor:
        """softplus(z) - p z, whose derivative is sigmoid(z) - p."""
        target = _mean([t.logits(rows).sigmoid_() for t in self.teachers])
        total = F.softplus(z).sum() - (target * z).sum()
        if gradient:
            z.sigmoid_().sub_(target)
        return total


class Softmax(PairLoss):
    """sum_i of the cross-entropies of row i and of column i with the pair itself."""

    surveys, shift_free, directions = True, True, 2

    def __init__(self, share: Share) -> None:
        super().__init__(share)
        self.norms = _Norms(self.start)

    def survey(self, z: Tensor, rows: slice) -> None:
        """Log-sum-exp of the rows, and of the columns so far."""
        self.norms.note(z)

    def join(self) -> None:
        """Log-sum-exp of the whole columns."""
        _join([self.norms], self.ranks)

    def tile(self, z: Tensor, rows: slice, *, gradient: bool) -> Tensor:
        """The derivative is the two softmaxes less 2 on the diagonal."""
        total = self.norms.sum(rows) - 2 * z.diagonal(self.start + rows.start).sum()
        if gradient:
            self.norms.softmaxes_(z, rows).diagonal(self.start + rows.start).sub_(2)
        return total


class SoftmaxKD(PairLoss):
    """sum_i of the cross-entropies of row i and of column i with the mean of the teachers' softmaxes."""

    surveys, shift_free, directions = True, True, 2

    def __init__(self, share: Share, teachers: Sequence[Share]) -> None:
        super().__init__(share)
        self.norms = _Norms(self.start)
        self.teachers = [(LogitTiles.of(teacher), _Norms(self.start)) for teacher in teachers]
        self.rows = len(share.own)
        self.kept: list[Tensor] | None = None

    def survey(self, z: Tensor, rows: slice) -> None:
        """Log-sum-exp of the rows and columns, the student's and each teacher's."""
        if self._complete(z):
            return
        self.norms.note(z)
        theirs = [teacher.logits(rows) for teacher, _ in self.teachers]
        for tile, (_, norms) in zip(theirs, self.teachers, strict=True):
            norms.note(tile)
        self.kept = theirs if len(z) == self.rows else None  # a single tile is kept until it is used

    def join(self) -> None:
        """Log-sum-exp of the whole columns, of the student and the teachers in one exchange."""
        if self.norms.columns is not None:
            _join([self.norms, *(norms for _, norms in self.teachers)], self.ranks)

    def tile(self, z: Tensor, rows: slice, *, gradient: bool) -> Tensor:
        """-sum p log q = log-sum-exp - sum p z, as p adds up to 1; the derivative is q - p, in both directions."""
        theirs = self.kept or [teacher.logits(rows) for teacher, _ in self.teachers]
        if self._complete(z):
            return self._whole(z, theirs, gradient=gradient)
        target = _mean([norms.softmaxes_(t, rows) for t, (_, norms) in zip(theirs, self.teachers, strict=True)])
        total = self.norms.sum(rows) - (target * z).sum()
        if gradient:
            self.norms.softmaxes_(z, rows).sub_(target)
        return total

    def _complete(self, z: Tensor) -> bool:
        """Whether `z` is the only tile of the only rank, which knows its own rows and columns."""
        return self.ranks.size == 1 and len(z) == z.shape[1]

    @staticmethod
    def _whole(z: Tensor, theirs: list[Tensor], *, gradient: bool) -> Tensor:
        """The same for a small batch, in half as many operations, which determine its cost."""
        total, derivatives = z.new_zeros(()), []
        for across in (1, 0):
            log_q, p = z.log_softmax(across), _mean([t.softmax(across) for t in theirs])
            total -= (p * log_q).sum()
            derivatives.append(log_q.exp_().sub_(p))
        if gradient:
            torch.add(*derivatives, out=z)
        return total


class _Norms:
    """Log-sum-exp of this rank's rows and of every column of a matrix in row tiles.

    Attributes:
        columns: `[b]`; over this rank's rows only until `_join`.
    """

    def __init__(self, start: int) -> None:
        self.start = start
        self.tiles: list[Tensor] = []
        self.rows: Tensor | None = None
        self.columns: Tensor | None = None

    def note(self, z: Tensor) -> None:
        """Register the next tile."""
        self.tiles.append(z.logsumexp(1))
        columns = z.logsumexp(0)
        self.columns = columns if self.columns is None else torch.logaddexp(self.columns, columns)

    def sum(self, rows: slice) -> Tensor:
        """Of the rows and of the columns of the same pairs."""
        assert self.rows is not None
        assert self.columns is not None
        own = slice(self.start + rows.start, self.start + rows.stop)
        return self.rows[rows].sum() + self.columns[own].sum()

    def softmaxes_(self, z: Tensor, rows: slice) -> Tensor:
        """`z` becomes its softmax over the row plus its softmax over the column."""
        assert self.rows is not None
        assert self.columns is not None
        over_rows = (z - self.rows[rows, None]).exp_()
        return z.sub_(self.columns).exp_().add_(over_rows)


def _join(all_norms: Sequence[_Norms], ranks: Ranks) -> None:
    """End the survey: combine the columns' log-sum-exps of all ranks' rows, in one exchange."""
    columns = torch.stack([norms.columns for norms in all_norms if norms.columns is not None])
    whole = ranks.gather(columns[None], [1] * ranks.size).logsumexp(0)  # [W, n, b]; of a single one to the bit itself
    for norms, joined in zip(all_norms, whole, strict=True):
        norms.rows, norms.columns = torch.cat(norms.tiles), joined


def _mean(values: list[Tensor]) -> Tensor:
    """The mean; the first one is overwritten."""
    total = values[0]
    for value in values[1:]:
        total += value
    return total if len(values) == 1 else total.div_(len(values))
