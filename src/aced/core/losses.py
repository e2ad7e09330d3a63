"""Contrastive and distillation losses as pure functions of embeddings.

Every loss is a mean over the b pairs of the batch. `student` carries the logit scale t and bias c that are
trained; a `teacher` carries its own, frozen. z_ij = t x_i.y_j + c is the logit of image i with text j.
Products are taken in float32 (or wider), whatever the embeddings' type. Shapes: b pairs, d the width; widths
may differ by model. The b x b logits are made in row tiles and the gradient is taken with them (`aced.core.pairs`),
so that memory grows with b, not with its square.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aced.core.columns import Project as Project
from aced.core.columns import column_kd as column_kd
from aced.core.embeddings import Embeddings
from aced.core.pairs import Sigmoid, SigmoidKD, Softmax, SoftmaxKD, mean_over_pairs, wide

# Largest tile of logits that is held at once, in elements.
_TILE = 1 << 22
# The same on a GPU (64 MB, a few times): at b = 32,768 that is 64 tiles of 512 rows, where products are worth a GPU.
_GPU_TILE = 1 << 24


def sigmoid(student: Embeddings) -> Tensor:
    """SigLIP's pairwise loss, arXiv 2303.15343: mean over i of sum_j softplus(-s_ij z_ij), s_ii = 1, else -1.

    Returns:
        A float32 scalar, differentiable in the embeddings, scale and bias.
    """
    return mean_over_pairs(student, Sigmoid(len(student)), _tile(student))


def softmax(student: Embeddings) -> Tensor:
    """CLIP's loss, arXiv 2103.00020: the mean of the image-to-text and text-to-image cross-entropies.

    Returns:
        A float32 scalar, differentiable in the embeddings and the scale (a bias cancels).
    """
    return mean_over_pairs(student, Softmax(len(student)), _tile(student))


def softmax_kd(
    student: Embeddings, teacher: Embeddings | Sequence[Embeddings], *, teacher_temperature: float = 1.0
) -> Tensor:
    """Cross-entropy of the student's contrastive softmax with the teacher's, arXiv 2411.18674 section 3.

    l_i = -1/2 sum_j [p_ij log q_ij + p'_ij log q'_ij]: p and p' are the teacher's softmax over texts and over
    images of its own logits, q and q' the student's. Of several teachers the probabilities are averaged.

    Args:
        student: b pairs; give it a scale of its own for distillation (a sigmoid loss's scale is another).
        teacher: one teacher or several, embeddings of the same b pairs.
        teacher_temperature: divides the teacher's logits.
    """
    if not teacher_temperature > 0:
        raise ValueError(f"softmax_kd: teacher_temperature must be positive, got {teacher_temperature}.")
    teachers = [replace(t, scale=t.scale / teacher_temperature, bias=0.0) for t in _teachers(student, teacher)]
    return mean_over_pairs(student, SoftmaxKD(len(student), teachers), _tile(student))


def sigmoid_kd(student: Embeddings, teacher: Embeddings | Sequence[Embeddings]) -> Tensor:
    """Mean over i of sum_j of the binary cross-entropy of the student's with the teacher's sigmoid(z_ij).

    Of several teachers the probabilities are averaged. A teacher without a bias gives probabilities that were
    never trained to be any: use one that was trained with the sigmoid loss.
    """
    return mean_over_pairs(student, SigmoidKD(len(student), _teachers(student, teacher)), _tile(student))


def feature_matching(
    student: Embeddings,
    teacher: Embeddings | Sequence[Embeddings],
    *,
    project: Project | Sequence[Project] | nn.ModuleList | None = None,
) -> Tensor:
    """Mean over i of half the squared distances between the student's and the teacher's unit vectors.

    l_i = 1/2 (|x_i - X_i|^2 + |y_i - Y_i|^2); of several teachers the mean.

    Args:
        student: b pairs.
        teacher: one teacher or several, embeddings of the same b pairs.
        project: maps the student's embeddings to each teacher's width, one for each teacher; its output is
            normalised here. May be left out where the widths are equal.
    """
    teachers = _teachers(student, teacher)
    projections: list[Project | None]
    if project is None:
        projections = [None] * len(teachers)
    elif isinstance(project, (Sequence, nn.ModuleList)):  # a ModuleList is callable too, but holds several
        projections = list(project)
    else:
        projections = [project]
    if len(projections) != len(teachers):
        raise ValueError(f"feature_matching: {len(teachers)} teachers but {len(projections)} projections.")
    total = student.image.new_zeros((), dtype=torch.float32)
    for t, p in zip(teachers, projections, strict=True):
        if p is None and t.image.shape[1] != student.image.shape[1]:
            raise ValueError(
                f"feature_matching: the student's width is {student.image.shape[1]} and the teacher's "
                f"{t.image.shape[1]}; give a projection."
            )
        for own, other in ((student.image, t.image), (student.text, t.text)):
            mapped = wide(own) if p is None else F.normalize(wide(p(own)), dim=1)
            total = total + (mapped - wide(other)).square().sum()
    return total / (2 * len(student) * len(teachers))


def _tile(student: Embeddings) -> int:
    return _GPU_TILE if student.device.type == "cuda" else _TILE


def _teachers(student: Embeddings, teacher: Embeddings | Sequence[Embeddings]) -> Sequence[Embeddings]:
    teachers = [teacher] if isinstance(teacher, Embeddings) else list(teacher)
    if not teachers:
        raise ValueError("distillation: the list of teachers is empty.")
    for t in teachers:
        if len(t) != len(student):
            raise ValueError(
                f"distillation: the student has {len(student)} pairs and a teacher {len(t)}; "
                "both must embed the same batch."
            )
    return [t.detach() for t in teachers]
