"""The lines of a run, `metrics.jsonl` and `evals.jsonl`: written, trimmed to a checkpoint, and sent to trackers."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from aced.errors import AcedError
from aced.files.atomic import append_line, write_atomic
from aced.runs.trackers.group import Trackers


class RunLines:
    """The two files of lines in a run's folder, and the trackers that also receive each line.

    Args:
        path: `metrics.jsonl`; `evals.jsonl` is beside it.

    Attributes:
        trackers: none, until some are opened.
        say: prints a sentence.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.evals = path, path.with_name("evals.jsonl")
        self.trackers = Trackers([])
        self.say: Callable[[str], None] = lambda _: None
        self._told: set[tuple[str, str]] = set()

    def append(self, line: dict[str, Any]) -> None:
        """Write the line of a step.

        Raises:
            AcedError: the disk is full or the file cannot be written.
        """
        append_line(self.path, json.dumps(line))
        self.trackers.line(line)

    def scored(self, line: dict[str, Any]) -> None:
        """Write an evaluation during the run: `step`, `average`, `tasks`, `budgets` and what `failed`."""
        append_line(self.evals, json.dumps(line))
        self.trackers.scores(line)
        self.tell(line["step"], line.get("failed", {}))

    def tell(self, step: int, failed: Mapping[str, str]) -> None:
        """Report the tasks that could not be scored, and why; each reason once per run."""
        for task, why in failed.items():
            if (task, why) not in self._told:
                self._told.add((task, why))
                self.say(f"At step {step} the task '{task}' could not be scored: {why}")


def trim_lines(path: Path, step: int) -> None:
    """Drop the lines of a `.jsonl` file that were written after `step`; a resumed run writes them again.

    Raises:
        AcedError: a line is damaged, or the file cannot be written.
    """
    if not path.is_file():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        if not line.endswith("\n"):
            break  # cut by a kill, so it is after the last checkpoint
        try:
            late = json.loads(line)["step"] > step
        except (ValueError, KeyError, TypeError):
            raise AcedError(f"{path} is damaged: one of its lines is not as written; remove that line.") from None
        if not late:
            kept.append(line)
    write_atomic(path, "".join(kept))
