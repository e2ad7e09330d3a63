"""The certainty of the choice of tasks: a bootstrap over the seeds, and a check on held-out ones."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aced.evaluate.stability.chance_guard import ChanceGuard
from aced.evaluate.stability.distributions import Floats
from aced.evaluate.stability.spread import EQUAL, Indices, Repeats, ScoreTable, choose, pooled_sigma


@dataclass(frozen=True)
class Rules:
    """Rules for choosing tasks.

    Attributes:
        alpha: probability of keeping any task at chance level (divided by the number of tests).
        least: minimum number of tasks; None: half of those above chance, rounded up.
        resamples: bootstrap resamples of the seeds.
        splits: random halvings of the seeds for the check on held-out ones.
        seed: of the resampling.
    """

    alpha: float = 0.05
    least: int | None = None
    resamples: int = 2000
    splits: int = 400
    seed: int = 0


@dataclass(frozen=True)
class Boot:
    """The results of B resamples.

    Attributes:
        sigma: `[B, K]` standard deviations.
        kept: `[B, K]` whether the task was kept.
        count: `[B]` N.
        curves: each one's standard deviations of the average.
    """

    sigma: Floats
    kept: NDArray[np.bool_]
    count: Indices
    curves: list[Floats]

    def interval(self, tasks: int) -> tuple[float, float] | None:
        """95 % interval of the average of the N most stable tasks, over the resamples with N tasks above chance."""
        values = [curve[tasks - 1] for curve in self.curves if len(curve) >= tasks]
        if not values:
            return None
        return float(np.quantile(values, 0.025)), float(np.quantile(values, 0.975))


def bootstrap(scores: ScoreTable, repeats: Repeats, guard: ChanceGuard, rules: Rules) -> Boot:
    """The whole choice, guard included, repeated on seeds drawn with replacement."""
    generator = np.random.default_rng(rules.seed)
    size, width = rules.resamples, len(scores.tasks)
    boot = Boot(np.zeros((size, width)), np.zeros((size, width), dtype=bool), np.zeros(size, dtype=np.int64), [])
    for b in range(size):
        means, deviations, df = repeats.resampled(scores.values, generator)
        boot.sigma[b] = pooled_sigma(deviations, df)
        passed = np.flatnonzero(guard.passes(means))
        if not len(passed):
            boot.curves.append(np.zeros(0))
            continue
        choice = choose(deviations, passed, df, rules.least)
        boot.count[b] = choice.count
        boot.kept[b, choice.kept] = True
        boot.curves.append(choice.curve)
    return boot


def held_out(values: Floats, passed: Indices, repeats: Repeats, rules: Rules) -> float | None:
    """How much steadier the stable average is on seeds that were not used to choose it.

    The seeds are halved at random many times; tasks are chosen on one half, and on the other the variances of the
    stable average and of the average of all tasks above chance are measured.

    Returns:
        The root of the ratio of the mean variances; None with too few seeds to halve, or without any variance.
    """
    generator = np.random.default_rng(rules.seed)
    stable = everything = 0.0
    for _ in range(rules.splits):
        first, second = _halves(repeats, generator)
        if not (first and second):
            return None
        chooser, judge = (Repeats(part, {}) for part in (first, second))
        choice = choose(chooser.deviations(values), passed, chooser.df, rules.least)
        unseen = judge.deviations(values)
        stable += float((unseen[:, choice.kept].mean(1) ** 2).sum() / judge.df)
        everything += float((unseen[:, passed].mean(1) ** 2).sum() / judge.df)
    return math.sqrt(stable / everything) if everything > EQUAL**2 * rules.splits else None


def _halves(repeats: Repeats, generator: np.random.Generator) -> tuple[list[Indices], list[Indices]]:
    """Two halves of the repeated rows: rows of large recipes, whole recipes if they are small."""
    halves: tuple[list[Indices], list[Indices]] = ([], [])
    small, large = repeats.by_size()
    for group in large:
        mixed = generator.permutation(group)
        halves[0].append(mixed[: len(mixed) // 2])
        halves[1].append(mixed[len(mixed) // 2 :])
    for place, i in enumerate(generator.permutation(len(small))):
        halves[place % 2].append(small[i])
    return halves
