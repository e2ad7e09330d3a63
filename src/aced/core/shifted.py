"""The reference-shifted loss of DRRho-CLIP as a function of the logits in row tiles.

Source: arXiv 2505.06699 (Wei et al., model steering) and the code of its authors; formulas in docs/method.md.
Shapes: b pairs, r of them this rank's, z `[r, b]` its rows of the logits.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from aced.core.forms import PairLoss
from aced.core.shares import Share
from aced.core.tiles import LogitTiles


class Shifted(PairLoss):
    """sum_i of log(eps + mean over j != i of exp d_ij), by rows and by columns.

    With w = z - Z, the student's logits less the reference's, d_ij is w_ij - w_ii by rows and w_ji - w_ii by columns.

    Args:
        share: of the student.
        reference: the same pairs by the reference, with the scale to use for its logits.
        eps: keeps the logarithm from following pairs that the student distinguishes better than the reference.
    """

    surveys, shift_free, directions = True, True, 2

    def __init__(self, share: Share, reference: Share, eps: float) -> None:
        super().__init__(share)
        self.reference = LogitTiles.of(reference)
        self.own = slice(self.start, self.start + len(share.own))
        self.log_eps, self.log_others = math.log(eps), math.log(max(1, len(share) - 1))
        self.seen: list[tuple[Tensor, Tensor, Tensor]] = []

    def survey(self, z: Tensor, rows: slice) -> None:
        """Log-sum-exp over the others of each row, and of each column so far; and w_ii."""
        w, own = self._apart(z, rows)
        self.seen.append((w.logsumexp(1), w.logsumexp(0), own))

    def join(self) -> None:
        """Log-sum-exp of the whole columns, and w_ii of all pairs, in one exchange."""
        over_rows, columns, own = zip(*self.seen, strict=True)
        told = torch.stack([torch.stack(columns).logsumexp(0), torch.zeros_like(columns[0])])
        told[1, self.own] = torch.cat(own)
        whole = self.ranks.gather(told[None], [1] * self.ranks.size)  # [W, 2, b]
        self.diagonal = whole[:, 1].sum(0)
        # A pair without others: a very small number, whose differences are not NaN.
        least = torch.finfo(told.dtype).min / 4
        self.rows = torch.cat(over_rows).clamp_min(least)
        self.columns = whole[:, 0].logsumexp(0).clamp_min(least)
        # log of the mean over the others, in excess of the pair's own.
        self.of_rows = self.rows - self.diagonal[self.own] - self.log_others
        self.of_columns = self.columns - self.diagonal - self.log_others

    def tile(self, z: Tensor, rows: slice, *, gradient: bool) -> Tensor:
        """log(eps + e^m) has the derivative sigmoid(m - log eps) by m, spread over the others by the softmax."""
        own = slice(self.start + rows.start, self.start + rows.stop)
        eps = torch.full_like(self.of_rows[rows], self.log_eps)
        total = (torch.logaddexp(self.of_rows[rows], eps) + torch.logaddexp(self.of_columns[own], eps)).sum()
        if gradient:
            w, _ = self._apart(z, rows)
            by_row = (self.of_rows[rows] - self.log_eps).sigmoid()
            by_column = (self.of_columns - self.log_eps).sigmoid()
            over_rows = (w - self.rows[rows, None]).exp_().mul_(by_row[:, None])
            torch.mul(w.sub_(self.columns).exp_(), by_column, out=z).add_(over_rows)
            z.diagonal(self.start + rows.start).copy_(-(by_row + by_column[own]))
        return total

    def _apart(self, z: Tensor, rows: slice) -> tuple[Tensor, Tensor]:
        """w with nothing on the diagonal, so that sums are over the others; and its diagonal."""
        w = z - self.reference.logits(rows)
        diagonal = w.diagonal(self.start + rows.start)
        own = diagonal.clone()
        diagonal.fill_(-torch.inf)
        return w, own
