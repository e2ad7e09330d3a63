"""Softmax distillation against more pairs than the batch holds: columns without gradient, that cost no tower.

The columns are embeddings of pairs that were embedded for another purpose (earlier batches; the idea is that of
cross-batch memory, arXiv 1912.06798). The teacher's side of them is as exact as the batch's own.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from aced.core.embeddings import Embeddings, Scalar


def softmax_kd_columns(
    student: Embeddings,
    teachers: Sequence[Embeddings],
    more: Embeddings,
    more_teachers: Sequence[Embeddings],
    *,
    teacher_temperature: float = 1.0,
) -> Tensor:
    """Softmax distillation of b pairs against their own b and m further pairs as columns.

    l_i = -1/2 sum over j in batch and columns of [p_ij log q_ij + p'_ij log q'_ij]; with m = 0 it differs from
    `losses.softmax_kd` in nothing. The b x (b + m) logits are held at once.

    Args:
        student: b pairs, with the logit scale of distillation.
        teachers: each teacher's embeddings of the same pairs; of several the probabilities are averaged.
        more: the student's embeddings of m further pairs; no gradient goes into them.
        more_teachers: each teacher's embeddings of those.
        teacher_temperature: divides the teachers' logits.
    """
    total = student.image.new_zeros((), dtype=torch.float32)
    for side, other in (("image", "text"), ("text", "image")):
        targets = [
            _logits(getattr(t, side), getattr(t, other), getattr(m, other), t.scale / teacher_temperature).softmax(1)
            for t, m in zip(teachers, more_teachers, strict=True)
        ]
        target = torch.stack(targets).mean(0).detach()
        logits = _logits(getattr(student, side), getattr(student, other), getattr(more, other).detach(), student.scale)
        total = total - (target * logits.log_softmax(1)).sum()
    return total / (2 * len(student))


def _logits(rows: Tensor, own: Tensor, more: Tensor, scale: Scalar) -> Tensor:
    return (rows.float() * scale) @ torch.cat([own.float(), more.float()]).T


class Columns(nn.Module):
    """The embeddings of the last pairs that were distilled on, of the student and of each teacher.

    They are buffers, so that they are saved and loaded with the objective.

    Args:
        size: how many pairs.
        widths: of the student's embeddings and of each teacher's.
    """

    count: Tensor

    def __init__(self, size: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.size = size
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))
        for number, width in enumerate(widths):
            for side in ("image", "text"):
                self.register_buffer(f"{side}{number}", torch.zeros(size, width))

    def get(self, models: Sequence[Embeddings]) -> list[Embeddings]:
        """What is held of each model, `[m, d]`, m at most `size`; scale and bias as in `models`."""
        there = min(int(self.count), self.size)
        return [
            Embeddings(getattr(self, f"image{i}")[:there], getattr(self, f"text{i}")[:there], e.scale, e.bias)
            for i, e in enumerate(models)
        ]

    @torch.no_grad()
    def put(self, models: Sequence[Embeddings]) -> None:
        """Take up b pairs of each model, in the places of the oldest."""
        size = min(len(models[0]), self.size)
        place = (int(self.count) + torch.arange(size, device=self.count.device)) % self.size
        for i, e in enumerate(models):
            getattr(self, f"image{i}")[place] = e.image[-size:].float()
            getattr(self, f"text{i}")[place] = e.text[-size:].float()
        self.count += size
