"""One run of a study, in a process of its own that has imported everything already."""

from __future__ import annotations

import resource
import shutil
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from study_records import Job

import aced
from aced.config import load_config
from aced.errors import AcedError
from aced.models import import_open_clip
from aced.report import load_run

import_open_clip()


def run(job: Job, folder: Path, places: dict[str, str], keep: bool) -> dict[str, Any]:
    """Train and score one model.

    Args:
        job: what to run.
        folder: of the run; its checkpoints are removed, and all of it but for `keep`.
        places: by name, what `{name}` stands for in the job's keys.
        keep: whether the model stays.

    Returns:
        What the record of the run holds beside the job itself.
    """
    shutil.rmtree(folder, ignore_errors=True)
    fixed = {"run.out": str(folder), "run.seed": str(job.seed), "run.threads": "1", "run.checkpoint_every": "0"}
    words = [f"{key}={value}" for key, value in (job.filled(places) | fixed).items()]
    marks: list[float] = []
    done = aced.train(load_config(job.recipe, words), on_step=lambda _: marks.append(time.process_time()), show=False)
    row = done.results["rows"][0]
    if row.get("failed"):
        raise AcedError(f"{folder}: tasks could not be scored: {row['failed']}")
    kinds = {"chosen": Counter[str](), "pool": Counter[str]()}
    for line in load_run(folder).steps:
        for side, counts in (line.kinds.model_dump() if line.kinds else {}).items():
            kinds[side].update(counts)
    names = ("average", "tasks", "budgets", "clean_share", "embedding")
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    if not keep:
        shutil.rmtree(folder)
    return {
        **{name: row[name] for name in names},
        "tasks": {name: {k: score[k] for k in ("value", "chance", "n")} for name, score in row["tasks"].items()},
        "kinds": kinds,
        "steps": done.step,
        "peak_megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "processor_seconds": (marks[-1] - marks[0]) * len(marks) / max(len(marks) - 1, 1),
        "environment": {name: done.results["environment"].get(name) for name in ("cpu", "torch")},
    }


def child(pipe: Any, *arguments: Any) -> None:
    """Run in a process of its own; what it gives, or its fault as text, goes through the pipe."""
    torch.set_num_threads(1)
    try:
        pipe.send(run(*arguments))
    except AcedError as error:
        pipe.send(str(error))
    except Exception:
        pipe.send(traceback.format_exc())
