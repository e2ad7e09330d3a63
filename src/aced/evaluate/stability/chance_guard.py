"""The guard against chance: the tasks on which a recipe does significantly better than guessing."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aced.evaluate.stability.distributions import Floats, binomial_tail, hits_above_chance
from aced.evaluate.stability.spread import Repeats, ScoreTable


@dataclass(frozen=True)
class ChanceGuard:
    """The guard against chance: a task stays if some repeated recipe is significantly above it.

    Attributes:
        needed: `[K]` the mean score that is significant; negative infinity if n or chance is unknown.
        p_values: `[K]` of the best recipe, times the number of recipes; NaN if n or chance is unknown.
    """

    needed: Floats
    p_values: Floats

    @classmethod
    def of(cls, scores: ScoreTable, repeats: Repeats, alpha: float) -> ChanceGuard:
        """One-sided exact binomial tests of each recipe's mean score as a single result on n queries.

        The seeds share their test set, so they do not count as more queries; alpha is divided by the number of tests,
        tasks times recipes.
        """
        count, best = len(repeats.groups), repeats.means(scores.values).max(0)
        needed, p_values = np.full(len(best), -np.inf), np.full(len(best), np.nan)
        for k, (n, chance) in enumerate(zip(scores.n, scores.chance, strict=True)):
            if math.isnan(n) or math.isnan(chance):
                continue
            hits = hits_above_chance(int(n), float(chance), alpha / (len(best) * count))
            needed[k] = hits / n
            reached = math.floor(best[k] * n + 1e-6)
            p_values[k] = min(1.0, count * float(binomial_tail(int(n), float(chance))[reached]))
        return cls(needed, p_values)

    def passes(self, means: Floats) -> NDArray[np.bool_]:
        """`[K]` whether any of the `[G, K]` means is high enough."""
        passed: NDArray[np.bool_] = np.any(means >= self.needed - 1e-9, axis=0)
        return passed
