"""The status of runs as text for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Group
from rich.table import Table
from rich.text import Text

from aced.report.numbers import duration
from aced.runs.pace import percent, shares_text
from aced.runs.standing import Status

_STYLES = {
    "finished": "green",
    "interrupted": "yellow",
    "stopped": "yellow",
    "failed": "red",
    "killed": "red",
    "silent": "yellow",
}


def view(statuses: Sequence[Status]) -> Group:
    """Some lines about each run, under its folder's name."""
    return Group(*(part for status in statuses for part in (_head(status), _rows(status))))


def _head(status: Status) -> Text:
    text = Text(f"{status.run}: ", style="bold")
    text.append(status.state, style=_STYLES.get(status.state, ""))
    if status.why:
        text.append(f" ({status.why})", style="not bold")
    return text


def _rows(status: Status) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column()
    for name, text in _lines(status):
        table.add_row(f"  {name}", Text(text))
    return table


def _lines(s: Status) -> Iterator[tuple[str, str]]:
    yield "method", f"{s.method}, seed {s.seed}" + (f", process {s.process} on {s.host}" if s.process else "")
    left = f", about {duration(s.seconds_left)} left" if s.seconds_left is not None else ""
    yield "step", f"{s.step:,} of {s.steps:,} ({percent(s.step / s.steps)}){left}"
    if s.pace:
        yield "pace", f"{s.pace.images:,.0f} images/s, {duration(s.pace.step_seconds)} a step"
        yield "time", shares_text(s.pace.shares)
    if s.loss is not None:
        parts = {"contrastive": s.contrastive, "distillation": s.kd} if s.kd is not None else {}
        each = ", ".join(f"{name} {value:.4g}" for name, value in parts.items() if value is not None)
        yield "loss", f"{s.loss:.4g}" + (f" ({each})" if each else "")
    if s.lr is not None:
        yield "rate", f"{s.lr:.3g}"
    if s.invalid:
        reason = f", most often {s.invalid.reason}" if s.invalid.reason else ""
        yield "invalid", f"{percent(s.invalid.share)} of the samples{reason}"
    if s.evaluation:
        yield "scored", f"{s.evaluation[1]:.1f} % at step {s.evaluation[0]:,}"
    if s.unscored:
        yield "unscored", ", ".join(s.unscored)
    if s.checkpoint is not None and s.checkpoint_age is not None:
        yield "checkpoint", f"step {s.checkpoint:,}, {duration(max(1.0, s.checkpoint_age))} ago"
    yield "last line", f"{duration(max(1.0, s.line_age))} ago" if s.line_age is not None else "none yet"
