"""Batches by the concepts of pairs (CABS), without any model.

Source: arXiv 2511.20643 (Ghosh et al., concept-aware batch sampling) and the code of its authors; formulas, and in what
this differs, in docs/method.md. Everything is on the CPU.

Shapes: B candidates, b of them chosen, m the maximum number of concepts of a pair, C the super-batch's concepts.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

ByConcepts = Literal["diversity", "frequency"]
"""The batch to aim for: as many concepts as possible in equal shares, or pairs with many concepts."""

FILLED = -0.5
"""A concept's contribution to a gain once the batch has its share of it."""


def by_concepts(concepts: Tensor, size: int, how: ByConcepts) -> Tensor:
    """Choose `size` of B candidates by their concepts.

    Args:
        concepts: `[B, m]` int64 ids, without repeats in a row, 0 or more; -1 after a pair's last one.
        size: number of candidates to choose, 1 <= size <= B.
        how: `frequency` takes the pairs with the most concepts. `diversity` takes one pair after the other, each the
            one with the largest mean, over its concepts, of (t - n) / t + 1 / F, with n how often the batch has the
            concept so far, t = max(1, b / C) how often it should, and F how many of the candidates have it; a concept
            of which n >= t counts -0.5. Pairs without concepts come last.

    Returns:
        `[size]` int64 rows, in the order of the choice; ties go to the first.

    Raises:
        ValueError: too few candidates.
    """
    if not 1 <= size <= len(concepts):
        raise ValueError(f"by_concepts: cannot choose {size} of {len(concepts)} candidates.")
    if how == "frequency":
        return (concepts >= 0).sum(1).argsort(descending=True, stable=True)[:size]
    return _Diverse(concepts, size).chosen()


class _Diverse:
    """The greedy choice. Only pairs that share a concept with the latest choice change their gain."""

    def __init__(self, concepts: Tensor, size: int) -> None:
        self.size = size
        there = concepts >= 0
        known, ids = concepts[there].unique(return_inverse=True)
        self.of_pair = torch.full(concepts.shape, len(known))  # an extra concept that adds nothing means none
        self.of_pair[there] = ids
        self.count = there.sum(1)
        self.frequency = ids.bincount(minlength=len(known))
        pairs = there.nonzero()[:, 0][ids.argsort(stable=True)]
        self.pairs_of = pairs.split(self.frequency.tolist()) if len(known) else ()
        self.target = max(1.0, size / max(1, len(known)))
        self.chosen_of = torch.zeros(len(known), dtype=torch.int64)
        self.value = torch.cat([1.0 + 1.0 / self.frequency.double(), torch.zeros(1, dtype=torch.float64)])
        self.gain = torch.full((len(concepts),), -torch.inf, dtype=torch.float64)
        self._update(self.count.nonzero().flatten())

    def chosen(self) -> Tensor:
        """`[size]` int64 rows."""
        rows = torch.empty(self.size, dtype=torch.int64)
        left = torch.ones(len(self.gain), dtype=torch.bool)
        for place in range(self.size):
            # On ties the first, which `argmax` does not guarantee.
            best = int((self.gain == self.gain.max()).nonzero()[0])
            if self.gain[best] == -torch.inf:  # the rest has no concepts
                rows[place:] = left.nonzero().flatten()[: self.size - place]
                break
            rows[place], left[best] = best, False
            self._take(best)
            self.gain[~left] = -torch.inf
        return rows

    def _take(self, pair: int) -> None:
        changed = self.of_pair[pair, : self.count[pair]]
        self.chosen_of[changed] += 1
        n = self.chosen_of[changed].double()
        open_still = (self.target - n) / self.target + 1.0 / self.frequency[changed].double()
        self.value[changed] = torch.where(n < self.target, open_still, FILLED)
        self._update(torch.cat([self.pairs_of[concept] for concept in changed.tolist()]).unique())

    def _update(self, pairs: Tensor) -> None:
        self.gain[pairs] = self.value[self.of_pair[pairs]].sum(1) / self.count[pairs]
