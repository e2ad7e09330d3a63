"""From rows and logged steps to the content of a report: means over seeds, differences, curves and shares."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

from aced.evaluate.stability.suite import counted
from aced.runs.records import BUDGETS, EvalLine, ResultRow, Results, RunRecord, StepLine

BASELINE = "iid"
"""The method that serves as the baseline."""

Points = list[tuple[float, float]]

Item = TypeVar("Item")
_Line = TypeVar("_Line", StepLine, EvalLine)


@dataclass(frozen=True)
class Stat:
    """Mean and sample standard deviation (n - 1; None for a single value) of n values."""

    mean: float
    std: float | None
    n: int


@dataclass(frozen=True)
class Group:
    """One method over all its seeds.

    Attributes:
        title: its name in tables; rows of the same method with another title form another group.
        method: its name.
        index: position among the groups, which decides its colour.
        rows: one for each run.
        runs: the run folders found for the rows; may be fewer.
        average: of the tasks, in percent.
        gain: percentage points above the baseline, the mean over the seeds that both have (over all seeds if they share
            none); None without a baseline and for the baseline itself.
        clean: share of sound pairs among those trained on, in [0, 1].
        budgets: by name.
        ratios: the mean budgets relative to the baseline's.
        tasks: values in [0, 1] by task.
        is_baseline: whether the others are compared with this group.
    """

    title: str
    method: str
    index: int
    rows: list[ResultRow]
    runs: list[RunRecord]
    average: Stat | None
    gain: float | None = None
    clean: Stat | None = None
    budgets: dict[str, Stat] = field(default_factory=dict)
    ratios: dict[str, float] = field(default_factory=dict)
    tasks: dict[str, Stat] = field(default_factory=dict)
    is_baseline: bool = False


@dataclass(frozen=True)
class KindShares:
    """Shares of the kinds of pairs at the logged steps.

    Attributes:
        steps: `[T]` the last step of each interval.
        chosen: by kind, `[T]` shares among the chosen pairs that add up to 1 over the kinds.
        pool: by kind, the share among all candidates of the run.
    """

    steps: list[float]
    chosen: dict[str, list[float]]
    pool: dict[str, float]


def stat(values: Iterable[float | None]) -> Stat | None:
    """Mean and standard deviation of the finite values; None if there are none.

    >>> stat([1.0, 3.0, None])
    Stat(mean=2.0, std=1.4142135623730951, n=2)
    """
    found = [value for value in values if value is not None and math.isfinite(value)]
    if not found:
        return None
    mean = math.fsum(found) / len(found)
    if len(found) == 1:
        return Stat(mean, None, 1)
    return Stat(mean, math.sqrt(math.fsum((v - mean) ** 2 for v in found) / (len(found) - 1)), len(found))


def group_rows(results: Results, runs: Sequence[RunRecord] = ()) -> list[Group]:
    """Rows by method and title, in the order of their first appearance, with the baseline's comparison."""
    folders = _match(results.rows, runs)
    keys = list(dict.fromkeys((row.method, row.title or row.method) for row in results.rows))
    baseline = next((key for key in keys if key[0] == BASELINE), None)
    base_rows = [row for row in results.rows if (row.method, row.title or row.method) == baseline]
    base_budgets = {name: stat(row.budgets.get(name) for row in base_rows) for name in BUDGETS}
    groups = []
    for index, key in enumerate(keys):
        chosen = [i for i, row in enumerate(results.rows) if (row.method, row.title or row.method) == key]
        rows = [results.rows[i] for i in chosen]
        budgets = {name: stat(row.budgets.get(name) for row in rows) for name in BUDGETS}
        ratios = {}
        for name, value in budgets.items():
            base = base_budgets[name]
            if value and base and base.mean > 0:
                ratios[name] = value.mean / base.mean
        tasks = {name: stat(row.tasks[name].value for row in rows if name in row.tasks) for name in _tasks(rows)}
        groups.append(
            Group(
                title=key[1],
                method=key[0],
                index=index,
                rows=rows,
                runs=[run for i in chosen if (run := folders[i]) is not None],
                average=stat(row.average for row in rows),
                gain=None if key == baseline or not base_rows else _gain(rows, base_rows),
                clean=stat(row.clean_share for row in rows),
                budgets={name: value for name, value in budgets.items() if value},
                ratios=ratios,
                tasks={name: value for name, value in tasks.items() if value},
                is_baseline=key == baseline,
            )
        )
    return groups


def task_chances(results: Results) -> dict[str, float | None]:
    """Every task of any row, in the order of their first appearance, with its chance level."""
    chances: dict[str, float | None] = {}
    for row in results.rows:
        for name, score in row.tasks.items():
            if chances.get(name) is None:
                chances[name] = score.chance
    return chances


def averaged_chances(results: Results) -> dict[str, float | None]:
    """The same for the tasks that averages count: those of a packaged suite, otherwise all."""
    chances = task_chances(results)
    return {name: chances[name] for name in counted(chances)}


def curve(group: Group, value: Callable[[StepLine], float | None], most: int = 80) -> Points:
    """A logged value over the steps: the mean over the group's runs at the steps that all of them logged.

    If the runs share no step, the first run's curve represents the group. At most `most` points: beyond that,
    neighbours are averaged.
    """
    return _thin(_mean_over([_points(run.steps, value) for run in group.runs]), most)


def accuracy_over(group: Group, budget: str) -> Points:
    """The average during training against a budget: means over the runs at the steps that all evaluated."""

    def along(read: Callable[[EvalLine], float | None]) -> Points:
        return _mean_over([_points(run.evals, read) for run in group.runs])

    spent = dict(along(lambda line: line.budgets.get(budget)))
    return [(spent[step], average) for step, average in along(lambda line: line.average) if step in spent]


def kind_shares(group: Group, most: int = 40) -> KindShares | None:
    """The kinds that the group's runs chose over time, counts summed over the seeds; None if kinds are unknown.

    At most `most` intervals of about equal numbers of logged steps.
    """
    counts: dict[int, dict[str, float]] = {}
    pool: dict[str, float] = {}
    for run in group.runs:
        for line in run.steps:
            if line.kinds is None:
                continue
            _add(counts.setdefault(line.step, {}), line.kinds.chosen)
            _add(pool, line.kinds.pool)
    steps = sorted(step for step, chosen in counts.items() if sum(chosen.values()) > 0)
    if not steps:
        return None
    pool_total = sum(pool.values())
    kinds = list(dict.fromkeys([*pool, *(kind for step in steps for kind in counts[step])]))
    ends, chosen_shares = [], {kind: list[float]() for kind in kinds}
    for part in _parts(steps, most):
        total: dict[str, float] = {}
        for step in part:
            _add(total, counts[step])
        ends.append(float(part[-1]))
        whole = sum(total.values())
        for kind in kinds:
            chosen_shares[kind].append(total.get(kind, 0.0) / whole)
    shares = {kind: count / pool_total for kind, count in pool.items()} if pool_total > 0 else {}
    return KindShares(ends, chosen_shares, shares)


def seconds_per_step(group: Group) -> dict[str, float]:
    """Wall time of a step by phase: each run's total over its steps, then the mean over runs."""
    return _per(group, lambda line: line.seconds, lambda line: float(line.step))


def flops_per_sample(group: Group) -> dict[str, float]:
    """FLOPs by phase for each trained sample: each run's total over its samples, then the mean over runs."""
    return _per(group, lambda line: line.flops, lambda line: line.budgets.get("samples_trained", 0.0))


def _per(
    group: Group, read: Callable[[StepLine], dict[str, float]], units: Callable[[StepLine], float]
) -> dict[str, float]:
    found: dict[str, list[float]] = {}
    for run in group.runs:
        last = run.steps[-1]
        if units(last) > 0:
            for phase, value in read(last).items():
                found.setdefault(phase, []).append(value / units(last))
    return {phase: math.fsum(values) / len(values) for phase, values in found.items()}


def _match(rows: Sequence[ResultRow], runs: Sequence[RunRecord]) -> list[RunRecord | None]:
    """The run of each row: the folder that it names, otherwise one of its method and seed that no row names."""

    def by_path(row: ResultRow) -> RunRecord | None:
        parts = Path(row.run).parts
        if not parts:
            return None
        return next((run for run in runs if run.folder.absolute().parts[-len(parts) :] == parts), None)

    found = [by_path(row) for row in rows]
    free = [run for run in runs if not any(run is other for other in found)]
    for i, row in enumerate(rows):
        if found[i] is None:
            found[i] = next((run for run in free if (run.method, run.seed) == (row.method, row.seed)), None)
            free = [run for run in free if run is not found[i]]
    return found


def _gain(rows: Sequence[ResultRow], base_rows: Sequence[ResultRow]) -> float | None:
    base = {row.seed: row.average for row in base_rows if row.average is not None}
    ours = {row.seed: row.average for row in rows if row.average is not None}
    shared = sorted(base.keys() & ours.keys())
    if shared:
        return math.fsum(ours[seed] - base[seed] for seed in shared) / len(shared)
    if not base or not ours:
        return None
    return math.fsum(ours.values()) / len(ours) - math.fsum(base.values()) / len(base)


def _tasks(rows: Sequence[ResultRow]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row.tasks))


def _points(lines: Iterable[_Line], value: Callable[[_Line], float | None]) -> dict[int, float]:
    """The finite values of some lines by their step."""
    pairs = ((line.step, value(line)) for line in lines)
    return {step: v for step, v in pairs if v is not None and math.isfinite(v)}


def _mean_over(found: Iterable[dict[int, float]]) -> Points:
    """The mean at the steps shared by all runs that have any; the first one's values if they share none."""
    runs = [run for run in found if run]
    if not runs:
        return []
    shared = set(runs[0]).intersection(*runs[1:])
    used = runs if shared else runs[:1]
    return [(float(s), math.fsum(run[s] for run in used) / len(used)) for s in sorted(shared or runs[0])]


def _thin(points: Points, most: int) -> Points:
    return [
        (math.fsum(x for x, _ in part) / len(part), math.fsum(y for _, y in part) / len(part))
        for part in _parts(points, most)
    ]


def _parts(items: Sequence[Item], most: int) -> list[Sequence[Item]]:
    """Cut into at most `most` consecutive parts whose lengths differ by at most one."""
    count = min(len(items), most)
    edges = [round(i * len(items) / count) for i in range(count + 1)] if count else [0]
    return [items[start:end] for start, end in pairwise(edges)]


def _add(total: dict[str, float], counts: dict[str, float]) -> None:
    for kind, count in counts.items():
        total[kind] = total.get(kind, 0.0) + count
