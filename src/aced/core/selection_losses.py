"""Selection by given losses, for objectives with one loss per sample.

The same as `select` with an independent strategy, for any losses. There is no joint draw: a sample's loss in the
company of others is unknown here.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from aced.core.score_models import SCORES, Score
from aced.core.selection import Selection


def select_losses(
    student_losses: Tensor | None,
    reference_losses: Tensor | None,
    size: int,
    *,
    score: Score = "learnability",
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
) -> Selection:
    """Choose `size` of B samples to train on, each independently of the others.

    Args:
        student_losses: `[B]` the loss of each sample under the model in training; may be None for a score that does
            not use it. Gradients are detached.
        reference_losses: `[B]` likewise under the frozen reference.
        size: number to choose, 1 <= size <= B. Exactly this many distinct indices are returned.
        score: `learnability` (student's loss minus reference's), `easy-reference`, `hard-student`, or a registered one,
            except those that compare candidates with each other.
        temperature: tau of the draw, probability proportional to exp(score / tau) without replacement (Gumbel-top-k);
            0 takes the largest.
        generator: source of the noise; the same generator state gives the same indices.

    Returns:
        A `Selection` on the losses' device, in drawing order; its `scores` are those of all samples, in float32.

    Raises:
        ValueError: losses that the score needs are missing, differ in length or device or are not finite, too few
            samples, or an unknown score.
    """
    scores = _scores(student_losses, reference_losses, score)
    if not 1 <= size <= len(scores):
        raise ValueError(f"select_losses: cannot choose {size} of {len(scores)} samples.")
    if not 0 <= temperature < math.inf:
        raise ValueError(f"select_losses: temperature must be finite and not negative, got {temperature}.")
    noisy = scores
    if temperature > 0:
        # g / tau + noise, in a form that never overflows; drawn on the generator's device, as in `select`.
        home = generator.device if generator is not None else scores.device
        noise = torch.empty(len(scores), device=home).exponential_(generator=generator)
        noise = noise.clamp_min_(torch.finfo(torch.float32).tiny).log_().mul_(-min(temperature, 1.0))
        noisy = noise.to(scores.device).add_(scores / temperature if temperature > 1 else scores)
    indices = noisy.topk(size).indices
    return Selection(indices, scores[indices], scores, (size,))


def _scores(student: Tensor | None, reference: Tensor | None, score: Score) -> Tensor:
    """`[B]` float32, the weighted sum."""
    if score not in SCORES:
        raise ValueError(f"select_losses: unknown score {score!r}; known: {', '.join(SCORES)}.")
    of = SCORES[score]
    if of.within:
        raise ValueError(
            f"select_losses: score {score!r} compares candidates with each other, which losses do not allow."
        )
    terms: list[Tensor] = []
    for name, weight, losses in (("student", of.student, student), ("reference", of.reference, reference)):
        if not weight:
            continue
        if losses is None:
            raise ValueError(f"select_losses: score {score!r} needs the {name}'s losses, got None.")
        if losses.ndim != 1:
            raise ValueError(f"select_losses: the {name}'s losses are {list(losses.shape)}; pass one for each sample.")
        if not torch.isfinite(losses).all():
            row = int((~torch.isfinite(losses)).nonzero()[0])
            raise ValueError(f"select_losses: the {name}'s loss of sample {row} is not finite.")
        terms.append(weight * losses.detach().float())
    if len(terms) == 2 and (len(terms[0]) != len(terms[1]) or terms[0].device != terms[1].device):
        raise ValueError(
            f"select_losses: the student has {len(terms[0])} losses on {terms[0].device} and the reference "
            f"{len(terms[1])} on {terms[1].device}; both must be of the same samples, on one device."
        )
    return torch.stack(terms).sum(0)
