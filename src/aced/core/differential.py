"""Batches by how little the student's similarity of a pair has risen since an earlier time (DISSect).

Source: arXiv 2507.12998 (Zhao et al., differential-informed sample selection) and the code of its authors; formulas,
and in what this differs, in docs/method.md.

Shapes: B candidates, b of them chosen, d the embedding width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from aced.core.embeddings import Embeddings

PERCENT = 100.0
"""The CLIPScore of a pair whose image and text have the same embedding."""


def clip_scores(embedded: Embeddings) -> Tensor:
    """`[B]` float32, the CLIPScore of each pair: 100 times the cosine of image and text, or 0 if that is negative."""
    with torch.no_grad(), torch.autocast(embedded.device.type, enabled=False):
        return PERCENT * (embedded.image.float() * embedded.text.float()).sum(1).clamp(min=0.0)


def differentials(past: Tensor, now: Tensor) -> Tensor:
    """How far each pair's score has fallen since then, beyond the mean fall of the candidates that have a past.

    Args:
        past: `[B]` earlier scores; NaN for pairs without one, which count as average: 0.
        now: `[B]` current scores.

    Returns:
        `[B]` float32, on the device of the scores; nothing is read from it.
    """
    fallen, unknown = past - now, past.isnan()
    mean = fallen.masked_fill(unknown, 0.0).sum() / (~unknown).sum().clamp(min=1)
    return (fallen - mean).masked_fill(unknown, 0.0)


def largest(values: Tensor, size: int) -> Tensor:
    """`[size]` int64 rows of the largest of `[B]` values, in descending order; ties go to the first.

    Raises:
        ValueError: too few candidates.
    """
    if not 1 <= size <= len(values):
        raise ValueError(f"largest: cannot choose {size} of {len(values)} candidates.")
    return values.sort(descending=True, stable=True).indices[:size]
