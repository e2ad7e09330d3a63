"""A table of scores, its seeds, and how the spread over seeds depends on the averaged tasks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aced.errors import AcedError
from aced.evaluate.stability.distributions import Floats

Indices = NDArray[np.int64]
EQUAL = 1e-12
"""Standard deviations that differ by less count as equal: the rest is rounding."""
SMALL = 4
"""Recipes with fewer rows are too small to be resampled or halved individually."""


@dataclass(frozen=True)
class ScoreTable:
    """A complete table of scores.

    Attributes:
        tasks: K names.
        values: `[R, K]` scores in [0, 1].
        recipes: R names; rows of one name are repeats (seeds) of one recipe.
        n: `[K]` scored queries of each task; NaN where unknown.
        chance: `[K]` score of guessing, in [0, 1]; NaN if unknown.
        errors: `[R, K]` standard errors of the scores, if the files have them; otherwise NaN.
        ranked_only: `[R]` rows that measure no spread; if there are any, only they are ranked as models.
    """

    tasks: Sequence[str]
    values: Floats
    recipes: Sequence[str]
    n: Floats
    chance: Floats
    errors: Floats
    ranked_only: NDArray[np.bool_]


@dataclass(frozen=True)
class Repeats:
    """The rows of each repeated recipe.

    Attributes:
        groups: for each recipe with several rows, their positions in the table.
        sizes: the same recipes by name, with their numbers of rows.
    """

    groups: list[Indices]
    sizes: dict[str, int]

    @classmethod
    def of(cls, scores: ScoreTable) -> Repeats:
        """Find them.

        Raises:
            AcedError: no recipe occurs twice.
        """
        rows: dict[str, list[int]] = {}
        for i, recipe in enumerate(scores.recipes):
            if not scores.ranked_only[i]:
                rows.setdefault(recipe, []).append(i)
        found = {name: np.array(at) for name, at in rows.items() if len(at) > 1}
        if not found:
            raise AcedError(
                f"None of the {len(rows)} recipes in the table occurs twice, so the spread over seeds is unknown: give "
                "several seeds of a recipe, or name the rows that repeat one with --recipe-column or --repeat-pattern."
            )
        return cls(list(found.values()), {name: len(at) for name, at in found.items()})

    @property
    def df(self) -> int:
        """Degrees of freedom of a pooled variance."""
        return sum(len(group) - 1 for group in self.groups)

    def means(self, values: Floats) -> Floats:
        """`[G, K]` mean of each repeated recipe."""
        return np.stack([values[group].mean(0) for group in self.groups])

    def deviations(self, values: Floats) -> Floats:
        """`[rows, K]` deviations of the repeated rows from their recipe's mean, recipe by recipe."""
        return np.concatenate([values[group] - values[group].mean(0) for group in self.groups])

    def sigma(self, deviations: Floats) -> Floats:
        """`[K]` standard deviations, pooled within recipes."""
        return pooled_sigma(deviations, self.df)

    def resampled(self, values: Floats, generator: np.random.Generator) -> tuple[Floats, Floats, int]:
        """Means, deviations and degrees of freedom of a resample.

        Rows are drawn with replacement within each recipe, and their deviations stretched by sqrt(m / (m - 1)): a
        resample of m rows has (m - 1) / m of their variance on average. With two or three rows that would be crude
        (two are equal half of the time), so if there are several such recipes, they are drawn as wholes.
        """
        small, large = self.by_size()
        whole = len(small) >= SMALL
        drawn = [(group, generator.choice(group, len(group))) for group in ([] if whole else small) + large]
        parts = [(values[rows], math.sqrt(len(group) / (len(group) - 1))) for group, rows in drawn]
        if whole:
            parts += [(values[small[i]], 1.0) for i in generator.integers(len(small), size=len(small))]
        means = np.stack([part.mean(0) for part, _ in parts])
        deviations = np.concatenate([(part - part.mean(0)) * stretch for part, stretch in parts])
        return means, deviations, len(deviations) - len(parts)

    def by_size(self) -> tuple[list[Indices], list[Indices]]:
        """The recipes with fewer than `SMALL` rows, and the others."""
        return [g for g in self.groups if len(g) < SMALL], [g for g in self.groups if len(g) >= SMALL]


def pooled_sigma(deviations: Floats, df: int) -> Floats:
    """`[K]` standard deviations of `[rows, K]` deviations with `df` degrees of freedom."""
    sigma: Floats = np.sqrt((deviations**2).sum(0) / df)
    return sigma


def std_curve(deviations: Floats, df: int) -> Floats:
    """`[K]`: the standard deviation of the average of the first N columns, for N = 1 to K.

    Args:
        deviations: `[rows, K]` from their recipes' means, columns from the most stable.
        df: degrees of freedom.
    """
    averages = np.cumsum(deviations, axis=1) / np.arange(1, deviations.shape[1] + 1)
    curve: Floats = np.sqrt((averages**2).sum(0) / df)
    return curve


def lowest(curve: Floats, least: int) -> int:
    """N: where the curve is lowest from `least` on; the last such place, so that no task is dropped without need.

    >>> lowest(np.array([0.1, 0.9, 0.6, 0.6, 0.8]), 2)
    4
    """
    rest = curve[least - 1 :]
    return least + int(np.flatnonzero(rest <= rest.min() + EQUAL)[-1])


@dataclass(frozen=True)
class TaskChoice:
    """Tasks sorted by their spread, and how many of them to keep.

    Attributes:
        order: positions of the tasks above chance, the most stable first.
        curve: for N = 1, 2, ... the standard deviation of the average of the first N.
        count: N.
    """

    order: Indices
    curve: Floats
    count: int

    @property
    def kept(self) -> Indices:
        """Positions of the kept tasks."""
        return self.order[: self.count]


def choose(deviations: Floats, candidates: Indices, df: int, least: int | None) -> TaskChoice:
    """Sort the candidates by standard deviation and cut where the average's is lowest.

    Args:
        deviations: `[rows, K]` from their recipes' means.
        candidates: positions among the K tasks, at least one.
        df: degrees of freedom.
        least: minimum number of tasks; None: half of the candidates, rounded up.
    """
    sigma = np.sqrt((deviations[:, candidates] ** 2).sum(0))
    order = candidates[np.argsort(sigma, kind="stable")]
    curve = std_curve(deviations[:, order], df)
    floor = math.ceil(len(candidates) / 2) if least is None else min(least, len(candidates))
    return TaskChoice(order, curve, lowest(curve, floor))


def model_means(scores: ScoreTable) -> Floats:
    """`[M, K]`: the mean scores of each recipe that is ranked, repeated or not, in the order of their first rows."""
    rows = np.flatnonzero(scores.ranked_only) if scores.ranked_only.any() else np.arange(len(scores.recipes))
    names = np.array(scores.recipes)[rows]
    return np.stack([scores.values[rows[names == name]].mean(0) for name in dict.fromkeys(names.tolist())])
