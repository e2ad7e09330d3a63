"""The status of a run from its folder, while it may still be written: state, pace, latest figures."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from aced.errors import AcedError
from aced.runs.pace import Invalid, Pace, Totals, invalid, pace
from aced.runs.record_files import read_tail
from aced.runs.records import EvalLine, StepLine
from aced.runs.run_folder import CHECKPOINTS, Holder, holder, is_run, is_scored, read_config
from aced.runs.run_results import load_results

RunState = Literal["starting", "running", "scoring", "finished", "interrupted", "stopped", "failed", "killed", "silent"]
UNDER_WAY = {"starting", "running", "scoring"}
"""States of runs that continue."""

WINDOW = 20
"""Number of lines of metrics.jsonl for estimating pace and time left."""

_STOPPED = "stopped by "

_PATIENCE = 60.0
"""Seconds of silence after which a run without a readable lock counts as silent, or ten times its usual pause."""


@dataclass(frozen=True)
class Status:
    """The status of a run. None means unknown (so far).

    Attributes:
        run: its folder.
        state: `starting` (no line yet), `running`, `scoring` (all steps taken), `finished`, `interrupted` (Ctrl-C),
            `stopped` (by another signal that asks programs to end), `failed`, `killed`, or `silent`: its lock says
            nothing, and it has written nothing for long.
        why: for `stopped` the signal, for `failed` the sentence, for `silent` what is known; otherwise empty.
        method: its name.
        seed: the run's.
        step: the last logged step, 0 if there is none.
        steps: of the whole run.
        seconds_left: estimated from the last lines, including evaluations and checkpoints.
        pace: images per second, seconds per step and shares of its phases over the last lines.
        loss: of the last logged step, as are `contrastive`, `kd` and `lr`.
        contrastive: its contrastive part.
        kd: its distillation part, unweighted.
        lr: learning rate.
        samples_trained: pairs trained on.
        invalid: share of unusable samples, and the most common reason.
        evaluation: step and average (percent) of the last evaluation in which a task could be scored.
        unscored: the tasks that could not be scored in the last evaluation.
        checkpoint: the newest checkpoint's step.
        checkpoint_age: seconds since it was written.
        line_age: seconds since the last line was written.
        process: number of the process that trains there or did so last.
        host: its machine.
    """

    run: str
    state: RunState
    why: str
    method: str
    seed: int
    step: int
    steps: int
    seconds_left: float | None
    pace: Pace | None
    loss: float | None
    contrastive: float | None
    kd: float | None
    lr: float | None
    samples_trained: float | None
    invalid: Invalid | None
    evaluation: tuple[int, float] | None
    unscored: tuple[str, ...]
    checkpoint: int | None
    checkpoint_age: float | None
    line_age: float | None
    process: int | None
    host: str | None


def read_status(folder: Path) -> Status:
    """Read the status of the run in a folder; a last line that is still being written is left out.

    Raises:
        AcedError: the folder holds no run, or a file of it is damaged.
    """
    if not is_run(folder):
        raise AcedError(_no_run(folder))
    method, seed, steps = _settings(folder)
    lines = read_tail(folder / "metrics.jsonl", StepLine)[-WINDOW:]
    last = lines[-1] if lines else None
    line_age = _line_age(folder, last)
    by = holder(folder)
    state, why = _state(folder, by, lines, steps, line_age)
    checkpoint, checkpoint_age = _checkpoint(folder)
    evaluation, unscored = _evaluation(folder, steps, state)
    return Status(
        run=str(folder),
        state=state,
        why=why,
        method=method,
        seed=seed,
        step=last.step if last else 0,
        steps=steps,
        seconds_left=_seconds_left(lines, steps) if state == "running" else None,
        pace=_pace(lines),
        loss=last.loss if last else None,
        contrastive=last.contrastive if last else None,
        kd=last.kd if last else None,
        lr=last.lr if last else None,
        samples_trained=last.budgets.get("samples_trained") if last else None,
        invalid=invalid(last.faults, **dict(last.samples)) if last and last.samples else None,
        evaluation=evaluation,
        unscored=unscored,
        checkpoint=checkpoint,
        checkpoint_age=checkpoint_age,
        line_age=line_age,
        process=by.process if by else None,
        host=by.host if by else None,
    )


def _settings(folder: Path) -> tuple[str, int, int]:
    """Method, seed and number of steps of a run."""
    config = read_config(folder)
    try:
        return str(config["method"]["name"]), int(config["run"]["seed"]), int(config["train"]["steps"])
    except (KeyError, TypeError, ValueError):
        raise AcedError(
            f"{folder / 'config.toml'} is not the resolved config of a run; name the folder that `aced train` writes."
        ) from None


def _no_run(folder: Path) -> str:
    if not folder.is_dir():
        return f"There is no run folder {folder}; a run that is still reading its data has none yet."
    inner = sorted(path.parent for path in [*folder.glob("*/config.toml"), *folder.glob("runs/*/config.toml")])
    if inner:
        return f"{folder} is not a run but holds some: name one of them, such as {inner[0]}."
    return f"{folder} is not a run, because it has no config.toml; name the folder that `aced train` writes (run.out)."


def _state(
    folder: Path, by: Holder | None, lines: list[StepLine], steps: int, line_age: float | None
) -> tuple[RunState, str]:
    """The state and the reason; from the lock if possible, otherwise from the age of the files."""
    done = bool(lines) and lines[-1].step >= steps
    going: RunState = "scoring" if done else "running" if lines else "starting"
    if by is not None and by.alive:
        return going, ""
    if done and is_scored(folder):
        return "finished", ""
    if by is not None and by.ending:
        if by.ending == "interrupted":
            return "interrupted", ""
        if by.ending.startswith(_STOPPED):
            return "stopped", by.ending.removeprefix(_STOPPED)
        return "failed", by.ending.removeprefix("failed: ")
    if by is not None and by.alive is False:
        return "killed", ""
    age = line_age if line_age is not None else time.time() - (folder / "config.toml").stat().st_mtime
    now = _pace(lines)
    usual = now.step_seconds * (lines[-1].step - lines[-2].step) if now and len(lines) > 1 else 0.0
    if age <= max(_PATIENCE, 10 * usual):
        return going, ""
    where = f" on {by.host}" if by is not None else ""
    return "silent", f"whether it still runs{where} is not visible from here"


def _line_age(folder: Path, last: StepLine | None) -> float | None:
    if last is None:
        return None
    written = last.clock.written if last.clock else (folder / "metrics.jsonl").stat().st_mtime
    return max(0.0, time.time() - written)


def _totals(line: StepLine) -> Totals:
    return Totals(line.step, line.budgets.get("samples_trained", 0.0), line.seconds)


def _pace(lines: list[StepLine]) -> Pace | None:
    """The pace over some lines, or since the beginning of the run for a single line."""
    if not lines:
        return None
    return pace(_totals(lines[0]) if len(lines) > 1 else Totals(0, 0.0, {}), _totals(lines[-1]))


def _seconds_left(lines: list[StepLine], steps: int) -> float | None:
    """By the clock of the process that wrote the last line; by the steps' own seconds if it wrote no other."""
    last = lines[-1]
    left = steps - last.step
    if last.clock is not None:
        own = [line for line in lines if line.clock is not None and line.clock.started == last.clock.started]
        first = own[0]
        if first.step < last.step and first.clock is not None:
            passed = (last.clock.written - first.clock.written) / (last.step - first.step)
            return max(0.0, left * passed - (time.time() - last.clock.written))
    now = _pace(lines)
    return left * now.step_seconds if now else None


def _evaluation(folder: Path, steps: int, state: RunState) -> tuple[tuple[int, float] | None, tuple[str, ...]]:
    """Step and average of the last evaluation that has one, and the tasks that the last one could not score."""
    found: list[tuple[int, float | None, dict[str, str]]] = []
    if state == "finished" and (folder / "results.json").is_file():
        row = load_results(folder)["rows"][0]
        if row.get("average") is not None or row.get("failed"):
            found.append((steps, row.get("average"), row.get("failed", {})))
    if not found or found[0][1] is None:
        found += [
            (line.step, line.average, line.failed) for line in reversed(read_tail(folder / "evals.jsonl", EvalLine))
        ]
    scored = next(((step, float(average)) for step, average, _ in found if average is not None), None)
    return scored, tuple(found[0][2]) if found else ()


def _checkpoint(folder: Path) -> tuple[int | None, float | None]:
    """Step and age of the newest checkpoint; it may be removed meanwhile in favour of a newer one."""
    found: list[tuple[int, float]] = []
    for path in (folder / CHECKPOINTS).glob("step-*/train.json"):
        try:
            found.append((int(path.parent.name.removeprefix("step-")), path.stat().st_mtime))
        except FileNotFoundError:
            continue
    if not found:
        return None, None
    step, written = max(found)
    return step, max(0.0, time.time() - written)


def as_json(status: Status) -> dict[str, Any]:
    """The status as nested values for scripts; `under_way` says whether the run continues."""
    values: dict[str, Any] = dict(vars(status))
    values["pace"] = status.pace.values() if status.pace else None
    values["invalid"] = dict(vars(status.invalid)) if status.invalid else None
    if status.evaluation:
        values["evaluation"] = {"step": status.evaluation[0], "average": status.evaluation[1]}
    return values | {"under_way": status.state in UNDER_WAY}
