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

from aced.errors import AcedError
from aced.evaluate.stability.files import file_of
from aced.evaluate.stability.resampling import Rules
from aced.evaluate.stability.stable_tasks import Stability, TaskStability, select_stable
from aced.evaluate.stability.tables import layout_of, read_scores
from aced.files.atomic import write_atomic
from aced.programs.command_options import StableOptions
from aced.report.findings import findings
from aced.report.numbers import DASH
from aced.report.stability_page import write_stability_page
from aced.version import __version__

VERDICTS = {"kept": "kept", "noisy": "noisy", "chance": "at chance"}


def stable_program(options: StableOptions, command: Sequence[str], console: Console) -> Stability:
    """Choose the stable tasks of the tables; write the JSON and the page beside it, and print the table.

    Args:
        options: the tables, how to read them, and how to choose tasks.
        command: the command line, kept in the JSON.
        console: where the table is printed.

    Raises:
        AcedError: a fault in the options or the tables, or a file that cannot be written.
    """
    if not 0 < options.alpha < 1:
        raise AcedError(f"--alpha is {options.alpha}; give a probability between 0 and 1, such as 0.05.")
    layout = layout_of(
        options.recipe_column, options.repeat_pattern, options.ignore, percent=options.percent, missing=options.missing
    )
    rules = Rules(alpha=options.alpha, least=options.least or None, resamples=options.resamples)
    scores = read_scores(options.results, ranked=options.rank, facts=options.facts, layout=layout)
    found = select_stable(scores, rules)
    inputs = [*options.results, *options.rank, *([options.facts] if options.facts else [])]
    record = stability_record(found, rules, inputs, command)
    write_atomic(options.out, json.dumps(record, indent=1, allow_nan=False) + "\n")
    page = write_stability_page(options.out.with_suffix(".html"), found, record)
    console.print(stability_table(found))
    for sentence in findings(found):
        console.print(sentence, markup=False, highlight=False)
    console.print(f"Report: {page}   Figures: {options.out}", markup=False, highlight=False)
    return found


def stability_record(found: Stability, rules: Rules, inputs: Sequence[Path], command: Sequence[str]) -> dict[str, Any]:
    """The content of the JSON: its origin, then every field of `Stability`; unknown values are null."""
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
    # Narrow enough for a terminal of 80 columns; long names wrap and are never cut.
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
