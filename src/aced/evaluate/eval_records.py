"""Results of an evaluation on disk: our own file, for resuming and comparing, and the field's two formats.

- `eval.json`: everything, the samples' scores included. Written after every task.
- `clip_benchmark/<task>.json`: as CLIP_benchmark writes it for a task, in strict JSON, with n, chance, standard error,
  prompt policy, precision and fingerprint added.
- `eval_results.jsonl`: as DataComp's evaluate.py writes it, one line per task, with the same additions.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aced.errors import AcedError
from aced.evaluate.datacomp import KnownTask, recognise
from aced.evaluate.evidence import pack
from aced.evaluate.stability.suite import counted
from aced.evaluate.tasks import (
    Association,
    Attributes,
    CaptionSelection,
    Classification,
    Multilabel,
    Retrieval,
    Task,
    TaskResult,
    result_json,
)
from aced.files.atomic import write_atomic

FILE = "eval.json"
_FORMAT = 1


@dataclass(frozen=True)
class Setting:
    """The common settings of all results of an evaluation.

    Attributes:
        model: name of the model.
        checkpoint: file of the weights, if given.
        fingerprint: of the model; equal fingerprints embed identically.
        prompts: prompt policy.
        precision: in which the model ran.
    """

    model: str
    checkpoint: str
    fingerprint: str
    prompts: str
    precision: str


@dataclass
class Evaluation:
    """The results of one model so far.

    Attributes:
        setting: their common settings.
        tasks: for each task its record, as in `eval.json`.
        failed: for each task that failed, the reason.
    """

    setting: Setting
    tasks: dict[str, dict[str, Any]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    def add(self, task: Task, result: TaskResult, seconds: float) -> None:
        """Add a task's result."""
        known = recognise(task.name)
        self.failed.pop(task.name, None)
        self.tasks[task.name] = result_json(result) | {
            "task": kind_of(task),
            "datacomp": known.key if known else None,
            "data": data_mark(task),
            "files": getattr(task.images, "fingerprint", None),
            "images": images_mark(task),
            "seconds": round(seconds, 3),
            "samples": pack(result.evidence) if result.evidence is not None else None,
        }

    def has(self, task: Task) -> bool:
        """Whether exactly this task was already scored: the same labels, texts and files."""
        record = self.tasks.get(task.name)
        return (
            record is not None
            and record.get("data") == data_mark(task)
            and record.get("files") == getattr(task.images, "fingerprint", None)
        )


def kind_of(task: Task) -> str:
    """CLIP_benchmark's name for a kind of task."""
    if isinstance(task, Retrieval):
        return "zeroshot_retrieval"
    return "image_caption_selection" if isinstance(task, CaptionSelection | Association) else "zeroshot_classification"


def images_mark(task: Task) -> str | None:
    """A hash of a task's images that is the same for a copy; None if there is none."""
    return getattr(task.images, "structure", None) or getattr(task.images, "fingerprint", None)


def data_mark(task: Task) -> str:
    """A hash of a task's content: images by name and size, labels, classes, templates, captions, main metric."""
    content: list[Any] = [kind_of(task), images_mark(task)]
    if isinstance(task, Classification | Multilabel):
        content += [task.labels.int().tolist(), list(task.classes), list(task.templates), task.main_metric]
    elif isinstance(task, Attributes):
        content += [task.metadata.tolist(), dict(task.classes), dict(task.templates)]
    elif isinstance(task, Association):
        content += [list(task.cues), [list(row) for row in task.associated], task.main_metric]
    else:
        content += [[list(lines) for lines in task.captions]]
        content += [task.direction if isinstance(task, Retrieval) else task.images_per_set]
    groups = task.groups if isinstance(task, Classification) else None
    if groups is not None:
        content += [groups.metadata.tolist(), [list(fields) for fields in groups.group_by]]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:24]


# -- writing -------------------------------------------------------------------------------------------------


def write_evaluation(folder: Path, evaluation: Evaluation, environment: Mapping[str, Any]) -> None:
    """Write all files of an evaluation into its folder, each as a whole.

    Raises:
        AcedError: the disk is full or the folder cannot be written.
    """
    setting, tasks = evaluation.setting, evaluation.tasks
    extras = {"prompts": setting.prompts, "precision": setting.precision, "fingerprint": setting.fingerprint}
    lines = []
    for name, record in tasks.items():
        shared = {key: record[key] for key in ("n", "chance", "stderr", "stderr_by")} | extras
        own = {
            "dataset": f"wds/{name}",
            "model": setting.model,
            "pretrained": setting.checkpoint,
            "task": record["task"],
            "metrics": record["metrics"],
            "language": "en",
            "main_metric": record["metric"],
        }
        _write_json(folder / "clip_benchmark" / f"{file_name(name)}.json", own | shared)
        lines.append(json.dumps(_datacomp_line(name, record) | shared, allow_nan=False) + "\n")
    write_atomic(folder / "eval_results.jsonl", "".join(lines))
    content = {
        "format": _FORMAT,
        **vars(setting),
        **summary(tasks, evaluation.failed),
        "tasks": tasks,
        "failed": evaluation.failed,
        "environment": dict(environment),
    }
    # Last: everything that it lists then exists.
    _write_json(folder / FILE, content)


def _datacomp_line(name: str, record: Mapping[str, Any]) -> dict[str, Any]:
    known: KnownTask | None = recognise(name)
    # DataComp gives no main metric to the tasks that it does not score.
    main = record["value"] if known is None or known.scored else None
    return {
        "key": known.key if known else name,
        "dataset": known.title if known else name,
        "metrics": dict(record["metrics"]) | {"main_metric": main},
    }


def averaged(tasks: Iterable[str], failed: Iterable[str] = ()) -> list[str]:
    """The tasks of an average: of all requested ones, those that count and were scored."""
    scored = list(tasks)
    return [name for name in counted([*scored, *failed]) if name in scored]


def summary(tasks: Mapping[str, Mapping[str, Any]], failed: Iterable[str] = ()) -> dict[str, float | None]:
    """The mean of the tasks that count (`averaged`), its standard error if they were independent, and chance."""
    records = [tasks[name] for name in averaged(tasks, failed)]
    if not records:
        return {"average": None, "average_stderr": None, "average_chance": None}
    count = len(records)
    errors = [record["stderr"] for record in records]
    known = all(error is not None for error in errors)
    return {
        "average": sum(record["value"] for record in records) / count,
        "average_stderr": sum(error**2 for error in errors) ** 0.5 / count if known else None,
        "average_chance": sum(record["chance"] for record in records) / count,
    }


def file_name(task: str) -> str:
    """A task's name as the stem of a file."""
    return re.sub(r"[^\w.-]+", "_", task) or "task"


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    write_atomic(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


# -- reading -------------------------------------------------------------------------------------------------


def read_evaluation(path: Path) -> Evaluation:
    """The evaluation in an `eval.json`, or in a folder with one.

    Raises:
        AcedError: there is none, or it is damaged.
    """
    if path.is_dir():
        path = path / FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise AcedError(f"There is no evaluation {path}; 'aced eval MODEL --data DIR' writes one.") from None
    except (OSError, ValueError) as error:
        raise AcedError(f"{path} cannot be read ({error}); evaluate again into another folder.") from None
    if not isinstance(content, dict) or "tasks" not in content or "fingerprint" not in content:
        raise AcedError(f"{path} is not an evaluation; name the {FILE} that 'aced eval' wrote, or its folder.")
    if content.get("format") != _FORMAT:
        raise AcedError(
            f"{path} has the format {content.get('format')!r}, but this version reads {_FORMAT}: update aced."
        )
    needed: dict[str, Any] = {
        "value": (int, float),
        "chance": (int, float),
        "n": int,
        "metric": str,
        "metrics": dict,
        "task": str,
    }
    try:
        setting = Setting(*(str(content[key]) for key in Setting.__dataclass_fields__))
        for name, record in content["tasks"].items():
            wrong = [key for key, kind in needed.items() if not isinstance(record[key], kind)]
            if wrong:
                raise ValueError(f"'{wrong[0]}' of task '{name}' is {record[wrong[0]]!r}")
        return Evaluation(setting, dict(content["tasks"]), dict(content.get("failed", {})))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise AcedError(f"{path} is damaged ({error}); evaluate again into another folder.") from None
