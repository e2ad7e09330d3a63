"""Joint example selection (JEST) for active data curation: which b of B candidates to train on.

Sources: arXiv 2406.17711 (JEST, the joint draw in chunks) and arXiv 2411.18674 (ACID and ACED, the scores); the score
`diverse` is this project's.

Nothing here forms a B x B matrix. A running vector of conditional scores `g_i(K)` is kept for all candidates
and, after each chunk is drawn, the chunk's pair scores are added to it, tile by tile: `4 B b d` multiply-adds
and `O(B)` memory beside one tile, where recomputing dense matrices at every chunk costs `6 n B^2 d`.

Shapes: B candidates, b = `size` of them chosen, K those chosen so far, c a chunk, d the embedding width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from aced.core.embeddings import Embeddings
from aced.core.products import logits_with
from aced.core.scored import Loss as Loss
from aced.core.scored import Model, check_how, check_models, models_of
from aced.core.scored import Score as Score
from aced.core.scored import Strategy as Strategy

# Largest tile of pair scores that is held at once, in elements; a chunk's B x c block is cut into row tiles.
_TILE = 1 << 21
# The same on a GPU (32 MB, and as much for the losses): a smaller one is computed sooner than Python can ask for it.
_GPU_TILE = 1 << 23


@dataclass(frozen=True)
class Selection:
    """What was chosen, in drawing order.

    Attributes:
        indices: `[size]` int64, distinct rows of the super-batch.
        gains: `[size]` float32, g_i(K): the conditional score of each when it was drawn, without the noise.
        scores: `[B]` float32, g_i of the empty set for every candidate: s_ii for the sigmoid loss, zero for
            the softmax loss with joint selection (a batch of one has no loss).
        chunk: `[size]` int64, the chunk each was drawn in.
    """

    indices: Tensor
    gains: Tensor
    scores: Tensor
    chunk: Tensor


def select(
    student: Embeddings | None,
    reference: Embeddings | None,
    size: int,
    *,
    score: Score = "learnability",
    loss: Loss = "sigmoid",
    strategy: Strategy = "joint",
    chunks: int = 16,
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
) -> Selection:
    """Choose `size` of B candidates to train on.

    Args:
        student: the model in training, embeddings of the super-batch; may be None for `easy-reference` and
            `diverse`.
        reference: the frozen reference's embeddings of the same pairs, of any width; may be None for
            `hard-student`.
        size: how many to choose, 1 <= size <= B. Exactly so many distinct indices come back.
        score: `learnability` (student's loss minus reference's: H-ACID), `easy-reference` (minus the
            reference's loss: I-ACID), `hard-student` (the student's loss), or `diverse` (unlike what was chosen
            before, by the reference's similarities of images and of texts; whether a pair fits does not count).
        loss: the contrastive loss that the scores are made of.
        strategy: `joint` draws in chunks, each conditional on all chosen before; `independent` ignores the
            others; `top-k` is `independent` without noise.
        chunks: number of chunks n of a joint draw; sizes differ by at most one, never more chunks than
            `size`.
        temperature: tau of the draw, probability proportional to exp(g / tau) without replacement
            (Gumbel-top-k); 0 takes the largest.
        generator: source of the noise; the same generator state gives the same indices.

    Returns:
        A `Selection` on the embeddings' device. Scores are computed in float32 whatever the inputs' type.

    Raises:
        ValueError: too few candidates, a model missing that the score needs, shapes or devices that do not
            match, rows that are not of unit length or not finite, or an unknown name.
    """
    models = models_of(student, reference, score)
    first = models[0].e
    check_how(size=size, score=score, loss=loss, strategy=strategy, chunks=chunks, temperature=temperature)
    if size > len(first):
        raise ValueError(
            f"select: cannot choose {size} of {len(first)} candidates; give a larger super-batch or a smaller size."
        )
    check_models(models)
    with torch.no_grad(), torch.autocast(first.device.type, enabled=False):
        if strategy == "joint":
            return _draw(joint_gains(models, loss), models, chunk_sizes(size, chunks), temperature, generator)
        fixed = independent_gains(models, loss, _blocks(models))
        noise = 0.0 if strategy == "top-k" else temperature
        return _draw(fixed, models, [size], noise, generator)


# --- drawing ------------------------------------------------------------------------------------------------


class Gains(Protocol):
    """The conditional scores of all candidates, given the chosen so far."""

    def current(self) -> Tensor:
        """`[B]` float32, g_i(K)."""
        ...

    def add(self, chosen: Sequence[Embeddings]) -> None:
        """Take c pairs into K: each model's embeddings of them."""
        ...


def chunk_sizes(size: int, chunks: int) -> list[int]:
    """The sizes of the chunks of a draw: they differ by at most one."""
    n = min(chunks, size)
    return shares_of(size, n)


def shares_of(size: int, parts: int) -> list[int]:
    """How many of `size` fall to each part: the same number, or one less to the last ones."""
    return [size // parts + (i < size % parts) for i in range(parts)]


def _draw(
    gains: Gains,
    models: Sequence[Model],
    sizes: Sequence[int],
    temperature: float,
    generator: torch.Generator | None,
) -> Selection:
    scores = gains.current().clone()
    count = len(scores)
    taken = torch.zeros(count, dtype=torch.bool, device=scores.device)
    indices, drawn = [], []
    for number, c in enumerate(sizes):
        g = gains.current()
        noise = gumbel(count, generator, g.device) if temperature > 0 else None
        noisy = perturbed(g, noise, temperature)
        # [c], descending, which is the order of the draw
        chosen = noisy.masked_fill(taken, -torch.inf).topk(c).indices
        taken[chosen] = True
        indices.append(chosen)
        drawn.append(g[chosen])
        if number + 1 < len(sizes):
            gains.add([m.e[chosen] for m in models])
    chunk = torch.arange(len(sizes), device=scores.device)
    return Selection(
        indices=torch.cat(indices),
        gains=torch.cat(drawn),
        scores=scores,
        # With the length known a GPU need not be waited for.
        chunk=chunk.repeat_interleave(torch.tensor(sizes, device=scores.device), output_size=sum(sizes)),
    )


def perturbed(g: Tensor, noise: Tensor | None, temperature: float) -> Tensor:
    """The order of g / tau + Gumbel noise, in a form that allows tau = 0 (no noise) and overflows at no tau."""
    scaled = g / max(temperature, 1.0)
    return scaled if noise is None else scaled + min(temperature, 1.0) * noise


def gumbel(count: int, generator: torch.Generator | None, device: torch.device) -> Tensor:
    """`[count]` float32 of Gumbel noise."""
    # Drawn on the generator's own device, so that a CPU generator gives the same noise for any device.
    home = generator.device if generator is not None else device
    exponential = torch.empty(count, dtype=torch.float32, device=home).exponential_(generator=generator)
    return -exponential.clamp_min_(torch.finfo(torch.float32).tiny).log_().to(device)


# --- scores -------------------------------------------------------------------------------------------------


def joint_gains(models: Sequence[Model], loss: Loss) -> Gains:
    """The gains of a joint draw, with nothing chosen yet."""
    return _SigmoidGains(models) if loss == "sigmoid" else _SoftmaxGains(models)


def independent_gains(models: Sequence[Model], loss: Loss, blocks: Iterable[Sequence[Embeddings]]) -> Gains:
    """Gains that do not depend on what is chosen.

    `blocks` make up the whole super-batch, each model's embeddings of some pairs: with the softmax loss a candidate's
    gain is its loss against all of it, taken block by block.
    """
    return _Fixed(_SigmoidGains(models).current() if loss == "sigmoid" else _whole_batch_softmax(models, blocks))


@dataclass
class _Fixed:
    """Scores that do not depend on what was chosen."""

    scores: Tensor

    def current(self) -> Tensor:
        return self.scores

    def add(self, chosen: Sequence[Embeddings]) -> None:
        """Nothing to update."""


class _SigmoidGains:
    """g_i(K) = s_ii + sum over k in K of (s_ik + s_ki); s is the signed sum of the models' pair losses.

    Within a modality s_ik is the loss of the images of i and k as negatives of each other, s_ki that of their texts.
    """

    def __init__(self, models: Sequence[Model]) -> None:
        self.models = models
        self.g = _signed_sum([(m.sign, _alone(m, lambda e: F.softplus(-_diagonal(e)))) for m in models])

    def current(self) -> Tensor:
        return self.g

    def add(self, chosen: Sequence[Embeddings]) -> None:
        for m, new in zip(self.models, chosen, strict=True):
            for side, other in m.sides(new):
                for rows, logits in _tiles(side, other, m.e):
                    self.g[rows].add_(_sum_of_losses(logits), alpha=m.sign)


class _SoftmaxGains:
    """g_i(K) = the signed sum of the models' losses of i in the batch K + {i}.

    Two running log-sum-exps per model, over the chosen texts and over the chosen images. What i changes in
    the losses of K is left out, as in the published softmax variant of JEST. Within a modality z_ii is 0, and the loss
    that of telling i from K by an image (or text) that is like nothing else.
    """

    def __init__(self, models: Sequence[Model]) -> None:
        self.models = models
        self.own = [_alone(m, _diagonal) for m in models]  # z_ii
        self.lse = [(torch.full_like(z, -torch.inf), torch.full_like(z, -torch.inf)) for z in self.own]

    def current(self) -> Tensor:
        losses = []
        for m, own, (texts, images) in zip(self.models, self.own, self.lse, strict=True):
            denominator = (torch.logaddexp(own, texts) + torch.logaddexp(own, images)) / 2
            losses.append((m.sign, denominator - own))
        return _signed_sum(losses)

    def add(self, chosen: Sequence[Embeddings]) -> None:
        for m, new, running in zip(self.models, chosen, self.lse, strict=True):
            for lse, (side, other) in zip(running, m.sides(new), strict=True):
                for rows, logits in _tiles(side, other, m.e):
                    lse[rows] = torch.logaddexp(lse[rows], logits.logsumexp(1))


def _whole_batch_softmax(models: Sequence[Model], blocks: Iterable[Sequence[Embeddings]]) -> Tensor:
    """`[B]` signed sum of the models' softmax losses of each pair against the whole super-batch, streamed."""
    gains = _SoftmaxGains(models)
    # i itself is among the whole batch: current() would count its own logit twice.
    for block in blocks:
        gains.add(block)
    return _signed_sum(
        [
            (m.sign, (texts + images) / 2 - own)
            for m, own, (texts, images) in zip(models, gains.own, gains.lse, strict=True)
        ]
    )


def block_rows(count: int, device: torch.device) -> int:
    """How many of `count` candidates make a block of `independent_gains`: a block's logits with all fit a tile."""
    return max(1, min(count, math.isqrt(_tile(device))))


def _blocks(models: Sequence[Model]) -> Iterator[Sequence[Embeddings]]:
    count = len(models[0].e)
    step = block_rows(count, models[0].e.device)
    for start in range(0, count, step):
        yield [m.e[start : start + step] for m in models]


def _signed_sum(terms: Sequence[tuple[float, Tensor]]) -> Tensor:
    return torch.stack([sign * value for sign, value in terms]).sum(0)


def _alone(m: Model, value: Callable[[Embeddings], Tensor]) -> Tensor:
    """`[B]` what each candidate's own pair gives; zero where pairs are not looked at."""
    return torch.zeros(len(m.e), device=m.e.device) if m.within else value(m.e)


def _diagonal(e: Embeddings) -> Tensor:
    """`[B]` float32 logits of the pairs themselves, z_ii."""
    pieces = [
        (x.float() * y.float()).sum(1) for x, y in zip(e.image.split(_rows(e)), e.text.split(_rows(e)), strict=True)
    ]
    return torch.cat(pieces) * e.scale + e.bias


def _tiles(side: Tensor, chosen: Tensor, e: Embeddings) -> Iterator[tuple[slice, Tensor]]:
    """Row tiles of `scale * side @ chosen.T + bias` in float32: pairs of (rows, `[rows, c]`)."""
    logits = logits_with(chosen, side, float(e.scale), float(e.bias))
    step = max(1, _tile(side.device) // len(chosen))
    for start in range(0, len(side), step):
        rows = slice(start, min(start + step, len(side)))
        yield rows, logits(side[rows])


def _sum_of_losses(logits: Tensor) -> Tensor:
    """`[rows]` sums over the chosen ones, as negatives, of softplus(z)."""
    return F.softplus(logits).sum(1)


def _rows(e: Embeddings) -> int:
    return max(1, _tile(e.device) // e.image.shape[1])


def _tile(device: torch.device) -> int:
    return _GPU_TILE if device.type == "cuda" else _TILE
