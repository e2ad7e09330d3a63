"""Batches by the concepts of pairs (CABS), without any model.

Source: arXiv 2511.20643 (Ghosh et al., concept-aware batch sampling) and the code of its authors; formulas, and in what
this differs, in docs/method.md. Everything is on the CPU.

Shapes: B candidates, b of them chosen, m the most concepts of a pair, C the concepts of the super-batch.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

ByConcepts = Literal["diversity", "frequency"]
"""How a batch is made up: of as many concepts as it can hold alike, or of pairs with many concepts."""

FILLED = -0.5
"""What a concept adds to a gain that the batch has its share of already."""


def by_concepts(concepts: Tensor, size: int, how: ByConcepts) -> Tensor:
    """Choose `size` of B candidates by their concepts.

    Args:
        concepts: `[B, m]` int64 ids, none twice in a row, 0 or more; -1 behind the last one of a pair.
        size: how many, 1 <= size <= B.
        how: `frequency` takes the pairs with the most concepts. `diversity` takes one pair after the other, each the
            one with the largest mean, over its concepts, of (t - n) / t + 1 / F, with n how often the batch has the
            concept so far, t = max(1, b / C) how often it should, and F how many of the candidates have it; a concept
            of which n >= t counts -0.5. Pairs without concepts come last.

    Returns:
        `[size]` int64 rows, in the order of the choice; of equal ones the first comes first.

    Raises:
        ValueError: too few candidates.
    """
    if not 1 <= size <= len(concepts):
        raise ValueError(f"by_concepts: cannot choose {size} of {len(concepts)} candidates.")
    if how == "frequency":
        return (concepts >= 0).sum(1).argsort(descending=True, stable=True)[:size]
    return _Diverse(concepts, size).chosen()


class _Diverse:
    """The greedy choice. Only pairs that share a concept with the one just chosen change their gain."""

    def __init__(self, concepts: Tensor, size: int) -> None:
        self.size = size
        there = concepts >= 0
        known, ids = concepts[there].unique(return_inverse=True)
        self.of_pair = torch.full(concepts.shape, len(known))  # a last concept that adds nothing stands for none
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
            # Of equal gains the first, which `argmax` does not promise.
            best = int((self.gain == self.gain.max()).nonzero()[0])
            if self.gain[best] == -torch.inf:  # what is left has no concepts
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
