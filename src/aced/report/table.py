"""The results as a table for the terminal."""

from __future__ import annotations

from typing import Any

from rich.markup import escape
from rich.table import Table

from aced.report.aggregate import Group, group_rows
from aced.report.numbers import DASH, budget_text, signed
from aced.report.shared_tasks import on_shared_tasks
from aced.runs.records import BUDGETS
from aced.runs.run_results import parse_results

_HEADS = {"samples_trained": "Trained", "samples_loaded": "Loaded", "flops": "FLOPs", "seconds": "Time"}


def results_table(results: dict[str, Any]) -> Table:
    """Methods as rows: average in percent, gain over IID, sound pairs, the four budgets; in 100 columns.

    Args:
        results: in the form of `results.json`.

    Raises:
        AcedError: the results are malformed.
    """
    parsed, _ = on_shared_tasks(parse_results(results))
    groups = group_rows(parsed)
    gains = len(groups) > 1 and any(group.is_baseline for group in groups)
    sound = any(group.clean for group in groups)
    budgets = [name for name in BUDGETS if any(name in group.budgets for group in groups)]
    table = Table(header_style="bold")
    table.add_column("Method", max_width=24)
    table.add_column("Average, %", justify="right", no_wrap=True)
    if gains:
        table.add_column("vs IID", justify="right", no_wrap=True)
    if sound:
        table.add_column("Sound", justify="right", no_wrap=True)
    for name in budgets:
        table.add_column(_HEADS[name], justify="right", no_wrap=True)
    best = max((group.average.mean for group in groups if group.average), default=None)
    for group in groups:
        cells = [escape(group.title), _average(group)]
        if gains:
            cells.append(signed(group.gain) if group.gain is not None else DASH)
        if sound:
            cells.append(f"{100 * group.clean.mean:.0f} %" if group.clean else DASH)
        cells += [budget_text(n, group.budgets[n].mean) if n in group.budgets else DASH for n in budgets]
        leads = len(groups) > 1 and group.average is not None and group.average.mean == best
        table.add_row(*cells, style="bold" if leads else None)
    reference = parsed.reference
    if reference and reference.average is not None:
        table.add_section()
        table.add_row("Reference", f"{reference.average:.1f}", style="dim")
    return table


def _average(group: Group) -> str:
    if group.average is None:
        return DASH
    text = f"{group.average.mean:.1f}"
    return text if group.average.std is None else f"{text} ± {group.average.std:.1f}"
