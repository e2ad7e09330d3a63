"""The block `stable` of docs/evidence.md: which tasks `aced stable` keeps, from the seeds of some rows of a study."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

from evidence_lines import BASELINE, Measure, Record, best_bold, gain_text, markdown, paired

from aced.evaluate.stability.stable_tasks import Stability, select_stable
from aced.evaluate.stability.tables import read_scores
from aced.report.aggregate import stat
from aced.report.findings import findings
from aced.report.numbers import DASH

LEAST_SEEDS = 2
"""A spread needs two."""


def stable_block(repeated: Sequence[Record], every: Sequence[Record]) -> str:
    """Tables of the tasks and of the rows by both averages, with what `aced stable` finds.

    Args:
        repeated: runs of the rows whose seeds choose the tasks, each row's alone and all together.
        every: runs that are ranked by the average of all tasks and by that of the stable ones.
    """
    rows = list(dict.fromkeys(str(run["row"]) for run in repeated))
    own = {row: [run for run in repeated if run["row"] == row] for row in rows}
    if not rows or min(len(runs) for runs in own.values()) < LEAST_SEEDS:
        return "Not run yet.\n"
    both = chosen(repeated, every)
    alone = {row: chosen(runs, []) for row, runs in own.items()} if len(rows) > 1 else {}
    sentences = "".join(f"- {text}\n" for text in findings(both))
    return f"{markdown(task_table(both, alone))}\n{sentences}\n{markdown(order_table(both.kept, every))}"


def chosen(repeated: Sequence[Record], ranked: Sequence[Record]) -> Stability:
    """What `aced stable REPEATED --rank RANKED` finds."""
    with tempfile.TemporaryDirectory() as folder:
        places = [Path(folder) / name for name in ("repeated.json", "ranked.json")]
        for place, runs in zip(places, (repeated, ranked), strict=True):
            rows = [{"title": run["row"], "seed": run["seed"], "tasks": run["tasks"]} for run in runs]
            place.write_text(json.dumps({"rows": rows}), encoding="utf-8")
        return select_stable(read_scores(places[:1], ranked=places[1:] if ranked else []))


def task_table(both: Stability, alone: dict[str, Stability]) -> list[list[str]]:
    """Tasks, the most stable first, by all the rows' seeds and by each row's."""
    words = {"kept": "stays", "noisy": "noisy", "chance": "at chance"}
    found = [["", "guessing", "mean", "sampling error", "sigma", "kept in", "verdict"]]
    for row in alone:
        found[0] += [f"{row}: sigma", "verdict"]
    others = [{task.name: task for task in one.tasks} for one in alone.values()]
    for task in both.tasks:
        share = DASH if task.kept_share is None else f"{100 * task.kept_share:.0f} %"
        cells = [_points(task.chance), _points(task.mean), _points(task.sampling, 2), _points(task.sigma, 2), share]
        found.append([task.name, *cells, words[task.verdict]])
        for one in (by_name[task.name] for by_name in others):
            found[-1] += [_points(one.sigma, 2), words[one.verdict]]
    return found


def _points(value: float | None, digits: int = 1) -> str:
    return DASH if value is None else f"{100 * value:.{digits}f}"


def average_of(names: Sequence[str]) -> Measure:
    """Average over some tasks, in percent."""
    return lambda run: 100.0 * sum(float(run["tasks"][name]["value"]) for name in names) / len(names)


def order_table(kept: Sequence[str], every: Sequence[Record]) -> list[list[str]]:
    """Rows from the best by the average of all tasks: both averages, the gains over the baseline, and the ranks."""
    rows = list(dict.fromkeys(str(run["row"]) for run in every))
    own = {row: [run for run in every if run["row"] == row] for row in rows}
    sides = []
    for names in (list(every[0]["tasks"]), kept):
        read = average_of(names)
        stats = {row: stat(map(read, runs)) for row, runs in own.items()}
        order = sorted(rows, key=lambda row: -stats[row].mean)
        gains = [DASH if row == BASELINE else gain_text(paired(own[row], own.get(BASELINE, []), read)) for row in rows]
        ranks = [str(order.index(row) + 1) for row in rows]
        sides.append(list(zip(ranks, best_bold([stats[row] for row in rows]), gains, strict=True)))
    heads = [[f"by {word}", "average, %", f"over {BASELINE}"] for word in ("all", "stable ones")]
    body = sorted(zip(rows, *sides, strict=True), key=lambda one: int(one[1][0]))
    return [["", *heads[0], *heads[1]], *([row, *first, *second] for row, first, second in body)]
