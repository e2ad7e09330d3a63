"""Contrastive and distillation losses as pure functions of embeddings.

Every loss is a mean over the b pairs of the batch. `student` carries the logit scale t and bias c that are
trained; a `teacher` carries its own, frozen. z_ij = t x_i.y_j + c is the logit of image i with text j.
Products are taken in float32 (or wider), whatever the embeddings' type; of bfloat16 on tensor cores, with float32 sums.
Shapes: b pairs, d the width; widths may differ by model. The b x b logits are made in row tiles and the gradient is
taken with them (`aced.core.pairs`), so that memory grows with b, not with its square.

Several processes pass their shares of the batch (`aced.core.shares.Share`) instead of embeddings: each computes its own
rows and returns its part of the loss. The parts add up to the loss. When all go backward, with one factor, each one's
embeddings get the gradient of the sum; of values that every process holds, such as a scale or a projection, each gets a
part of the gradient, and the parts must be summed.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aced.core.columns import Project as Project
from aced.core.columns import column_kd as column_kd
from aced.core.embeddings import Embeddings
from aced.core.forms import Sigmoid, SigmoidKD, Softmax, SoftmaxKD
from aced.core.pairs import mean_over_pairs
from aced.core.shares import Share, as_share
from aced.core.shifted import Shifted
from aced.core.tiles import wide

# Maximum size of a tile of logits, in elements.
_TILE = 1 << 22
# The same on a GPU (64 MB, a few times): at b = 32,768 that is 64 tiles of 512 rows, large enough for a GPU.
_GPU_TILE = 1 << 24


def sigmoid(student: Embeddings | Share) -> Tensor:
    """SigLIP's pairwise loss, arXiv 2303.15343: mean over i of sum_j softplus(-s_ij z_ij), s_ii = 1, else -1.

    Returns:
        A float32 scalar, differentiable in the embeddings, scale and bias.
    """
    share = as_share(student)
    return mean_over_pairs(share, Sigmoid(share), _tile(share))


def softmax(student: Embeddings | Share) -> Tensor:
    """CLIP's loss, arXiv 2103.00020: the mean of the image-to-text and text-to-image cross-entropies.

    Returns:
        A float32 scalar, differentiable in the embeddings and the scale (a bias cancels).
    """
    share = as_share(student)
    return mean_over_pairs(share, Softmax(share), _tile(share))


def drrho(
    student: Embeddings | Share, reference: Embeddings | Share, *, scale: float = 100.0, eps: float = 1e-4
) -> Tensor:
    """DRRho-CLIP's loss, arXiv 2505.06699: CLIP's, with a margin for every negative, set by the reference.

    l_i = 1/2 [log(eps + mean over j != i of exp d_ij) + log(eps + mean over j != i of exp d'_ij)] with
    d_ij = t [(x_i.y_j - x_i.y_i) - (X_i.Y_j - X_i.Y_i)] and d'_ij = t [(x_j.y_i - x_i.y_i) - (X_j.Y_i - X_i.Y_i)].

    Args:
        student: b pairs, x and y; its logit scale and bias are not used.
        reference: the same pairs by the reference, X and Y, whose scale and bias are not used either.
        scale: t, of both.
        eps: a pair whose mean is far below it hardly counts.

    Returns:
        A float32 scalar, differentiable in the student's embeddings.

    Raises:
        ValueError: t or eps is not positive, or the models have different numbers of pairs.
    """
    if not (scale > 0 and eps > 0):
        raise ValueError(f"drrho: scale and eps must be positive, got {scale} and {eps}.")
    share = as_share(student).scaled(scale, 0.0)
    (guide,) = _teachers(share, reference)
    return mean_over_pairs(share, Shifted(share, guide.scaled(scale, 0.0), eps), _tile(share))


def softmax_kd(
    student: Embeddings | Share,
    teacher: Embeddings | Share | Sequence[Embeddings | Share],
    *,
    teacher_temperature: float = 1.0,
) -> Tensor:
    """Cross-entropy of the student's contrastive softmax with the teacher's, arXiv 2411.18674 section 3.

    l_i = -1/2 sum_j [p_ij log q_ij + p'_ij log q'_ij]: p and p' are the teacher's softmax over texts and over
    images of its own logits, q and q' the student's. Of several teachers the probabilities are averaged.

    Args:
        student: b pairs; use a separate scale for distillation (a sigmoid loss's scale does not fit).
        teacher: one teacher or several, embeddings of the same b pairs.
        teacher_temperature: divides the teacher's logits.
    """
    if not teacher_temperature > 0:
        raise ValueError(f"softmax_kd: teacher_temperature must be positive, got {teacher_temperature}.")
    share = as_share(student)
    teachers = [t.scaled(t.own.scale / teacher_temperature, 0.0) for t in _teachers(share, teacher)]
    return mean_over_pairs(share, SoftmaxKD(share, teachers), _tile(share))


def sigmoid_kd(student: Embeddings | Share, teacher: Embeddings | Share | Sequence[Embeddings | Share]) -> Tensor:
    """Mean over i of sum_j of the binary cross-entropy of the student's with the teacher's sigmoid(z_ij).

    With several teachers the probabilities are averaged. Use a teacher that was trained with the sigmoid loss: without
    a bias its probabilities were never trained as such.
    """
    share = as_share(student)
    return mean_over_pairs(share, SigmoidKD(share, _teachers(share, teacher)), _tile(share))


def feature_matching(
    student: Embeddings | Share,
    teacher: Embeddings | Share | Sequence[Embeddings | Share],
    *,
    project: Project | Sequence[Project] | nn.ModuleList | None = None,
) -> Tensor:
    """Mean over i of half the squared distances between the student's and the teacher's unit vectors.

    l_i = 1/2 (|x_i - X_i|^2 + |y_i - Y_i|^2); of several teachers the mean.

    Args:
        student: b pairs.
        teacher: one teacher or several, embeddings of the same b pairs.
        project: maps the student's embeddings to each teacher's width, one for each teacher; its output is
            normalised here. May be omitted if the widths are equal.
    """
    share = as_share(student)
    mine, teachers = share.own, [t.own for t in _teachers(share, teacher)]
    projections: list[Project | None]
    if project is None:
        projections = [None] * len(teachers)
    elif isinstance(project, (Sequence, nn.ModuleList)):  # a ModuleList is callable too, but holds several
        projections = list(project)
    else:
        projections = [project]
    if len(projections) != len(teachers):
        raise ValueError(f"feature_matching: {len(teachers)} teachers but {len(projections)} projections.")
    total = mine.image.new_zeros((), dtype=torch.float32)
    for t, p in zip(teachers, projections, strict=True):
        if p is None and t.image.shape[1] != mine.image.shape[1]:
            raise ValueError(
                f"feature_matching: the student's width is {mine.image.shape[1]} and the teacher's "
                f"{t.image.shape[1]}; pass a projection."
            )
        for own, other in ((mine.image, t.image), (mine.text, t.text)):
            mapped = wide(own) if p is None else F.normalize(wide(p(own)), dim=1)
            total = total + (mapped - wide(other)).square().sum()
    return total / (2 * len(share) * len(teachers))


def _tile(share: Share) -> int:
    return _GPU_TILE if share.own.device.type == "cuda" else _TILE


def _teachers(student: Share, teacher: Embeddings | Share | Sequence[Embeddings | Share]) -> list[Share]:
    teachers = [as_share(t) for t in ([teacher] if isinstance(teacher, (Embeddings, Share)) else teacher)]
    if not teachers:
        raise ValueError("distillation: the list of teachers is empty.")
    for t in teachers:
        if list(t.counts) != list(student.counts):
            raise ValueError(
                f"distillation: the student has {_pairs(student)} pairs and a teacher {_pairs(t)}; "
                "both must embed the same batch."
            )
    return [t.detach() for t in teachers]


def _pairs(share: Share) -> str:
    """The number of pairs, and the ranks they belong to."""
    return " + ".join(map(str, share.counts))
