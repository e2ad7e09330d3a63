"""The best model of a run by its average over the evaluation tasks, in a folder that survives resuming.

`best/step-00000400/` is a model folder for `load_tower`, with `scores.json` (step, average, tasks) inside. The best so
far is read from there and not from memory, so a resumed run knows it too; a run that returns to a checkpoint repeats
the same evaluations and reaches the same best.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aced.errors import AcedError
from aced.evaluate.stability.suite import counted
from aced.evaluate.zeroshot import Scores, scores_json
from aced.files.atomic import folder_atomic, remove_whole, write_atomic
from aced.models import Tower, save_tower


def keep_best(folder: Path, student: Tower, scores: Scores, step: int) -> None:
    """Keep the student in `folder/step-N` if no earlier evaluation of these tasks had at least the same average.

    If a task could not be scored, two evaluations are compared by their averages over the tasks that both scored.

    Raises:
        AcedError: the disk is full or the folder cannot be written; the earlier best is then still there.
    """
    if not scores.results:
        return
    line: dict[str, Any] = {"step": step, **scores_json(scores)}
    found = {path: _scores(path) for path in _folders(folder)}
    # Averages over other tasks are not comparable.
    known = {path: before for path, before in found.items() if _asked(before) == _asked(line)}
    best = min(known, key=lambda path: (_lead(line, known[path]), known[path]["step"]), default=None)
    if best is None or _lead(line, known[best]) > 0:
        best = folder / f"step-{step:08d}"
        if best in found:
            remove_whole(best)
        with folder_atomic(best) as temporary:
            save_tower(student, temporary)
            write_atomic(temporary / "scores.json", json.dumps(line, indent=1) + "\n")
    for path in _folders(folder):
        if path != best:
            remove_whole(path)


def _asked(scores: Mapping[str, Any]) -> set[str]:
    """The tasks of an evaluation."""
    return {*scores["tasks"], *scores.get("failed", {})}


def _lead(scores: Mapping[str, Any], before: Mapping[str, Any]) -> float:
    """The gain in average over an earlier evaluation on the tasks that both scored; 0 if there are none."""
    if scores["tasks"].keys() == before["tasks"].keys():
        return float(scores["average"] - before["average"])
    both = [name for name in counted(sorted(_asked(scores))) if name in scores["tasks"] and name in before["tasks"]]
    gains = [scores["tasks"][name]["value"] - before["tasks"][name]["value"] for name in both]
    return 100 * statistics.fmean(gains) if gains else 0.0


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
