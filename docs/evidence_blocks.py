"""Blocks of docs/evidence.md: differences task by task, and methods at equal trained pairs, loaded pairs and time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from evidence_lines import Lines, Measure, average, best_bold, between, markdown, marked, separable, task_of

from aced.report.aggregate import Stat
from aced.report.numbers import DASH, budget_text

CHANCE = 0.05
"""Share of intervals of 95 % that leave 0 out where there is no difference."""
ALIKE = 0.1
"""How far, relatively, a budget may be from another that it counts as equal to; times vary by as much."""
SAME_BUDGET: dict[str, tuple[str, Measure, Callable[[float], str]]] = {
    "trained pairs": (
        "",
        lambda one: float(one["budgets"]["samples_trained"]),
        partial(budget_text, "samples_trained"),
    ),
    "loaded pairs": (
        " at {}'s loaded pairs",
        lambda one: float(one["budgets"]["samples_loaded"]),
        partial(budget_text, "samples_loaded"),
    ),
    "time": (" at {}'s time", lambda one: float(one["processor_seconds"]), lambda mean: f"{mean:.0f} s"),
}
"""By what is equal, how the rows that have as much of it as another are called, and how it is read and written."""


def task_gains(lines: Lines, rows: Sequence[str]) -> str:
    """Where curation beats distillation, task by task, and whether both together beat the better of them.

    Args:
        lines: of the study.
        rows: three names: curation alone, distillation alone, and both together.
    """
    alone, other, both = rows
    if set(lines.rows(rows)) < set(rows):
        return ""
    titles = (f"{alone} over {other}", f"{both} over the better one")
    found = [["", titles[0], "interval of 95 %", "the better one", titles[1], "interval of 95 %"]]
    gains: list[list[Stat | None]] = []
    known = sorted(lines.records[0]["tasks"])
    for name, measure in [*((task, task_of(task)) for task in known), ("average", average)]:
        means = {row: one.mean for row in (alone, other) if (one := lines.stat(row, "", measure))}
        better = max(means, key=means.__getitem__)
        pair = [lines.gain(alone, other, "", measure), lines.gain(both, better, "", measure)]
        first, second = ([marked(gain), between(gain)] for gain in pair)
        found.append([name, *first, better, *second])
        gains.append(pair)
    counts = [counted(title, [pair[i] for pair in gains[:-1]]) for i, title in enumerate(titles)]
    return markdown(found) + "\n" + "".join(counts)


def counted(title: str, gains: Sequence[Stat | None]) -> str:
    """How many intervals leave 0 out, on which side, and how many would by chance, as a line of a list."""
    apart = [gain.mean for gain in gains if gain and separable(gain)]
    above = sum(mean > 0 for mean in apart)
    return (
        f"- {title}: {len(apart)} of {len(gains)} intervals leave 0 out, {above} above and {len(apart) - above} below; "
        f"where nothing differs, {CHANCE * len(gains):.1f} would.\n"
    )


def stand_in(lines: Lines, row: str, of: str, budget: str) -> str | None:
    """The row of a method with as much of a budget as another row: its own for that, or itself where it is alike."""
    suffix, read, _ = SAME_BUDGET[budget]
    there = [one.name for one in lines.study.rows]
    if suffix and (own := row + suffix.format(of)) in there:
        return own if lines.of(own) else None
    mine, its = lines.stat(row, "", read), lines.stat(of, "", read)
    return row if mine and its and abs(mine.mean - its.mean) <= ALIKE * its.mean else None


def equal_budgets(lines: Lines, rows: Sequence[str]) -> str:
    """Averages at equal trained pairs, equal loaded pairs and equal time, and how far the last row is ahead.

    Args:
        lines: of the study.
        rows: names; budgets are those of the last one.
    """
    of = rows[-1]
    if not lines.of(of):
        return ""
    heads, columns = [""], [list(rows)]
    for budget, (_, read, write) in SAME_BUDGET.items():
        names = [stand_in(lines, row, of, budget) for row in rows]
        its = lines.stat(of, "", read)
        heads += [f"equal {budget} ({write(its.mean) if its else DASH}), %", f"{of} ahead by"]
        columns.append(best_bold([lines.stat(name, "") if name else None for name in names]))
        columns.append([marked(lines.gain(of, name, "")) if name and name != of else DASH for name in names])
    return markdown([heads, *map(list, zip(*columns, strict=True))])
