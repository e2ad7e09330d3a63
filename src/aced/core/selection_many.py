"""Small joint draws by the sigmoid loss, for little: several at once, or one on a matrix.

At super-batches of a few hundred a draw is mostly the overhead of its many small operations. The draws of several
steps do not depend on each other where the reference decides alone, so they share the operations; and among one or two
hundred candidates the whole matrix of pair scores costs less than its tiles one by one. Each gives what `select` gives
with the same generator, up to rounding.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from aced.core.embeddings import Embeddings
from aced.core.selection import Score, Selection, chunk_sizes, perturbed


def reference_joint_many(
    reference: Embeddings,
    counts: Sequence[int],
    size: int,
    *,
    score: Score,
    chunks: int,
    temperature: float,
    generators: Sequence[torch.Generator],
) -> list[Tensor]:
    """Draw `size` of the candidates of each of G super-batches, jointly and by the reference alone, sigmoid loss.

    Args:
        reference: the reference's embeddings of all super-batches, one after the other, on the CPU; rows of unit
            length.
        counts: the number of candidates of each, `size` or more.
        size: how many are chosen of each.
        score: `easy-reference` or `diverse`.
        chunks: number of chunks of each draw.
        temperature: tau of the draws.
        generators: one for each.

    Returns:
        For each the `[size]` chosen rows within it, in drawing order.
    """
    if min(counts) < size or len(counts) != len(generators):
        raise ValueError(f"reference_joint_many: {size} of {min(counts)} candidates, {len(generators)} generators.")
    if score not in ("easy-reference", "diverse"):
        raise ValueError(f"reference_joint_many: score {score!r} is not one of the reference alone.")
    scale, bias = float(reference.scale), float(reference.bias)
    with torch.no_grad():
        image, text = (_padded(e.float(), counts) for e in (reference.image, reference.text))  # [G, B, d]
        there = torch.arange(image.shape[1]) < torch.tensor(list(counts))[:, None]
        within = score == "diverse"
        own = (image * text).sum(2) * scale + bias
        g = torch.zeros_like(own) if within else -F.softplus(-own)
        free = torch.zeros_like(g).masked_fill_(~there, -torch.inf)  # 0 where it can be chosen
        chosen = []
        sizes = chunk_sizes(size, chunks)
        noise = _noise(counts, image.shape[1], len(sizes), generators) if temperature > 0 else None
        for number, c in enumerate(sizes):
            noisy = perturbed(g, None if noise is None else noise[number], temperature) + free
            rows = noisy.topk(c, dim=1).indices  # [G, c]
            chosen.append(rows)
            free.scatter_(1, rows, -torch.inf)
            if number + 1 < len(sizes):
                wide = rows[:, :, None].expand(-1, -1, image.shape[2])
                for side, other in ((image, image), (text, text)) if within else ((image, text), (text, image)):
                    logits = side @ (other.gather(1, wide) * scale).mT
                    g -= F.softplus(logits.add_(bias)).sum(2)
    return list(torch.cat(chosen, 1))


def learnability_small(
    student: Embeddings,
    reference: Embeddings,
    size: int,
    *,
    chunks: int,
    temperature: float,
    generator: torch.Generator,
) -> Selection | None:
    """Draw `size` of B candidates jointly by learnability, on the B x B matrix of pair scores, on the CPU.

    Args:
        student: the student's embeddings, unit rows.
        reference: the reference's of the same pairs.
        size: how many are chosen, B at most.
        chunks: number of chunks.
        temperature: tau of the draw.
        generator: of the noise.

    Returns:
        The selection; None where a score is not finite, which `select` explains.
    """
    with torch.no_grad():
        terms = []
        for e in (student, reference):
            logits = torch.addmm(torch.tensor(float(e.bias)), e.image.float() * float(e.scale), e.text.float().T)
            terms.append((F.softplus(-logits.diagonal()), F.softplus(logits)))
        (own, pairs), (own_of_reference, pairs_of_reference) = terms
        own, pairs = own - own_of_reference, pairs.sub_(pairs_of_reference)
        pairs = pairs + pairs.T
        if not (own.sum() + pairs.sum()).isfinite():
            return None
        g, taken = own.clone(), torch.zeros(len(own))
        sizes = chunk_sizes(size, chunks)
        chosen, gains = [], []
        noise = _noise([len(g)], len(g), len(sizes), [generator])[:, 0] if temperature > 0 else None
        for number, c in enumerate(sizes):
            noisy = perturbed(g, None if noise is None else noise[number], temperature) + taken
            rows = noisy.topk(c).indices
            chosen.append(rows)
            gains.append(g[rows])
            taken[rows] = -torch.inf
            if number + 1 < len(sizes):
                g = g + pairs[rows].sum(0)
        chunk = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
        return Selection(torch.cat(chosen), torch.cat(gains), own, chunk)


def _padded(rows: Tensor, counts: Sequence[int]) -> Tensor:
    """`[sum of counts, d]` to `[G, largest count, d]`, zeros behind."""
    if len(set(counts)) == 1:
        return rows.reshape(len(counts), counts[0], -1)
    return torch.nn.utils.rnn.pad_sequence(list(rows.split(list(counts))), batch_first=True)


def _noise(counts: Sequence[int], width: int, chunks: int, generators: Sequence[torch.Generator]) -> Tensor:
    """`[chunks, G, width]` Gumbel noise, drawn as `select` draws it: chunk after chunk by each generator."""
    noise = torch.ones(chunks, len(counts), width)
    for column, count, generator in zip(noise.unbind(1), counts, generators, strict=True):
        for row in column.unbind(0):
            row[:count].exponential_(generator=generator)
    return noise.clamp_min_(torch.finfo(torch.float32).tiny).log_().neg_()
