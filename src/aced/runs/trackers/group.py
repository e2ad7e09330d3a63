"""The trackers of a run: opened by name, sent every line, and dropped once they fail."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from aced.errors import AcedError
from aced.registry.makers import TRACKERS
from aced.runs.pace import Totals, invalid, pace
from aced.runs.trackers.boards import TensorBoard, Trackio, WandB
from aced.runs.trackers.tracker import Tracker, eval_values, train_values

Say = Callable[[str], None]
_SERVICES: dict[str, Callable[..., Tracker]] = {"wandb": WandB, "trackio": Trackio}


class Trackers:
    """Several trackers as one; they also receive the pace between two lines and the share of invalid samples."""

    def __init__(self, trackers: Sequence[Tracker], say: Say = lambda _: None) -> None:
        self._trackers, self._say = list(trackers), say
        self._before = Totals(0, 0.0, {})

    def line(self, line: Mapping[str, Any]) -> None:
        """Send a line of `metrics.jsonl`, with the pace since the one before."""
        after = _totals(line)
        now = pace(self._before, after)
        self._before = after
        lost = invalid(line["faults"], **line["samples"]).share
        self._send("train", line["step"], train_values({**line, "pace": now.values() if now else {}, "invalid": lost}))

    def scores(self, line: Mapping[str, Any]) -> None:
        """Send an evaluation: `step`, `average` and `tasks`, as in `evals.jsonl`."""
        self._send("eval", line["step"], eval_values(line))

    def resume(self, step: int, lines: Path, evals: Path) -> None:
        """Continue from a checkpoint at `step`: send that step's entries again, which trackers discard on opening."""
        for line in _last(lines, 2):
            if line["step"] == step:
                self.line(line)
            else:
                self._before = _totals(line)
        for line in _last(evals, 1):
            if line["step"] == step:
                self.scores(line)

    def add(self, tracker: Tracker) -> None:
        """Add another tracker, and print where to see it."""
        self._trackers.append(tracker)
        self._say(f"{tracker.name}: {tracker.where}")

    def close(self, *, failed: bool) -> None:
        """End them all."""
        for tracker in self._trackers:
            try:
                tracker.close(failed=failed)
            except Exception as error:
                self._say(f"{tracker.name} did not end well ({_reason(error)}).")

    def _send(self, kind: str, step: int, values: dict[str, float]) -> None:
        for tracker in list(self._trackers):
            try:
                tracker.log(kind, step, values)
            except AcedError:
                raise
            except Exception as error:  # no reason to lose a run: report it and continue
                self._trackers.remove(tracker)
                self._say(
                    f"{tracker.name} failed at step {step} and receives no more of this run ({_reason(error)}); "
                    "metrics.jsonl has every line."
                )


def check_trackers(names: Sequence[str]) -> None:
    """Raise an AcedError if a tracker's package is not installed, before anything is computed."""
    for name in names:
        if name in TRACKERS:
            continue
        if name not in sys.modules and importlib.util.find_spec(name) is None:
            what = f"pip install 'aced[{name}]'" if name != "tensorboard" else "pip install tensorboard"
            raise AcedError(f"run.trackers names '{name}', which is not installed: {what}, or leave it out.")


@contextlib.contextmanager
def tracking(
    names: Sequence[str], settings: dict[str, Any], step: int, lines: Path, evals: Path, say: Say
) -> Iterator[Trackers]:
    """Trackers by name, for a run that starts or continues at `step`.

    Args:
        names: as in `run.trackers`.
        settings: the run's settings as the trackers show them, a nested dict.
        step: steps taken so far.
        lines: `metrics.jsonl`, which ends at that step.
        evals: `evals.jsonl`, likewise.
        say: prints a line.

    Raises:
        AcedError: a tracker is not installed, or cannot start.
    """
    names = list(dict.fromkeys(names))
    check_trackers(names)
    trackers = Trackers([], say)
    try:
        for name in names:
            trackers.add(_opened(name, lines.parent, settings, step))
        trackers.resume(step, lines, evals)
        yield trackers
    except BaseException:
        trackers.close(failed=True)
        raise
    trackers.close(failed=False)


def _opened(name: str, folder: Path, settings: dict[str, Any], step: int) -> Tracker:
    try:
        if name == "tensorboard":
            return TensorBoard(folder, step)
        opened: Callable[..., Tracker] = TRACKERS[name].function if name in TRACKERS else _SERVICES[name]
        return opened(folder, settings)
    except AcedError:
        raise
    except Exception as error:
        raise AcedError(
            f"The tracker '{name}' cannot start ({_reason(error)}); set it up, or leave it out of run.trackers."
        ) from error


def _totals(line: Mapping[str, Any]) -> Totals:
    return Totals(line["step"], line["budgets"]["samples_trained"], line["seconds"])


def _last(path: Path, count: int) -> list[dict[str, Any]]:
    lines = path.read_text(encoding="utf-8").splitlines()[-count:] if path.is_file() else []
    return [json.loads(line) for line in lines]


def _reason(error: Exception) -> str:
    said = " ".join(str(error).split())
    return f"{type(error).__name__}: {said}" if said else type(error).__name__
