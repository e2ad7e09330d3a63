"""The conditional scores of all candidates, given those chosen so far.

Nothing here forms a B x B matrix: after each chunk is drawn, its pair scores are added to a running vector, tile by
tile. A tile has the chosen as its rows and candidates as its columns, so that sums over the chosen run along whole
cache lines, and holds both directions, so that a small draw needs few operations.

Shapes: B candidates, c of a chunk, r of a tile, d the embedding width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from aced.core.products import write_logits
from aced.core.score_models import Loss, ScoreModel, Sides

# Maximum size of a tile of pair scores, in elements: 256 KB, which fits a processor's cache.
_TILE = 1 << 16
# The same on a GPU (32 MB, and as much for the losses): smaller ones finish sooner than Python can launch them.
_GPU_TILE = 1 << 23


class Gains(Protocol):
    """The conditional scores of all candidates, given those chosen so far."""

    def current(self) -> Tensor:
        """`[B]` float32, g_i(K)."""
        ...

    def add(self, chosen: Sequence[Sides]) -> None:
        """Add c pairs to K: each model's image and text embeddings of them."""
        ...


def joint_gains(models: Sequence[ScoreModel], loss: Loss) -> Gains:
    """The gains of a joint draw, with nothing chosen yet."""
    return _SigmoidGains(models) if loss == "sigmoid" else _SoftmaxGains(models)


def independent_gains(models: Sequence[ScoreModel], loss: Loss, blocks: Iterable[Sequence[Sides]]) -> Gains:
    """Gains that do not depend on the choice.

    `blocks` make up the whole super-batch, each model's embeddings of some pairs: with the softmax loss a candidate's
    gain is its loss against all of it, computed block by block.
    """
    return _Fixed(_SigmoidGains(models).current() if loss == "sigmoid" else _whole_batch_softmax(models, blocks))


class _Fixed:
    """Scores that do not depend on the choice."""

    def __init__(self, scores: Tensor) -> None:
        self.scores = scores

    def current(self) -> Tensor:
        return self.scores

    def add(self, chosen: Sequence[Sides]) -> None:
        """Nothing to update."""


class _SigmoidGains:
    """g_i(K) = s_ii + sum over k in K of (s_ik + s_ki); s is the signed sum of the models' pair losses.

    Within a modality s_ik is the loss of the images of i and k as negatives of each other, s_ki that of their texts.
    """

    def __init__(self, models: Sequence[ScoreModel]) -> None:
        self.models = models
        self.g = _signed_sum([(m.sign, _alone(m, lambda m: F.softplus(-_diagonal(m)))) for m in models])

    def current(self) -> Tensor:
        return self.g

    def add(self, chosen: Sequence[Sides]) -> None:
        for m, new in zip(self.models, chosen, strict=True):
            for rows, logits in _tiles(m, new):
                self.g[rows].add_(F.softplus(logits).sum((0, 1)), alpha=m.sign)


class _SoftmaxGains:
    """g_i(K) = the signed sum of the models' losses of i in the batch K + {i}.

    Two running log-sum-exps per model, over the chosen texts and over the chosen images. The change that i causes in
    the losses of K is left out, as in the published softmax variant of JEST. Within a modality z_ii is 0, and the loss
    is that of distinguishing i from K by an image (or text) similar to nothing else.
    """

    def __init__(self, models: Sequence[ScoreModel]) -> None:
        self.models = models
        self.own = [_alone(m, _diagonal) for m in models]  # z_ii
        self.lse = [torch.full_like(z, -torch.inf).repeat(2, 1) for z in self.own]  # [2, B]: over texts, over images

    def current(self) -> Tensor:
        losses = []
        for m, own, lse in zip(self.models, self.own, self.lse, strict=True):
            texts, images = torch.logaddexp(own, lse).unbind(0)
            losses.append((m.sign, (texts + images) / 2 - own))
        return _signed_sum(losses)

    def add(self, chosen: Sequence[Sides]) -> None:
        for m, new, lse in zip(self.models, chosen, self.lse, strict=True):
            for rows, logits in _tiles(m, new):
                lse[:, rows] = torch.logaddexp(lse[:, rows], logits.logsumexp(1))


def _whole_batch_softmax(models: Sequence[ScoreModel], blocks: Iterable[Sequence[Sides]]) -> Tensor:
    """`[B]` signed sum of the models' softmax losses of each pair against the whole super-batch, streamed."""
    gains = _SoftmaxGains(models)
    # i itself is among the whole batch: current() would count its own logit twice.
    for block in blocks:
        gains.add(block)
    return _signed_sum(
        [(m.sign, (lse[0] + lse[1]) / 2 - own) for m, own, lse in zip(models, gains.own, gains.lse, strict=True)]
    )


def block_rows(count: int, device: torch.device) -> int:
    """How many of `count` candidates form a block of `independent_gains`: a block's logits with all fit a tile."""
    return max(1, min(count, math.isqrt(tile_of(device))))


def tile_of(device: torch.device) -> int:
    """Elements of the largest tile."""
    return _GPU_TILE if device.type == "cuda" else _TILE


def _signed_sum(terms: Sequence[tuple[float, Tensor]]) -> Tensor:
    return torch.stack([sign * value for sign, value in terms]).sum(0)


def _alone(m: ScoreModel, value: Callable[[ScoreModel], Tensor]) -> Tensor:
    """`[B]` the contribution of each candidate's own pair; zero within a modality."""
    return torch.zeros(len(m.e), device=m.e.device) if m.within else value(m)


def _diagonal(m: ScoreModel) -> Tensor:
    """`[B]` float32 logits of the pairs themselves, z_ii."""
    rows = max(1, tile_of(m.e.device) // m.e.image.shape[1])
    pieces = zip(m.e.image.split(rows), m.e.text.split(rows), strict=True)
    return torch.cat([(x.float() * y.float()).sum(1) for x, y in pieces]) * m.scale + m.bias


def _tiles(m: ScoreModel, new: Sides) -> Iterator[tuple[slice, Tensor]]:
    """All candidates' logits with c new pairs, in both directions: pairs of (columns, `[2, c, r]` float32)."""
    count, c = len(m.e), len(new[0])
    step = max(1, tile_of(m.e.device) // (2 * c))
    for start in range(0, count, step):
        rows = slice(start, min(start + step, count))
        logits = torch.empty(2, c, rows.stop - start, device=m.e.device)
        for out, (side, other) in zip(logits.unbind(0), m.sides(new), strict=True):
            write_logits(out, other, side if step >= count else side[rows], m.scale)
        yield rows, logits.add_(m.bias)
