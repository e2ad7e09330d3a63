"""StableEval: the tasks whose average differs meaningfully between models (arXiv 2411.18674; METHOD section 7).

The paper trains one recipe with several seeds, sorts the tasks by their standard deviation over the seeds, and keeps
the N most stable ones, with N where adding the remaining, noisier tasks begins to raise the standard deviation of the
average. Added here: a guard against chance, sampling errors, a bootstrap over seeds, a check on held-out seeds, and the
effect of the choice on the ranking of models. Arrays in, a dataclass out; docs/stable.md has the definitions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from aced.errors import AcedError
from aced.evaluate.stability.chance_guard import ChanceGuard
from aced.evaluate.stability.distributions import Floats, kendall_tau, sigma_interval
from aced.evaluate.stability.resampling import Boot, Rules, bootstrap, held_out
from aced.evaluate.stability.spread import EQUAL, Indices, Repeats, ScoreTable, TaskChoice, choose, model_means

Verdict = Literal["kept", "noisy", "chance"]


@dataclass(frozen=True)
class TaskStability:
    """One task; scores and errors in [0, 1], None if unknown.

    Attributes:
        name: of the task.
        verdict: `kept`, `noisy` (above chance, but it would raise the average's spread), or `chance` (not
            significantly above chance; dropped first).
        mean: over the repeated recipes' rows (each recipe counts equally).
        chance: the score of guessing.
        n: scored queries.
        p_value: of the best recipe's mean under guessing, times the number of recipes; at most 1.
        sampling: standard error of a score due to the size of the test set: the mean of the files' own errors if each
            repeated row has one, otherwise the binomial one of the mean score.
        sigma: standard deviation over the seeds, pooled within recipes.
        sigma_low: lower end of the bootstrap's 95 % interval of sigma.
        sigma_high: upper end.
        kept_share: share of the resamples that keep the task.
    """

    name: str
    verdict: Verdict
    mean: float
    chance: float | None
    n: int | None
    p_value: float | None
    sampling: float | None
    sigma: float
    sigma_low: float | None
    sigma_high: float | None
    kept_share: float | None


@dataclass(frozen=True)
class CurvePoint:
    """The average of the N most stable tasks.

    Attributes:
        tasks: N.
        std: its standard deviation over the seeds, pooled within recipes.
        independent: its value if the tasks' deviations were independent of each other.
        low: lower end of the bootstrap's 95 % interval of `std`, each resample with its own order.
        high: upper end.
    """

    tasks: int
    std: float
    independent: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Average:
    """The average over a set of tasks.

    Attributes:
        tasks: number of tasks.
        std: over the seeds, pooled within recipes.
        spread: standard deviation of the models' averages; None below two models.
        signal: `spread / std`: the typical difference of two models in standard deviations over seeds.
    """

    tasks: int
    std: float
    spread: float | None
    signal: float | None


@dataclass(frozen=True)
class Stability:
    """The result of `select_stable`.

    Attributes:
        tasks: the most stable first, those at chance last.
        curve: N = 1, 2, ... over the tasks above chance.
        chosen: N.
        chosen_low: lower end of the bootstrap's 95 % interval of N.
        chosen_high: upper end.
        least: the minimum number of tasks.
        df: degrees of freedom of every sigma: repeated rows less repeated recipes.
        sigma_factors: 95 % interval of any single sigma as multiples of it, by chi-square.
        recipes: the repeated recipes and their numbers of rows.
        full: the average over all tasks.
        above_chance: the average over the tasks above chance.
        stable: the average over the kept tasks.
        held_out: standard deviation of the stable average relative to that of all tasks above chance, with the tasks
            chosen on half of the seeds and both measured on the other half; None with too few seeds.
        models: number of ranked models: recipes, by the mean of their rows.
        tau: Kendall's tau-b between their rankings by the full and by the stable average; None below two models.
        swapped: pairs of models whose order changes.
    """

    tasks: list[TaskStability]
    curve: list[CurvePoint]
    chosen: int
    chosen_low: int | None
    chosen_high: int | None
    least: int
    df: int
    sigma_factors: tuple[float, float]
    recipes: dict[str, int]
    full: Average
    above_chance: Average
    stable: Average
    held_out: float | None
    models: int
    tau: float | None
    swapped: int

    @property
    def kept(self) -> list[str]:
        """Names of the kept tasks, the most stable first."""
        return [task.name for task in self.tasks if task.verdict == "kept"]


def select_stable(scores: ScoreTable, rules: Rules = Rules()) -> Stability:
    """Choose the stable tasks of a table.

    Raises:
        AcedError: no recipe occurs twice, no task is above chance, or `rules.least` is more than there are.
    """
    repeats = Repeats.of(scores)
    guard = ChanceGuard.of(scores, repeats, rules.alpha)
    passed = np.flatnonzero(guard.passes(repeats.means(scores.values)))
    if not len(passed):
        raise AcedError(
            "No task is significantly above chance, so there is nothing to average: train the recipe for longer, or "
            "score it on easier tasks."
        )
    if rules.least is not None and not 1 <= rules.least <= len(passed):
        raise AcedError(
            f"At least {rules.least} tasks must be kept, but only {len(passed)} are above chance: lower --least."
        )
    deviations = repeats.deviations(scores.values)
    choice = choose(deviations, passed, repeats.df, rules.least)
    boot = bootstrap(scores, repeats, guard, rules) if repeats.df > 1 and rules.resamples else None
    models = model_means(scores)
    tau, swapped = _ranking(models.mean(1), models[:, choice.kept].mean(1))
    low, high = np.quantile(boot.count, [0.025, 0.975], method="nearest") if boot else (None, None)
    return Stability(
        tasks=_task_rows(scores, repeats, guard, choice, boot),
        curve=_curve(choice, repeats.sigma(deviations), boot),
        chosen=choice.count,
        chosen_low=None if low is None else int(low),
        chosen_high=None if high is None else int(high),
        least=math.ceil(len(passed) / 2) if rules.least is None else rules.least,
        df=repeats.df,
        sigma_factors=sigma_interval(repeats.df),
        recipes=repeats.sizes,
        full=_average(deviations, models, np.arange(len(scores.tasks)), repeats.df),
        above_chance=_average(deviations, models, passed, repeats.df),
        stable=_average(deviations, models, choice.kept, repeats.df),
        held_out=held_out(scores.values, passed, repeats, rules),
        models=len(models),
        tau=tau,
        swapped=swapped,
    )


def _curve(choice: TaskChoice, sigma: Floats, boot: Boot | None) -> list[CurvePoint]:
    independent = np.sqrt(np.cumsum(sigma[choice.order] ** 2)) / np.arange(1, len(choice.order) + 1)
    points = []
    for i, std in enumerate(choice.curve):
        low, high = (boot.interval(i + 1) if boot else None) or (None, None)
        points.append(CurvePoint(i + 1, float(std), float(independent[i]), low, high))
    return points


def _task_rows(
    scores: ScoreTable, repeats: Repeats, guard: ChanceGuard, choice: TaskChoice, boot: Boot | None
) -> list[TaskStability]:
    mean, sigma = repeats.means(scores.values).mean(0), repeats.sigma(repeats.deviations(scores.values))
    own = scores.errors[np.concatenate(repeats.groups)].mean(0)
    sampling = np.where(np.isnan(own), np.sqrt(np.maximum(mean * (1 - mean), 0) / scores.n), own)
    at_chance = np.setdiff1d(np.arange(len(sigma)), choice.order)
    rows = []
    for k in [*choice.order, *at_chance[np.argsort(sigma[at_chance], kind="stable")]]:
        n, chance, p = scores.n[k], scores.chance[k], guard.p_values[k]
        verdict: Verdict = "kept" if k in choice.kept else "noisy" if k in choice.order else "chance"
        rows.append(
            TaskStability(
                name=scores.tasks[k],
                verdict=verdict,
                mean=float(mean[k]),
                chance=None if math.isnan(chance) else float(chance),
                n=None if math.isnan(n) else int(n),
                p_value=None if math.isnan(p) else float(p),
                sampling=None if math.isnan(sampling[k]) else float(sampling[k]),
                sigma=float(sigma[k]),
                sigma_low=float(np.quantile(boot.sigma[:, k], 0.025)) if boot else None,
                sigma_high=float(np.quantile(boot.sigma[:, k], 0.975)) if boot else None,
                kept_share=float(boot.kept[:, k].mean()) if boot else None,
            )
        )
    return rows


def _average(deviations: Floats, models: Floats, tasks: Indices, df: int) -> Average:
    std = math.sqrt(float((deviations[:, tasks].mean(1) ** 2).sum()) / df)
    spread = float(models[:, tasks].mean(1).std(ddof=1)) if len(models) > 1 else None
    return Average(len(tasks), std, spread, spread / std if spread is not None and std > EQUAL else None)


def _ranking(full: Floats, stable: Floats) -> tuple[float | None, int]:
    """Tau of two rankings, and the pairs that they order differently; averages that differ by rounding are ties."""
    if len(full) < 2:
        return None, 0
    full, stable = full.round(12), stable.round(12)
    signs = [np.sign(x[:, None] - x[None, :]) for x in (full, stable)]
    return kendall_tau(full, stable), int((signs[0] * signs[1] < 0).sum()) // 2
