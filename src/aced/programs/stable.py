"""`aced stable`: reads tables of scores, chooses the stable tasks, prints a table, writes JSON and a page."""

from __future__ import annotations

import datetime
import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from aced.evaluate.stability.files import file_of
from aced.evaluate.stability.resampling import Rules
from aced.evaluate.stability.stable_tasks import Stability, TaskStability, select_stable
from aced.evaluate.stability.tables import Layout, read_scores
from aced.files.atomic import write_atomic
from aced.report.numbers import DASH
from aced.report.stability_page import write_stability_page
from aced.version import __version__

FEW = 4
"""Below so many degrees of freedom a sigma is known to within a factor of three at best, and that is told."""
VERDICTS = {"kept": "kept", "noisy": "noisy", "chance": "at chance"}


def stable_program(
    paths: Sequence[Path],
    *,
    ranked: Sequence[Path],
    facts: Path | None,
    layout: Layout,
    rules: Rules,
    out: Path,
    command: Sequence[str],
    console: Console,
) -> Stability:
    """Choose the stable tasks of the tables in `paths`; write `out` and the page beside it, and print the table.

    Args:
        paths: see `read_scores`, as for `ranked`, `facts` and `layout`.
        ranked: rows to rank in the place of those of `paths`.
        facts: n and chance of the tasks, where the tables lack them.
        layout: how the tables are to be understood.
        rules: how tasks are chosen.
        out: the JSON; the page has the same name with `.html`.
        command: the words of the command line, kept in the JSON.
        console: where the table goes.

    Raises:
        AcedError: whatever is wrong with the tables, or a file that cannot be written.
    """
    scores = read_scores(paths, ranked=ranked, facts=facts, layout=layout)
    found = select_stable(scores, rules)
    inputs = [*paths, *ranked, *([facts] if facts else [])]
    record = stability_record(found, rules, inputs, command)
    write_atomic(out, json.dumps(record, indent=1, allow_nan=False) + "\n")
    page = write_stability_page(out.with_suffix(".html"), found, findings(found), record)
    console.print(stability_table(found))
    for sentence in findings(found):
        console.print(sentence, markup=False, highlight=False)
    console.print(f"Report: {page}   Figures: {out}", markup=False, highlight=False)
    return found


def stability_record(found: Stability, rules: Rules, inputs: Sequence[Path], command: Sequence[str]) -> dict[str, Any]:
    """What is written as JSON: where it comes from, then every field of `Stability`; unknown values are null."""
    files = [file_of(path) for path in inputs]
    return {
        "made_by": f"aced {__version__} stable",
        "command": list(command),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "inputs": [{"file": str(f), "sha256": hashlib.sha256(f.read_bytes()).hexdigest()} for f in files],
        "rules": asdict(rules),
        "kept": found.kept,
        **asdict(found),
    }


def stability_table(found: Stability) -> Table:
    """A row for each task, the most stable first, scores and errors in percentage points."""
    # Narrow enough for a terminal of 80 columns; names are broken there, but never gone.
    table = Table(header_style="bold", padding=(0, 0), pad_edge=False)
    table.add_column("Task", min_width=14, max_width=30)
    for head in ("Mean, %", "Chance", "n", "Error", "Sigma", "95 %", "Kept in"):
        table.add_column(head, justify="right", no_wrap=True)
    table.add_column("Verdict", no_wrap=True)
    last = None
    for task in found.tasks:
        if last is not None and task.verdict != last:
            table.add_section()
        last = task.verdict
        table.add_row(*_cells(task), style="dim" if task.verdict == "chance" else None)
    return table


def _cells(task: TaskStability) -> list[str]:
    interval = DASH
    if task.sigma_low is not None and task.sigma_high is not None:
        interval = f"{100 * task.sigma_low:.2f}–{100 * task.sigma_high:.2f}"
    return [
        escape(task.name),
        f"{100 * task.mean:.1f}",
        DASH if task.chance is None else f"{100 * task.chance:.1f}",
        DASH if task.n is None else str(task.n),
        DASH if task.sampling is None else f"{100 * task.sampling:.2f}",
        f"{100 * task.sigma:.2f}",
        interval,
        DASH if task.kept_share is None else f"{100 * task.kept_share:.0f} %",
        VERDICTS[task.verdict],
    ]


def findings(found: Stability) -> list[str]:
    """What was found, and how far it can be trusted, in sentences."""
    return [text for text in (_seeds(found), _guard(found), _choice(found), _unseen(found), _ranking(found)) if text]


def _seeds(found: Stability) -> str:
    names = list(found.recipes)
    shown = ", ".join(f"{found.recipes[name]} x {name}" for name in names[:4])
    more = f" and {len(names) - 4} more recipes" if len(names) > 4 else ""
    low, high = found.sigma_factors
    text = (
        f"Repeats: {shown}{more}; {found.df} degree{'s' * (found.df > 1)} of freedom, so the true sigma of a task is "
        f"between {low:.2f} and {high:.2f} times the one shown (95 %)."
    )
    return text + (" That is too few to choose by: train more seeds." if found.df < FEW else "")


def _guard(found: Stability) -> str:
    unknown = [task.name for task in found.tasks if task.p_value is None]
    dropped = [task.name for task in found.tasks if task.verdict == "chance"]
    text = f"Chance: {len(found.tasks) - len(dropped) - len(unknown)} of {len(found.tasks)} tasks are above it"
    text += f"; dropped as not significantly above it: {', '.join(dropped)}." if dropped else "."
    if unknown:
        text += f" Not tested, because n or chance is unknown (give them with --facts): {', '.join(unknown)}."
    return text


def _choice(found: Stability) -> str:
    best, every = found.stable, found.above_chance
    text = (
        f"Choice: the average of the {best.tasks} most stable of {every.tasks} tasks varies least from seed to seed, "
        f"by {100 * best.std:.2f} points; all {every.tasks} by {100 * every.std:.2f}."
    )
    if best.tasks == every.tasks:
        text = (
            f"Choice: all {every.tasks} tasks above chance stay; leaving out the noisiest would not make their average "
            f"steadier (it varies by {100 * every.std:.2f} points from seed to seed)."
        )
    if found.chosen_low is not None:
        text += f" On resampled seeds N is between {found.chosen_low} and {found.chosen_high} (95 %)."
    if found.chosen == found.least and found.chosen < every.tasks:
        text += f" N is the fewest that was allowed ({found.least}); the curve may be lower still before it."
    return text


def _unseen(found: Stability) -> str:
    if found.held_out is None:
        return "Held-out seeds: too few seeds to choose on one half and measure on the other."
    return (
        f"Held-out seeds: chosen on half of the seeds, the stable average varies {found.held_out:.2f} times as much as "
        "that of all tasks above chance on the other half."
    )


def _ranking(found: Stability) -> str:
    if found.tau is None:
        return ""
    pairs = found.models * (found.models - 1) // 2
    text = (
        f"Ranking: Kendall's tau between {found.models} models by the full average ({found.full.tasks} tasks) and by "
        f"the stable one is {found.tau:.3f}; {found.swapped} of {pairs} pairs change places."
    )
    if found.full.signal is not None and found.stable.signal is not None:
        text += (
            f" The models' spread is {found.full.signal:.1f} sigmas of the full average and "
            f"{found.stable.signal:.1f} of the stable one."
        )
    return text
