"""`aced status`: the progress of runs, once or until they end."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live

from aced.errors import AcedError, told
from aced.report.standing_text import view
from aced.runs.standing import UNDER_WAY, Status, as_json, read_status


@dataclass(frozen=True)
class _Look:
    """All runs at one moment: their statuses in the order given, or the sentence why one cannot be read."""

    found: dict[Path, Status | str]

    @classmethod
    def at(cls, runs: Sequence[Path]) -> _Look:
        """Read all of them; one that cannot be read hides no other."""
        found: dict[Path, Status | str] = {}
        for run in runs:
            try:
                found[run] = read_status(run)
            except AcedError as error:
                found[run] = told(error)
        return cls(found)

    @property
    def statuses(self) -> list[Status]:
        """Those that could be read."""
        return [status for status in self.found.values() if isinstance(status, Status)]

    @property
    def faults(self) -> list[str]:
        """The sentences about the others."""
        return [status for status in self.found.values() if isinstance(status, str)]

    @property
    def under_way(self) -> bool:
        """Whether any run continues."""
        return any(status.state in UNDER_WAY for status in self.statuses)

    @property
    def news(self) -> list[tuple[str, str, int]]:
        """The part whose change is worth new lines if old lines cannot be redrawn."""
        return [(status.run, status.state, status.step) for status in self.statuses]

    def line(self, runs: Sequence[Path]) -> str:
        """A line of JSON with one object for each run as it was named."""
        return json.dumps([_object(run, self.found[run]) for run in runs]) + "\n"


def status_program(
    runs: Sequence[Path], console: Console, *, in_json: bool = False, follow: bool = False, every: float = 2.0
) -> None:
    """Print the progress of runs; `follow` repeats it at an interval until all have ended, or until Ctrl-C.

    With `in_json` each time prints a line: a list with one object per run; that of a run which cannot be read has the
    state `unknown`, and the sentence as `why`.

    Raises:
        AcedError: a folder holds no run, or a file of one is damaged; raised after the others were shown.
    """
    look = _Look.at(runs)
    if in_json:
        _say_json(look, runs, console)
    elif look.statuses and not (follow and console.is_terminal):
        console.print(view(look.statuses))
    if follow:
        if not in_json:  # now, and not when the others end, hours later
            for fault in look.faults:
                console.print(fault, markup=False, highlight=False, soft_wrap=True)
        look = _follow(runs, look, console, in_json=in_json, every=every)
    if look.faults:
        raise AcedError(" ".join(look.faults))


def _follow(runs: Sequence[Path], look: _Look, console: Console, *, in_json: bool, every: float) -> _Look:
    """Show what is new until no run continues, or until Ctrl-C, the usual way to stop it; returns the last look."""
    with contextlib.suppress(KeyboardInterrupt):
        if in_json or not console.is_terminal:
            while look.under_way:
                time.sleep(every)
                before, look = look, _Look.at(runs)
                if in_json:
                    _say_json(look, runs, console)
                elif before.news != look.news:
                    console.print(view(look.statuses))
            return look
        with Live(view(look.statuses), console=console, auto_refresh=False) as live:
            while look.under_way:
                time.sleep(every)
                look = _Look.at(runs)
                live.update(view(look.statuses), refresh=True)
    return look


def _object(run: Path, status: Status | str) -> dict[str, Any]:
    if isinstance(status, Status):
        return as_json(status)
    return {"run": str(run), "state": "unknown", "why": status, "under_way": False}


def _say_json(look: _Look, runs: Sequence[Path], console: Console) -> None:
    console.file.write(look.line(runs))
    console.file.flush()
