"""The best model of a run, by its average over the evaluation tasks: a folder of its own that resuming keeps right.

`best/step-00000400/` is what `load_tower` reads, with `scores.json` (step, average, tasks) inside. The best so far is
read from there and not from memory, so that a resumed run knows it too; a run that goes back to a checkpoint takes the
same evaluations again and comes to the same best.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aced.data.atomic import folder_atomic, remove_whole, write_atomic
from aced.errors import AcedError
from aced.evaluate.tasks import TaskResult, as_json
from aced.evaluate.zeroshot import average
from aced.towers import Tower, save_tower


def keep_best(folder: Path, student: Tower, results: Mapping[str, TaskResult], step: int) -> None:
    """Keep the student in `folder/step-N` if no evaluation of these tasks before had a higher or the same average.

    Raises:
        AcedError: the disk is full or the folder cannot be written; the best before is then still there.
    """
    scores = {"step": step, "average": average(results), "tasks": as_json(results)}
    found = {path: _scores(path) for path in _folders(folder)}
    # Averages over other tasks say nothing about these.
    known = {path: s["average"] for path, s in found.items() if s["tasks"].keys() == scores["tasks"].keys()}
    best = max(known, key=lambda path: (known[path], -found[path]["step"]), default=None)
    if best is None or scores["average"] > known[best]:
        best = folder / f"step-{step:08d}"
        if best in found:
            remove_whole(best)
        with folder_atomic(best) as temporary:
            save_tower(student, temporary)
            write_atomic(temporary / "scores.json", json.dumps(scores, indent=1) + "\n")
    for path in _folders(folder):
        if path != best:
            remove_whole(path)


def best_model(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """The best model of a run and its scores, or None; `folder` is the run's `best`."""
    found = [(path, _scores(path)) for path in _folders(folder)]
    return max(found, key=lambda pair: pair[1]["average"], default=None)


def _folders(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*")) if folder.is_dir() else []


def _scores(path: Path) -> dict[str, Any]:
    try:
        scores: dict[str, Any] = json.loads((path / "scores.json").read_bytes())
        float(scores["average"]), int(scores["step"]), scores["tasks"].keys()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise AcedError(f"{path / 'scores.json'} is damaged ({type(error).__name__}); delete {path}.") from None
    return scores
