"""Embeddings of a student and two teachers, and every loss as a function of them."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from aced.core import losses
from aced.core.embeddings import Embeddings


def embed(
    count: int = 7,
    width: int = 5,
    *,
    seed: int = 0,
    scale: float = 6.0,
    bias: float = -2.0,
    dtype: torch.dtype = torch.float64,
) -> Embeddings:
    noise = torch.randn(3, count, width, dtype=dtype, generator=torch.Generator().manual_seed(seed))
    image, text = F.normalize(noise[0], dim=1), F.normalize(noise[0] + noise[1], dim=1)
    return Embeddings(image, text, torch.tensor(scale, dtype=dtype), torch.tensor(bias, dtype=dtype))


STUDENT = embed()
TEACHER = embed(width=9, seed=1, scale=13.0, bias=-6.0)
OTHER = embed(width=3, seed=2, scale=4.0, bias=-1.0)


LOSSES: dict[str, Callable[[Embeddings, list[Embeddings]], Tensor]] = {
    "sigmoid": lambda student, _: losses.sigmoid(student),
    "softmax": lambda student, _: losses.softmax(student),
    "drrho": lambda student, references: losses.drrho(student, references[0], scale=9.0, eps=0.3),
    "softmax_kd": losses.softmax_kd,
    "softmax_kd, tempered": lambda s, teachers: losses.softmax_kd(s, teachers, teacher_temperature=3.0),
    "sigmoid_kd": losses.sigmoid_kd,
    "feature_matching": lambda s, teachers: losses.feature_matching(
        s, teachers, project=[resize(t.image.shape[1]) for t in teachers]
    ),
}


def resize(width: int) -> Callable[[Tensor], Tensor]:
    """A projection: pad or cut."""
    return lambda x: F.pad(x, (0, width))[:, :width]


NAMES = list(LOSSES)
DISTILLING = [name for name in NAMES if name not in ("sigmoid", "softmax", "drrho")]
