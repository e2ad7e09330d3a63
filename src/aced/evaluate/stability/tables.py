"""One complete table from tables of scores in several forms: our JSON, DataComp's JSON lines, CSV."""

from __future__ import annotations

import fnmatch
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, cast, get_args

import numpy as np

from aced.errors import AcedError, every, nearest
from aced.evaluate.stability.distributions import Floats
from aced.evaluate.stability.files import Facts, ScoreRow, read_facts, read_rows
from aced.evaluate.stability.spread import ScoreTable

Missing = Literal["stop", "tasks", "rows"]


@dataclass(frozen=True)
class Layout:
    """How to read a table.

    Attributes:
        recipe_columns: CSV columns whose values together name a row's recipe; rows of one recipe are repeats.
        repeat_pattern: regular expression for the part of a name that differs between repeats; the rest is the recipe.
        ignore: patterns (`*`, `?`) of tasks or CSV columns to leave out.
        percent: scores are in percent.
        missing: what to do about missing scores: stop, or leave out the tasks or rows that lack any.
    """

    recipe_columns: Sequence[str] = ()
    repeat_pattern: str = ""
    ignore: Sequence[str] = ()
    percent: bool = False
    missing: Missing = "stop"


def layout_of(
    recipe_columns: Sequence[str], repeat_pattern: str, ignore: Sequence[str], *, percent: bool, missing: str
) -> Layout:
    """A layout from the command line's options.

    Raises:
        AcedError: `missing` is unknown, or both columns and a pattern identify repeats.
    """
    if missing not in get_args(Missing):
        raise AcedError(f"--missing is '{missing}'; use 'stop', 'tasks' or 'rows'.")
    if recipe_columns and repeat_pattern:
        raise AcedError("Use --recipe-column or --repeat-pattern, not both: each says which rows repeat a recipe.")
    return Layout(recipe_columns, repeat_pattern, ignore, percent, cast(Missing, missing))


@dataclass
class _Collected:
    """Rows on their way to a table."""

    rows: list[ScoreRow] = field(default_factory=list)
    ranked_only: list[bool] = field(default_factory=list)


def read_scores(
    paths: Sequence[Path], *, ranked: Sequence[Path] = (), facts: Path | None = None, layout: Layout = Layout()
) -> ScoreTable:
    """One table from one or many files.

    Args:
        paths: `results.json` files or folders that hold one, `eval_results.jsonl` files, CSV files.
        ranked: further ones, whose rows are ranked as models instead of those of `paths`; they measure no spread.
        facts: a CSV (`task,n,chance`) or JSON file (`{task: {n, chance}}`) for facts missing from the tables.
        layout: see `Layout`.

    Raises:
        AcedError: a file is missing or malformed, a score is missing (unless the layout says what to leave out) or out
            of range, a run is given twice, or a task is not the same in all of them.
    """
    pattern = _compiled(layout.repeat_pattern)
    found = _Collected()
    read = every(lambda path: read_rows(Path(path), layout.recipe_columns, layout.ignore), [*paths, *ranked])
    for place, rows_read in enumerate(read):
        only = place >= len(paths)
        for row in rows_read:
            row = _with_recipe(row, pattern, layout.recipe_columns)
            found.rows.append(replace(row, recipe=f"{row.recipe} (ranked)") if only else row)
            found.ranked_only.append(only)
    if pattern is not None and not any(pattern.search(row.name) for row in found.rows):
        raise AcedError(
            f"--repeat-pattern '{layout.repeat_pattern}' matches no row; the first is named '{found.rows[0].name}'."
        )
    rows = _told_apart(found.rows)
    _refuse_twins(rows)
    tasks = _tasks(rows, layout.ignore)
    rows, tasks, kept = _complete(rows, tasks, layout.missing)
    scale = 100.0 if layout.percent else 1.0
    values = np.array([[_score(row, task, scale) for task in tasks] for row in rows])
    known = _facts(rows, tasks, read_facts(facts) if facts is not None else {}, facts)
    return ScoreTable(
        tasks=tasks,
        values=values,
        recipes=[row.recipe for row in rows],
        n=_array([known[task].n for task in tasks]),
        chance=_array([known[task].chance for task in tasks]),
        errors=np.stack([_array([row.facts.get(task, Facts()).stderr for task in tasks]) for row in rows]) / scale,
        ranked_only=np.array([only for only, keep in zip(found.ranked_only, kept, strict=True) if keep]),
    )


def _array(values: Sequence[float | None]) -> Floats:
    return np.array([math.nan if value is None else value for value in values], dtype=np.float64)


def _compiled(pattern: str) -> re.Pattern[str] | None:
    try:
        return re.compile(pattern) if pattern else None
    except re.error as error:
        raise AcedError(f"--repeat-pattern '{pattern}' is not a regular expression ({error}).") from None


def _with_recipe(row: ScoreRow, pattern: re.Pattern[str] | None, columns: Sequence[str]) -> ScoreRow:
    """The row's recipe: its name without the part that differs between repeats; with columns it is already known."""
    if pattern is None or columns:
        return row
    if not pattern.search(row.name):
        return replace(row, recipe=row.name)
    return replace(row, recipe=" ".join(pattern.sub("", row.name).split()) or row.name)


def _told_apart(rows: Sequence[ScoreRow]) -> list[ScoreRow]:
    """Runs of one name whose configs differ in more than the seed become separate recipes, named by a folder."""
    configs: dict[str, dict[str, str]] = {}
    for row in rows:
        if row.config:
            configs.setdefault(row.recipe, {}).setdefault(row.config, Path(row.where).parent.name)
    return [
        replace(row, recipe=f"{row.recipe} ({configs[row.recipe][row.config]})")
        if row.config and len(configs[row.recipe]) > 1
        else row
        for row in rows
    ]


def _refuse_twins(rows: Sequence[ScoreRow]) -> None:
    """A run given twice would look like a seed that repeats another exactly."""
    seen: dict[tuple[str, str], ScoreRow] = {}
    for row in rows:
        if not row.seed:
            continue
        twin = seen.setdefault((row.recipe, row.seed), row)
        if twin is not row:
            raise AcedError(
                f"Seed {row.seed} of '{row.recipe}' occurs twice, in {twin.where} and {row.where}: name each run once."
            )


def _tasks(rows: Sequence[ScoreRow], ignore: Iterable[str]) -> list[str]:
    every = list(dict.fromkeys(task for row in rows for task in row.scores))
    tasks = [task for task in every if not any(fnmatch.fnmatchcase(task, pattern) for pattern in ignore)]
    if not tasks:
        raise AcedError("The tables hold no task scores, or --ignore leaves out all of them.")
    for task in tasks:
        if re.match(r"(?i)(average|avg|mean)\b", task):
            raise AcedError(f"'{task}' looks like an average, not a task: leave it out with --ignore '{task}'.")
    return tasks


def _complete(rows: list[ScoreRow], tasks: list[str], missing: Missing) -> tuple[list[ScoreRow], list[str], list[bool]]:
    """Rows and tasks without holes, and the rows that remain."""
    holes = [(row, task) for row in rows for task in tasks if row.scores.get(task) is None]
    keep = [True] * len(rows)
    if not holes:
        return rows, tasks, keep
    if missing == "tasks":
        lacking = {task for _, task in holes}
        tasks = [task for task in tasks if task not in lacking]
    elif missing == "rows":
        keep = [all(row.scores.get(task) is not None for task in tasks) for row in rows]
        rows = [row for row, stays in zip(rows, keep, strict=True) if stays]
    else:
        row, task = holes[0]
        more = f" (and {len(holes) - 1} more scores are missing)" if len(holes) > 1 else ""
        raise AcedError(
            f"{row.where} has no score for task '{task}' of '{row.name}'{more}: add it, or leave out what is "
            "incomplete with --missing tasks or --missing rows."
        )
    if not (rows and tasks):
        raise AcedError(f"--missing {missing} leaves nothing: all {missing} lack some score: add the scores.")
    return rows, tasks, keep


def _score(row: ScoreRow, task: str, scale: float) -> float:
    value = row.scores[task]
    assert value is not None
    if not 0 <= value <= scale:
        hint = "add --percent if scores are in percent, or" if scale == 1 and 1 < value <= 100 else "correct it, or"
        raise AcedError(
            f"{row.where} has {value:g} as the score of '{row.name}' on task '{task}', which is not between 0 and "
            f"{scale:g}: {hint} leave the column out with --ignore '{task}' if it is not a task."
        )
    return value / scale


def _facts(
    rows: Sequence[ScoreRow], tasks: Sequence[str], given: dict[str, Facts], file: Path | None
) -> dict[str, Facts]:
    """n and chance of each task: from the rows, which must agree, and otherwise from the facts file."""
    if given and not given.keys() & set(tasks):
        raise AcedError(f"{file} names none of the tasks, for instance '{tasks[0]}'.{nearest(tasks[0], given)}")
    known = {}
    for task in tasks:
        fact = given.get(task, Facts())
        for row in rows:
            own = row.facts.get(task, Facts())
            for name, ours, theirs in (("n", fact.n, own.n), ("chance", fact.chance, own.chance)):
                if ours is not None and theirs is not None and abs(ours - theirs) > 1e-9:
                    raise AcedError(
                        f"Task '{task}' has {name} = {theirs:g} in {row.where} but {ours:g} elsewhere: these are "
                        "different tasks, so they cannot be compared."
                    )
            fact = Facts(own.n if fact.n is None else fact.n, own.chance if fact.chance is None else fact.chance)
        known[task] = fact
    return known
