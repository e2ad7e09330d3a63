"""Candidates on which the student and the reference disagree: learnability with the reference's soft labels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from aced.core.embeddings import Embeddings
from aced.core.selection import gumbel
from aced.data.source import Candidates
from aced.train.scoring.choosing import Choice, Drawn

if TYPE_CHECKING:
    from aced.train.step import Trainer


class Disagreeing(Drawn):
    """Draws by the divergence of the student's contrastive softmax from the reference's over the super-batch."""

    def among(self, t: Trainer, candidates: Candidates, reference: Embeddings | None) -> Choice:
        """As in `Drawn`."""
        assert reference is not None
        assert self.scorer is not None
        with t.ledger.timed("score"):
            student = self.scorer.embed(t, candidates)
        with t.ledger.timed("select"), torch.no_grad():
            gains = disagreement(student, reference, float(t.objective.log_scale.exp()))
            tau = t.settings.temperature
            noisy = gains + tau * gumbel(len(gains), t.generator, gains.device)
            rows = noisy.topk(min(t.settings.batch, len(gains))).indices
            widths = [student.image.shape[1], reference.image.shape[1]]
            t.ledger.flops["selection"] += sum(2.0 * len(gains) ** 2 * width for width in widths)
        return Choice(rows.cpu(), gains.cpu(), reference)


def disagreement(student: Embeddings, reference: Embeddings, scale: float) -> Tensor:
    """`[B]` mean over both directions of KL(p_i || q_i): p the reference's softmax over the super-batch, q ours."""
    s = (student.image.float() * scale) @ student.text.float().T
    r = (reference.image.float() * reference.scale) @ reference.text.float().T
    total = s.new_zeros(len(s))
    for own, other in ((s, r), (s.T, r.T)):
        log_p = other.log_softmax(1)
        total += (log_p.exp() * (log_p - own.log_softmax(1))).sum(1)
    return total / 2
