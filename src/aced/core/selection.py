"""Joint example selection (JEST) for active data curation: which b of B candidates to train on.

Sources: arXiv 2406.17711 (JEST, the joint draw in chunks) and arXiv 2411.18674 (ACID and ACED, the scores); the score
`diverse` is this project's.

There is one draw, over the candidates of any number of processes; `select` is the draw in a single process, with
checked input. Nothing forms a B x B matrix. A running vector of conditional scores `g_i(K)` is kept for all candidates,
and after each chunk is drawn its pair scores are added, tile by tile: `4 B b d` multiply-adds and `O(B)` memory beside
two tiles, whereas recomputing dense matrices at every chunk costs `6 n B^2 d`.

Shapes: B candidates, b = `size` of them chosen, K those chosen so far, c a chunk, d the embedding width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Unpack, get_args

import torch
from torch import Tensor

from aced.core.embeddings import Embeddings
from aced.core.gains import Gains, independent_gains, joint_gains, tile_of
from aced.core.quotas import BySource
from aced.core.ranks import Alone, Ranks
from aced.core.score_models import DrawHow, DrawWords, ScoreModel, check_models, models_of
from aced.core.score_models import Loss as Loss
from aced.core.score_models import Score as Score
from aced.core.score_models import Strategy as Strategy
from aced.core.selection_ranks import Apart, Chunk, DrawTogether, Party, Scope, Sharing


@dataclass(frozen=True)
class Selection:
    """The result of a selection, in drawing order.

    Attributes:
        indices: `[size]` int64, distinct rows of the super-batch.
        gains: `[size]` float32, g_i(K): the conditional score of each when drawn, without the noise.
        scores: `[B]` float32, g_i of the empty set for every candidate: s_ii for the sigmoid loss, zero for
            the softmax loss with joint selection (a batch of one has no loss).
        sizes: number drawn in each chunk.
    """

    indices: Tensor
    gains: Tensor
    scores: Tensor
    sizes: tuple[int, ...]

    @cached_property
    def chunk(self) -> Tensor:
        """`[size]` int64, the chunk in which each was drawn."""
        chunk = torch.arange(len(self.sizes)).repeat_interleave(torch.tensor(self.sizes))
        return chunk.to(self.indices.device)

    def finite(self) -> Tensor:
        """A bool on the device: whether all scores were numbers. With unchecked embeddings they may not be: NaN counts
        as the largest score."""
        return self.scores.isfinite().all() & self.gains.isfinite().all()


def select(
    student: Embeddings | None,
    reference: Embeddings | None,
    size: int,
    *,
    generator: torch.Generator | None = None,
    **how: Unpack[DrawWords],
) -> Selection:
    """Choose `size` of B candidates to train on.

    Args:
        student: the model in training, embeddings of the super-batch; may be None for `easy-reference` and
            `diverse`.
        reference: the frozen reference's embeddings of the same pairs, of any width; may be None for
            `hard-student`.
        size: number to choose, 1 <= size <= B. Exactly this many distinct indices are returned.
        generator: source of the noise, and of a start where quotas are rounded; the same generator state gives the
            same indices.
        score: `learnability` (student's loss minus reference's: H-ACID), the default; `easy-reference` (minus the
            reference's loss: I-ACID), `hard-student` (the student's loss), or `diverse` (unlike earlier
            choices, by the reference's similarities of images and of texts; whether a pair fits does not count).
        loss: the contrastive loss behind the scores: `sigmoid`, the default, or `softmax`.
        strategy: `joint`, the default, draws in chunks, each conditional on all earlier choices; `independent` ignores
            the others; `top-k` is `independent` without noise.
        chunks: number of chunks n of a joint draw, 16 by default; sizes differ by at most one, never more chunks
            than `size`.
        temperature: tau of the draw, 1 by default: probability proportional to exp(g / tau) without replacement
            (Gumbel-top-k); 0 takes the largest.
        sources: `[B]` whole numbers, the source of each candidate: each source gives its share of `size`, in proportion
            to its candidates, compared with the choices of all. A share that is not whole is rounded at random, so that
            small sources get theirs over many draws. None, the default: all compete.

    Returns:
        A `Selection` on the embeddings' device. Scores are computed in float32 whatever the inputs' type.

    Raises:
        ValueError: there are too few candidates, a model that the score needs is missing, shapes or devices do not
            match, rows that are not of unit length or not finite, sources that are not B whole numbers, or an unknown
            name.
    """
    asked = DrawHow(**how)
    models = models_of(student, reference, asked.score)
    count = len(models[0].e)
    asked = replace(asked, sources=_checked(asked.sources, count))
    party = _party(models, size, Alone(), [count], "global", asked, generator)
    check_models(models)
    return _draw(party, asked, generator)


def draw(
    student: Embeddings | None,
    reference: Embeddings | None,
    size: int,
    ranks: Ranks,
    counts: Sequence[int],
    *,
    scope: Scope = "global",
    generator: torch.Generator | None = None,
    **how: Unpack[DrawWords],
) -> Selection:
    """Choose `size` of the candidates of all ranks, without checking the embeddings: nothing waits for a GPU.

    Args:
        student: the model in training, embeddings of this rank's candidates; see `select` for when it may be None.
        reference: the reference's embeddings of the same pairs.
        size: number chosen by all ranks together.
        ranks: the processes.
        counts: every rank's number of candidates.
        scope: `global`: all candidates compete, as in one process. `quota`: each rank chooses `size / W` of its own,
            compared with the choices of all ranks. `local`: likewise, compared only with its own choices.
        generator: in the same state on every rank; a CPU generator gives the same noise on every device.
        score, loss, strategy, chunks, temperature: as in `select`.
        sources: as in `select`, as a tensor of int64 on the CPU; for a single rank.

    Returns:
        The same `Selection` on every rank, with rows of the whole super-batch. With `quota` and `local`, a rank with
        fewer candidates than its share contributes all of them, so fewer than `size` may be chosen.

    Raises:
        ValueError: there are too few candidates, a model that the score needs is missing, a name is unknown, or there
            are sources and several ranks.
    """
    asked = DrawHow(**how)
    models = models_of(student, reference, asked.score)
    return _draw(_party(models, size, ranks, counts, scope, asked, generator), asked, generator)


# --- how many ---------------------------------------------------------------------------------------------------


def shares_of(size: int, parts: int) -> list[int]:
    """How many of `size` belong to each part: the same number, or one less for the last ones."""
    return [size // parts + (i < size % parts) for i in range(parts)]


def settled(size: int, counts: Sequence[int], scope: Scope) -> list[int] | None:
    """How many of each rank's candidates a draw of `size` chooses; None if only the draw can tell.

    Args:
        size: how many all ranks together choose, `sum(counts)` at most.
        counts: every rank's number of candidates.
        scope: as in `draw`.
    """
    if len(counts) == 1:
        return [size]
    if scope == "global":
        return None
    return [min(share, count) for share, count in zip(shares_of(size, len(counts)), counts, strict=True)]


def _party(
    models: Sequence[ScoreModel],
    size: int,
    ranks: Ranks,
    counts: Sequence[int],
    scope: Scope,
    how: DrawHow,
    generator: torch.Generator | None,
) -> Party:
    """The ranks that draw, and the numbers for each chunk."""
    if scope not in get_args(Scope):
        raise ValueError(f"select: unknown scope {scope!r}; known: {', '.join(get_args(Scope))}.")
    how.check(size)
    if size > sum(counts):
        on = f" on {ranks.size} ranks" if ranks.size > 1 else ""
        raise ValueError(
            f"select: cannot choose {size} of {sum(counts)} candidates{on}; use a larger super-batch or a smaller size."
        )
    n = how.chunks if how.strategy == "joint" else 1
    if how.sources is not None:
        if ranks.size > 1:
            raise ValueError(f"select: sources need a single rank, not {ranks.size}.")
        return BySource(models, ranks, torch.as_tensor(how.sources), size, min(n, size), generator)
    if ranks.size == 1 or scope == "global":
        sizes = [[c] for c in shares_of(size, min(n, size))]
        return (Party if ranks.size == 1 else DrawTogether)(models, ranks, counts, sizes)
    shares = settled(size, counts, scope) or []
    n = max(1, min(n, max(shares)))
    sizes = [list(c) for c in zip(*(shares_of(share, n) for share in shares), strict=True)]
    return (Sharing if scope == "quota" else Apart)(models, ranks, counts, sizes)


def _checked(sources: Sequence[int] | Tensor | None, count: int) -> Tensor | None:
    """The sources of `count` candidates, `[B]` int64 on the CPU."""
    if sources is None:
        return None
    wanted = f"select: sources must be {count} whole numbers, one for each candidate, not"
    try:
        found = torch.as_tensor(sources).cpu()
    except (TypeError, ValueError, RuntimeError) as error:  # names, gaps or lists of unequal length
        raise ValueError(f"{wanted} a {type(sources).__name__} that makes no tensor ({error}).") from None
    if found.shape != (count,) or found.is_floating_point() or found.is_complex():
        raise ValueError(f"{wanted} {found.dtype} of shape {list(found.shape)}.")
    return found.long()


# --- drawing ----------------------------------------------------------------------------------------------------


def _draw(party: Party, how: DrawHow, generator: torch.Generator | None) -> Selection:
    temperature = 0.0 if how.strategy == "top-k" else how.temperature
    with torch.no_grad(), torch.autocast(party.device.type, enabled=False):
        if how.strategy == "joint":
            gains = joint_gains(party.models, how.loss)
        else:
            gains = independent_gains(party.models, how.loss, party.blocks())
        scores = party.ranks.gather(gains.current(), party.counts).clone()
        chunks = _chunks(party, gains, temperature, generator)
        rows, drawn = party.everyones(chunks)
    return Selection(rows, drawn, scores, tuple(sum(of) for of in party.sizes))


def _chunks(party: Party, gains: Gains, temperature: float, generator: torch.Generator | None) -> list[Chunk]:
    """Draw chunk after chunk."""
    # One place more than there are candidates: rows of other ranks are marked there.
    taken = torch.zeros(party.count + 1, dtype=torch.bool, device=party.device)
    chunks: list[Chunk] = []
    for number, noise in enumerate(_noise(party, temperature, generator)):
        g = gains.current()
        # g / tau + noise, in a form that allows tau = 0 (no noise) and overflows at no tau.
        noisy = g / temperature if temperature > 1 else g
        if noise is not None:
            noisy = noise.add_(noisy)
        chunk = party.choose(number, noisy.masked_fill(taken[:-1], -torch.inf), g)
        taken.index_fill_(0, chunk.places, True)
        chunks.append(chunk)
        if number + 1 < len(party.sizes):
            new = party.embeddings(number, chunk)
            if len(new[0][0]):
                gains.add(new)
    return chunks


def _noise(party: Party, temperature: float, generator: torch.Generator | None) -> Iterator[Tensor | None]:
    """For each chunk `[B_r]` Gumbel noise of this rank's candidates, times min(tau, 1); None without noise.

    The noise of many chunks, or of all, is computed together and copied to the device at once.
    """
    chunks, whole = len(party.sizes), sum(party.counts)
    if temperature == 0:
        yield from [None] * chunks
        return
    own = slice(party.start, party.start + party.count)
    # Drawn on the generator's own device, so that a CPU generator gives the same noise for any device.
    home = generator.device if generator is not None else party.device
    away = home.type == "cpu" and party.device.type == "cuda"
    at_once = max(1, tile_of(party.device) // max(1, party.count))
    for first in range(0, chunks, at_once):
        rows = min(at_once, chunks - first)
        noise = torch.empty(rows, party.count, device=home, pin_memory=away)
        for row in noise.unbind(0):
            # Of the whole super-batch, in one call a chunk: every number of ranks draws the same.
            everyones = row if party.count == whole else torch.empty(whole, device=home)
            everyones.exponential_(generator=generator)
            if everyones is not row:
                row.copy_(everyones[own])
        noise.clamp_min_(torch.finfo(torch.float32).tiny).log_().mul_(-min(temperature, 1.0))
        yield from noise.to(party.device, non_blocking=True).unbind(0)
