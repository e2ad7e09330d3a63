"""One training run from its config to its results: what `aced train` and every row of the demo do."""

from __future__ import annotations

import datetime
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from aced.config import Config, dump_config
from aced.core.ledger import Ledger
from aced.data.atomic import write_atomic
from aced.data.source import Source
from aced.errors import AcedError
from aced.evaluate.tasks import TaskResult, as_json
from aced.evaluate.zeroshot import average, evaluate
from aced.methods import get_method
from aced.progress import Bars
from aced.towers import Tower, load_tower, save_tower
from aced.train.checkpoint import latest_checkpoint, load_checkpoint
from aced.train.feed import Faults
from aced.train.inputs import Inputs, device_of
from aced.train.loop import run_steps
from aced.train.objective import Objective
from aced.train.optim import make_optimizer
from aced.train.step import Settings, Trainer
from aced.train.watch import Metrics

SOUND = frozenset({"clean", "duplicate"})


@dataclass
class Fitted:
    """A finished run: its model, its scores and what it spent."""

    student: Tower
    results: dict[str, TaskResult]
    ledger: Ledger
    faults: Faults
    clean_share: float | None
    folder: Path


def make_student(config: Config) -> Tower:
    """The student with its initial weights: seeded, or from a local checkpoint."""
    section = config.student
    return load_tower(
        section.model, section.checkpoint or None, device=str(device_of(config)), seed=config.run.seed
    )


def fit(
    config: Config, inputs: Inputs, student: Tower, bars: Bars, *, title: str = "", resume: bool = False
) -> Fitted:
    """Train `student` as the config says and evaluate it.

    Writes into `run.out`: config.toml, metrics.jsonl, checkpoints/, model/ and evals.jsonl.

    Raises:
        AcedError: the folder holds a run already (and `resume` is not set), a step fails, or the disk is full.
    """
    folder = Path(config.run.out)
    metrics = Metrics(folder / "metrics.jsonl", inputs.source.kinds, config.run.log_every)
    trainer = make_trainer(config, inputs, student)
    _open_folder(folder, trainer, metrics, config, resume=resume)
    with bars.bar(title or f"Training {config.method.name}", config.train.steps) as tick:
        tick(trainer.step)
        run_steps(trainer, inputs.source, metrics, config, folder, inputs.tasks, tick)
    results = evaluate(student, inputs.tasks, micro_batch=config.train.micro_batch)
    save_tower(student, folder / "model")
    chosen = metrics.chosen_total
    share = sum(chosen[k] for k in SOUND) / chosen.total() if chosen else None
    return Fitted(student, results, trainer.ledger, trainer.faults, share, folder)


def make_trainer(config: Config, inputs: Inputs, student: Tower) -> Trainer:
    """Objective, optimiser, generator and ledger around a student."""
    method = get_method(config.method.name, weight=config.method.weight)
    objective = Objective(
        method,
        config.method.loss,
        width=student.width,
        teacher_widths=[p.width for p in inputs.teachers],
        teacher_temperature=config.method.teacher_temperature,
        seed=config.run.seed,
    ).to(student.device)
    train = config.train
    return Trainer(
        student=student,
        objective=objective,
        optimizer=make_optimizer([student, objective], train),
        method=method,
        settings=Settings(
            batch=train.batch,
            steps=train.steps,
            loss=config.method.loss,
            chunks=config.method.chunks,
            temperature=config.method.temperature,
            lr=train.lr,
            warmup=train.warmup,
            clip=train.clip,
            micro_batch=train.micro_batch,
            precision=train.precision,
        ),
        reference=inputs.reference,
        teachers=inputs.teachers,
        generator=torch.Generator().manual_seed(config.run.seed),
        ledger=Ledger(),
        faults=_faults_of(config, inputs.source),
    )


def _faults_of(config: Config, source: Source) -> Faults:
    """A count that starts with what was left out when the data were indexed."""
    faults = Faults(config.data.max_bad_share, len(source))
    faults.note(getattr(source, "faults", ()))
    return faults


def row_of(fitted: Fitted, name: str, title: str, seed: int) -> dict[str, Any]:
    """One row of results.json."""
    return {
        "method": name,
        "title": title,
        "seed": seed,
        "average": average(fitted.results) if fitted.results else None,
        "tasks": as_json(fitted.results),
        "budgets": fitted.ledger.budgets(),
        "clean_share": fitted.clean_share,
        "run": str(fitted.folder),
    }


def environment() -> dict[str, Any]:
    """What a figure depends on besides the code: versions, machine, threads, date."""
    import platform

    import open_clip

    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "open_clip": open_clip.__version__,
        "platform": platform.platform(terse=True),
        "cpu": _cpu_name(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    names = (
        [
            line.split(":", 1)[1].strip()
            for line in info.read_text().splitlines()
            if line.startswith("model name")
        ]
        if info.is_file()
        else []
    )
    return f"{names[0]} x {len(names)}" if names else "unknown"


def refuse_occupied(folder: Path) -> None:
    """Raise an AcedError if the folder holds a run already."""
    if (folder / "metrics.jsonl").exists() or latest_checkpoint(folder / "checkpoints") is not None:
        raise AcedError(
            f"{folder} already holds a run: add --resume to go on with it, or choose another folder with run.out."
        )


def _open_folder(folder: Path, trainer: Trainer, metrics: Metrics, config: Config, *, resume: bool) -> None:
    if not resume:
        refuse_occupied(folder)
    elif (checkpoint := latest_checkpoint(folder / "checkpoints")) is not None:
        load_checkpoint(checkpoint, trainer, metrics, config)
        _trim_evals(folder / "evals.jsonl", trainer.step)
    else:  # killed before its first checkpoint: from the start, without the lines of that attempt
        metrics.path.unlink(missing_ok=True)
        (folder / "evals.jsonl").unlink(missing_ok=True)
    write_atomic(folder / "config.toml", dump_config(config))


def _trim_evals(path: Path, step: int) -> None:
    if path.is_file():
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
        write_atomic(path, "".join(kept))
