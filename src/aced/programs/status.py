"""`aced status`: the progress of runs, once or until they end."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.live import Live

from aced.report.standing_text import view
from aced.runs.standing import UNDER_WAY, Status, as_json, read_status


def status_program(
    runs: Sequence[Path], console: Console, *, in_json: bool = False, follow: bool = False, every: float = 2.0
) -> None:
    """Print the progress of runs; `follow` repeats it at an interval until all have ended, or until Ctrl-C.

    With `in_json` each time prints a line: a list with one object per run.

    Raises:
        AcedError: a folder holds no run, or a file of one is damaged.
    """
    statuses = _read(runs)
    if in_json:
        _say_json(statuses, console)
    elif not (follow and console.is_terminal):
        console.print(view(statuses))
    if follow:
        with contextlib.suppress(KeyboardInterrupt):  # the usual way to stop it
            _follow(runs, statuses, console, in_json=in_json, every=every)


def _follow(runs: Sequence[Path], statuses: Sequence[Status], console: Console, *, in_json: bool, every: float) -> None:
    if in_json or not console.is_terminal:
        while _under_way(statuses):
            time.sleep(every)
            before, statuses = statuses, _read(runs)
            if in_json:
                _say_json(statuses, console)
            elif _news(before) != _news(statuses):
                console.print(view(statuses))
        return
    with Live(view(statuses), console=console, auto_refresh=False) as live:
        while _under_way(statuses):
            time.sleep(every)
            statuses = _read(runs)
            live.update(view(statuses), refresh=True)


def _read(runs: Sequence[Path]) -> list[Status]:
    return [read_status(run) for run in runs]


def _under_way(statuses: Sequence[Status]) -> bool:
    return any(status.state in UNDER_WAY for status in statuses)


def _news(statuses: Sequence[Status]) -> list[tuple[str, int]]:
    """The part whose change is worth new lines if old lines cannot be redrawn."""
    return [(status.state, status.step) for status in statuses]


def _say_json(statuses: Sequence[Status], console: Console) -> None:
    console.file.write(json.dumps([as_json(status) for status in statuses]) + "\n")
    console.file.flush()
