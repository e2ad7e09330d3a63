"""Evaluations and comparisons as tables in the terminal."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from aced.evaluate.compare import AVERAGE, Comparison
from aced.evaluate.eval_records import Evaluation, averaged, summary
from aced.evaluate.image_faults import fault_lines


def print_results(evaluation: Evaluation, console: Console) -> None:
    """The scores with their standard errors and the chance level."""
    setting, records = evaluation.setting, evaluation.tasks
    console.print(
        f"{setting.model} ({setting.fingerprint}), {setting.prompts} prompts, {setting.precision}",
        markup=False,
        highlight=False,
    )
    if records:
        table = Table(header_style="bold")
        for head in ("Task", "Metric"):
            table.add_column(head)
        for head in ("Score, %", "± s.e.", "Chance", "n"):
            table.add_column(head, justify="right", no_wrap=True)
        for name, record in records.items():
            above = record["stderr"] is None or record["value"] - record["chance"] > 2 * record["stderr"]
            row = [name, record["metric"], f"{100 * record['value']:.2f}", _percent(record["stderr"])]
            row += [f"{100 * record['chance']:.2f}", f"{record['n']:,}"]
            table.add_row(*map(escape, row), style="" if above else "dim")
        total = summary(records, evaluation.failed)
        table.add_section()
        mean = [_percent(total[key]) for key in ("average", "average_stderr", "average_chance")]
        table.add_row(f"Average of {len(averaged(records, evaluation.failed))}", "", *mean, "")
        console.print(table)
        console.print("Dim: less than two standard errors above chance.", highlight=False)
    for line in fault_lines(records):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f}"


def print_comparison(comparison: Comparison, names: tuple[str, str], console: Console) -> None:
    """Differences with their intervals; those that another sample might not show are labelled noise."""
    table = Table(header_style="bold", title=f"B - A.  A: {escape(names[0])}  B: {escape(names[1])}", title_style="")
    for head in ("Task", "Metric"):
        table.add_column(head)
    for head in ("A, %", "B, %", "B - A", "95 % interval", "p"):
        table.add_column(head, justify="right", no_wrap=True)
    table.add_column("")
    for entry in comparison.differences:
        if entry.task == AVERAGE and not entry.metric:
            table.add_section()
        verdict = "noise" if entry.noise else "B better" if entry.b > entry.a else "A better"
        gain, low, high = (100 * value for value in (entry.b - entry.a, entry.low, entry.high))
        row = [entry.task, entry.metric, f"{100 * entry.a:.2f}", f"{100 * entry.b:.2f}", f"{gain:+.2f}"]
        row += [f"{low:+.2f} to {high:+.2f}", f"{entry.p:.3f}", verdict]
        table.add_row(*map(escape, row), style="dim" if entry.noise else "")
    console.print(table)
    tasks = sum(bool(entry.metric) for entry in comparison.differences)
    console.print(
        f"Noise: the paired bootstrap interval over the samples contains 0. Of {tasks} tasks without any "
        f"difference, {0.05 * tasks:.1f} would be marked as different by chance.",
        highlight=False,
    )
    for name, reason in comparison.left_out.items():
        console.print(f"Left out: {name}: {reason}.", markup=False, highlight=False, soft_wrap=True)
