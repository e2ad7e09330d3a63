"""Softmax distillation against columns for which only the teacher has embeddings.

Softmax-KD compares a batch with itself: b columns, each of which costs the student a forward pass. If the teacher's
embeddings are cached, any number of further pairs can serve as columns at no such cost: the student's image, mapped
into the teacher's space, learns how the teacher sees it among all of *their* texts, and the reverse. Contrasting a
student with a teacher's embeddings is the idea of interactive contrastive learning (CLIP-KD, arXiv 2307.12732);
drawing the columns from the whole pool instead of the batch is ours.

Shapes: b pairs, m columns, d the student's width, D the teacher's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from aced.core.embeddings import Embeddings, Scalar
from aced.core.shares import Share, as_share
from aced.core.tiles import wide

Project = Callable[[Tensor], Tensor]
"""Maps the student's embeddings `[b, d_student]` to the teacher's width `[b, d_teacher]`."""

# Maximum size of a tile of logits, in elements.
_TILE = 1 << 22


def column_kd(
    student: Embeddings | Share,
    teacher: Embeddings | Share,
    columns: Embeddings,
    *,
    project: tuple[Project, Project],
    scale: Tensor | float,
    teacher_temperature: float = 1.0,
) -> Tensor:
    """Cross-entropy of the student's softmax over the teacher's columns with the teacher's own.

    l_i = -1/2 sum_j [P_ij log Q_ij + P'_ij log Q'_ij] with P_i the softmax over j of t X_i.Y_j, Q_i that of
    s u(x_i).Y_j; j = i is the pair's own, the others are the columns. P', Q' are the same for texts among images.

    Args:
        student: b pairs `[b, d]`, or this rank's share of them; its scale and bias are not used.
        teacher: the teacher's embeddings of the same pairs, `[b, D]`, with its logit scale t; a bias cancels.
        columns: its embeddings of m further pairs, `[m, D]`.
        project: maps images and texts of the student to the teacher's width; the result is normalised here.
        scale: s, the student's logit scale here; may be trained.
        teacher_temperature: divides the teacher's logits.

    Returns:
        A scalar, the mean over the pairs (for a rank's share, its part of it), differentiable once in the student's
        embeddings, the projections and the scale. Products are in float32 (float64 stays). Logits are computed in tiles
        of rows: memory is O(m) times the rows of a tile, whatever b.

    Raises:
        ValueError: the numbers of pairs or the widths differ, or a temperature is not positive.
    """
    share, theirs = as_share(student), as_share(teacher).own.detach()
    mine = share.own
    if len(theirs) != len(mine):
        raise ValueError(f"column_kd: the student has {len(mine)} pairs and the teacher {len(theirs)}.")
    if columns.image.shape[1] != theirs.image.shape[1]:
        raise ValueError(
            f"column_kd: the columns' width is {columns.image.shape[1]} and the teacher's {theirs.image.shape[1]}; "
            "both must come from one model."
        )
    if not teacher_temperature > 0:
        raise ValueError(f"column_kd: teacher_temperature must be positive, got {teacher_temperature}.")
    t = theirs.scale / teacher_temperature
    scale = scale if isinstance(scale, Tensor) else torch.tensor(scale, device=mine.device)
    sides = (
        (project[0](mine.image), theirs.image, theirs.text, columns.text),
        (project[1](mine.text), theirs.text, theirs.image, columns.image),
    )
    total = mine.image.new_zeros((), dtype=torch.float32)
    for mapped, *given in sides:
        unit = F.normalize(wide(mapped), dim=1)
        fixed = [wide(e.detach()) for e in given]
        total = total + _Direction.apply(unit, scale, t, *fixed)  # type: ignore[no-untyped-call]
    return total / (2 * len(share))


def column_flops(pairs: float, columns: int, width: int) -> float:
    """FLOPs of `column_kd`'s products, backward included: the teacher's, the student's, and that of its gradient.

    Args:
        pairs: b.
        columns: m.
        width: D.
    """
    return 2.0 * 2.0 * 3.0 * pairs * (columns + 1) * width


class _Direction(torch.autograd.Function):
    """The sum over rows of one direction's cross-entropy; the gradient is computed while a tile of logits exists."""

    @staticmethod
    def forward(
        ctx: Any, unit: Tensor, scale: Tensor, t: Scalar, theirs: Tensor, own: Tensor, others: Tensor
    ) -> Tensor:
        with torch.autocast(unit.device.type, enabled=False):
            s = wide(scale.detach())
            rows = max(1, _TILE // (len(others) + 1))
            total, of_scale, of_unit = unit.new_zeros(()), unit.new_zeros(()), torch.empty_like(unit)
            for start in range(0, len(unit), rows):
                tile = slice(start, min(start + rows, len(unit)))
                cosines = _cosines(unit[tile], own[tile], others)
                p = _cosines(theirs[tile], own[tile], others).mul_(t).softmax(1)
                z = cosines * s
                norms = z.logsumexp(1)
                # P adds up to 1, so -sum P log Q is the log-sum-exp less sum P z, and its derivative is Q - P.
                total += norms.sum() - (p * z).sum()
                g = z.sub_(norms[:, None]).exp_().sub_(p)
                of_scale += (g * cosines).sum()
                of_unit[tile] = (g[:, 1:] @ others).addcmul_(g[:, :1], own[tile]).mul_(s)
        ctx.save_for_backward(of_unit, of_scale.to(scale.dtype).reshape(scale.shape))
        return total

    @staticmethod
    def backward(ctx: Any, above: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # create_graph: the saved gradients would count as constants
            raise NotImplementedError("aced.columns: column_kd can be differentiated once, not twice.")
        of_unit, of_scale = ctx.saved_tensors
        return of_unit * above.to(of_unit.dtype), of_scale * above.to(of_scale.dtype), None, None, None, None


def _cosines(rows: Tensor, own: Tensor, others: Tensor) -> Tensor:
    """`[r, 1 + m]` products of r rows with their own pair's other side, and with all columns."""
    return torch.cat([(rows * own).sum(1, keepdim=True), rows @ others.T], 1)
