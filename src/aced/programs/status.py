"""`aced status`: how runs stand, once or until they end."""

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
    """Print how runs stand; `follow` does so every so many seconds until all of them have ended, or Ctrl-C.

    With `in_json` each time is a line: a list of an object for each run.

    Raises:
        AcedError: a folder holds no run, or a file of one is damaged.
    """
    statuses = _read(runs)
    if in_json:
        _say_json(statuses, console)
    elif not (follow and console.is_terminal):
        console.print(view(statuses))
    if follow:
        with contextlib.suppress(KeyboardInterrupt):  # the usual way to leave it
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
    """What is worth new lines where the old ones stay."""
    return [(status.state, status.step) for status in statuses]


def _say_json(statuses: Sequence[Status], console: Console) -> None:
    console.file.write(json.dumps([as_json(status) for status in statuses]) + "\n")
    console.file.flush()
