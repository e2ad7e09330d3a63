"""`aced train`: one run from a config, with tables at the end."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from aced.config import Config
from aced.evaluate.image_faults import fault_lines
from aced.evaluate.zeroshot import Scores
from aced.files.atomic import write_atomic
from aced.methods import METHODS
from aced.pool.faults import HARMLESS
from aced.report import load_run, results_table, write_report
from aced.runs.environment import environment
from aced.runs.run_folder import BEST, check_folder
from aced.runs.run_results import embedding_score
from aced.runs.trackers.group import check_trackers
from aced.runtime.descriptors import raise_file_limit
from aced.runtime.progress import Bars
from aced.runtime.threads import set_threads
from aced.train.best import best_model
from aced.train.distributed import World, open_world
from aced.train.ending import ending_together
from aced.train.feed import Faults
from aced.train.hook import Hook
from aced.train.run.automatic import device_of, precision_of, tf32_of
from aced.train.run.caching import embedding_cost_of
from aced.train.run.checkpoint import earlier_run
from aced.train.run.fit import fit
from aced.train.run.fitted import Fitted, row_of
from aced.train.run.given import Given
from aced.train.run.inputs import make_inputs
from aced.train.run.ordering import check_divisible, recorded
from aced.train.run.resuming import Earlier, short
from aced.train.run.student import make_student


@dataclass(frozen=True)
class Ended:
    """A run that has ended; only its first process has results.

    Attributes:
        fitted: model, scores and costs.
        results: the content of results.json.
    """

    fitted: Fitted
    results: dict[str, Any]


def train_program(config: Config, console: Console, *, resume: bool) -> dict[str, Any]:
    """As `train_run`; returns the results."""
    return train_run(config, console, resume=resume).results


def train_run(
    config: Config, console: Console, *, resume: bool, given: Given | None = None, hook: Hook | None = None
) -> Ended:
    """Train according to the config; writes results.json and report.html in the run's folder.

    Args:
        config: the run's.
        console: where to print.
        resume: whether to continue the run in the folder.
        given: data and models that the caller supplies instead of naming them in the config.
        hook: called at every step.

    Raises:
        AcedError: any fault of the user or the data, in one sentence.
    """
    raise_file_limit()
    world = open_world(config.run.timeout)
    with ending_together(world):
        console = console if world.first else Console(quiet=True)
        ended = _train(config, console, world, given or Given(), hook, resume=resume)
        world.close()
    return ended


def _train(config: Config, console: Console, world: World, given: Given, hook: Hook | None, *, resume: bool) -> Ended:
    """The part that each process of a job runs."""
    folder, device = Path(config.run.out), device_of(config)
    check_divisible(config, world.size)
    world.connect(device)
    if world.first:
        check_folder(folder, resume=resume)
        check_trackers(config.run.trackers)
    world.meet()
    # Every process reads what was saved; faults of the config alone are reported before anything is made.
    earlier = earlier_run(folder) if resume else None
    config = recorded(config, earlier.config) if earlier is not None else config
    changed = _changed(earlier, config)
    _set_up(config, console, world, device.type, earlier, resume=resume)
    for line in changed:
        console.print(line, markup=False, highlight=False)
    resumed = earlier.where if earlier is not None and earlier.facts else None
    with Bars(console) as bars:
        student = given.student_of(config, resumed) or world.in_turn(
            lambda: make_student(config, resumed, bars.counting)
        )
        if earlier is not None:
            earlier.check_rounding(student, config)
        for note in student.notes:
            bars.say(note)
        inputs = make_inputs(config, student, bars, earlier, world, given)
        fitted = fit(config, inputs, student, bars, resume=resume, world=world, hook=hook)
    if not world.first:
        return Ended(fitted, {})
    row = row_of(fitted, config.method.name, METHODS[config.method.name].title, config.run.seed)
    cost = embedding_cost_of([inputs.reference, *inputs.teachers])
    facts = environment(device) | {"precision": precision_of(config), "tf32": tf32_of(config)}
    results: dict[str, Any] = {"rows": [row | {"run": ".", "embedding": cost}], "environment": facts}
    results |= {"reference": embedding_score(cost)} if cost else {}
    write_atomic(folder / "results.json", json.dumps(results, indent=1) + "\n")
    page = write_report(folder / "report.html", results, [load_run(folder)])
    if fitted.scores.results:
        console.print(results_table(results))
        console.print(_task_table(fitted.scores))
    _print_left_out(row, console)
    _print_faults(fitted.faults, console)
    written = f"Model: {folder / 'model'}   Report: {page}   Figures: {folder / 'results.json'}"
    console.print(written, markup=False, highlight=False)
    if best := best_model(folder / BEST):
        path, scores = best
        text = f"Best: {path} ({scores['average']:.1f} % at step {scores['step']})"
        console.print(text, markup=False, highlight=False)
    return Ended(fitted, results)


def _changed(earlier: Earlier | None, config: Config) -> list[str]:
    """Sentences about the keys that the resumed run changes.

    Raises:
        AcedError: one of them must not change.
    """
    if earlier is None:
        return []
    changes, rounding = earlier.allowed(config), earlier.rounding(config) if earlier.facts else []
    lines = []
    if rounding:
        rounded = ", ".join(f"{key} was {before!r} and is now {now!r}" for key, before, now, _ in rounding)
        lines.append(f"{rounded}: sums round differently, so figures will agree closely but not bit for bit.")
    others = [f"{change.key} = {short(change.now)}" for change in changes if change not in rounding]
    return lines + ([f"Changed since the run began: {', '.join(others)}."] if others else [])


def _set_up(
    config: Config, console: Console, world: World, device: str, earlier: Earlier | None, *, resume: bool
) -> None:
    """Choose the number of threads (that of the resumed run if the config leaves it open), and print it."""
    facts = earlier.facts if earlier else {}
    if not facts:
        # Processes that measure at the same time disturb each other; torchrun gives each of them one thread.
        threads = set_threads(config.run.threads or (torch.get_num_threads() if world.size > 1 else 0))
        if resume:
            why = "was stopped before its first checkpoint" if earlier else "has not started yet"
            text = f"The run in {config.run.out} {why}: starting from the beginning."
            console.print(text, markup=False, highlight=False)
        many = f"{world.size} processes, each with " if world.size > 1 else ""
        gpu = f" and a GPU in {_numbers(precision_of(config), tf32_of(config))}" if device == "cuda" else ""
        console.print(f"Training on {many}{threads} CPU thread{'s' * (threads > 1)}{gpu}.", highlight=False)
        return
    threads = set_threads(config.run.threads or facts["threads"])
    console.print(f"Resuming from step {facts['step']}.", highlight=False)
    version, processes = facts.get("torch", torch.__version__), facts.get("processes", 1)
    own = _numbers(precision_of(config), tf32_of(config))
    was = _numbers(earlier.precision if earlier else "", facts.get("tf32", False))
    before = _circumstances(facts["threads"], facts["device"], version, processes, was)
    now = _circumstances(threads, device, torch.__version__, world.size, own)
    if before != now:
        console.print(
            f"The run was on {before} and continues with {now}: its figures will agree closely, but not bit for bit.",
            style="yellow",
            highlight=False,
        )


def _circumstances(threads: int, device: str, version: str, processes: int, numbers: str) -> str:
    """The settings that decide the last bits."""
    many = f"{processes} processes with " if processes > 1 else ""
    return f"{many}{threads} CPU thread{'s' * (threads > 1)} ({device}, torch {version}, {numbers})"


def _numbers(precision: str, tf32: bool) -> str:
    """The precision as printed."""
    return f"{precision}, TF32" if tf32 else precision


def _task_table(scores: Scores) -> Table:
    table = Table("Task", "Metric")
    for head in ("Score, %", "Chance, %", "n"):
        table.add_column(head, justify="right")
    for name, r in scores.results.items():
        table.add_row(escape(name), r.metric, f"{100 * r.value:.1f}", f"{100 * r.chance:.1f}", str(r.n))
    return table


def _print_left_out(scores: Mapping[str, Any], console: Console) -> None:
    """Print what the scores in a row of results.json do not cover: images, and whole tasks."""
    scored, failed = scores["tasks"], scores.get("failed", {})
    for line in fault_lines(scored):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    for name, why in failed.items():
        console.print(
            f"{name} could not be scored: {why}", style="yellow", markup=False, highlight=False, soft_wrap=True
        )
    if failed and scored:
        console.print(f"The average is over the other {len(scored)} of {len(scored) + len(failed)} tasks.")


def _fault_table(faults: Faults, title: str, names: list[str]) -> Table:
    table = Table("Fault", "Count", "Example", title=title)
    for name in names:
        table.add_row(name, f"{faults.counts[name]:,}", escape(faults.examples[name].detail))
    return table


def _print_faults(faults: Faults, console: Console) -> None:
    """What was skipped and why, and what is unusual but was used, with an example of each."""
    names = [name for name, _ in faults.counts.most_common()]
    lost, odd = [name for name in names if name not in HARMLESS], [name for name in names if name in HARMLESS]
    if lost:
        console.print(_fault_table(faults, "What could not be used", lost))
    if odd:
        console.print(_fault_table(faults, "Odd, but used", odd))
