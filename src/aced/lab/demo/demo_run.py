"""The demo's program: reference, cached embeddings, every row for every seed, table, results and report."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from aced.cli.app import say
from aced.errors import AcedError
from aced.files.atomic import write_atomic
from aced.lab.demo.demo_references import DemoSetup, References
from aced.lab.demo.demo_summary import summarise
from aced.lab.demo.demo_text import READING, cautions, next_commands, opening
from aced.lab.demo.rows import (
    FULL,
    QUICK,
    REFERENCE,
    WALL_OF,
    DemoRow,
    Scale,
    choose_rows,
    reference_model,
    student_config,
)
from aced.lab.lab_options import DemoOptions
from aced.lab.scenes.scene_pool import make_scenes
from aced.methods import get_method
from aced.report import results_table
from aced.runs.environment import environment
from aced.runtime.progress import Bars
from aced.runtime.threads import set_threads
from aced.train.run.automatic import device_of
from aced.train.run.fit import fit
from aced.train.run.fitted import row_of
from aced.train.run.inputs import Inputs, make_eval_tasks
from aced.train.run.student import make_student

MARK = "demo.json"
"""Marks a folder as made by the demo, so that the next demo may clear it."""


@dataclass
class Demo:
    """The state of one demo."""

    setup: DemoSetup
    references: References
    rows: list[dict[str, Any]] = field(default_factory=list)


def demo_program(options: DemoOptions, console: Console) -> dict[str, Any]:
    """Run the demo, and print what it does, its table and conclusions; returns the results.

    Raises:
        AcedError: as `run_demo`, or an unknown split.
    """
    rows = choose_rows(options.methods)  # report mistakes before anything is computed
    check_demo(options)
    scale = QUICK if options.quick else FULL
    count = set_threads(options.threads)
    for sentence in opening(rows, scale, trains=options.train_reference):
        say(console, sentence)
    say(console, f"It runs on {count} thread{'s' * (count > 1)}; results go to {options.out}.\n")
    results = run_demo(options, scale, console)
    console.print()
    console.print(results_table(results))
    for sentence in (*results["summary"], "", *READING):
        say(console, sentence)
    console.print()
    say(console, f"Report: {options.out / 'report.html'}")
    say(console, f"Figures: {options.out / 'results.json'}")
    referenced = (options.out / "reference" / REFERENCE).is_dir()
    for sentence, line in next_commands(options.out, referenced=referenced):
        console.print(f"\n{sentence}\n", markup=False, highlight=False)
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    return results


def run_demo(options: DemoOptions, scale: Scale, console: Console) -> dict[str, Any]:
    """Run the demo and return the content of `results.json`, written to its folder.

    Args:
        options: the rows, the seeds, the folder and the split.
        scale: sizes and lengths.
        console: where progress is printed.

    Raises:
        AcedError: an unknown row, a folder in the way, or a run that failed.
    """
    out, seeds, split = options.out, options.seeds, options.split
    rows = choose_rows(options.methods)
    check_demo(options)
    _clear(out)
    with Bars(console) as bars:
        pool = make_scenes("pool", scale.pool, 1, bars.counting)
        first = student_config(rows[0], 0, scale, out, split=split)
        tasks, device = make_eval_tasks(first), device_of(first)
        setup = DemoSetup(out, scale, split, device, bars, tasks, pool)
        references = References(setup, anew=options.train_reference, keep=options.keep_reference)
        demo = Demo(setup, references)
        bars.overall("Demo", _work(rows, seeds, references))
        if options.keep_reference is not None:
            references.of(REFERENCE)  # even if no row needs it
        for seed in range(seeds):
            for row in rows:
                title = f"{row.title}, seed {seed}" if seeds > 1 else row.title
                demo.rows.append(_run_row(demo, row, seed, title))
    return _finish(demo, cautions(len(rows), seeds, quick=options.quick))


def _row_work(row: DemoRow, scale: Scale) -> float:
    """Approximate cost of a row, in student forward passes over a batch."""
    per_step = {True: 8.0, False: 3.0}[get_method(row.method).scores_student]
    return scale.steps * (8.0 if row.wall else per_step * row.factor)


def _work(rows: list[DemoRow], seeds: int, references: References) -> float:
    """The demo's whole work in the units of `_row_work`; only the overall bar depends on it."""
    models = {model for row in rows if (model := reference_model(row)) is not None}
    models |= {REFERENCE} if references.keep else set()
    return seeds * sum(_row_work(row, references.setup.scale) for row in rows) + sum(map(references.work, models))


def check_demo(options: DemoOptions) -> None:
    """Refuse impossible options before anything is computed.

    Raises:
        AcedError: there are no seeds, the split is unknown, the reference to keep is not trained or only for a quick
            look, or the demo may not clear the folder.
    """
    out = options.out
    if options.seeds < 1:
        raise AcedError(f"--seeds is {options.seeds}; use at least 1.")
    if options.split not in ("test", "validation"):
        raise AcedError(f"--split is '{options.split}'; use 'test' or 'validation'.")
    if options.keep_reference is not None and (options.quick or not options.train_reference):
        raise AcedError("--keep-reference keeps a newly trained reference; add --train-reference, without --quick.")
    if out.exists() and not out.is_dir():
        raise AcedError(f"{out} is a file; choose a folder with --out.")
    if out.is_dir() and any(out.iterdir()) and not (out / MARK).is_file():
        raise AcedError(f"{out} is not empty and was not made by the demo; choose another folder with --out.")


def _clear(out: Path) -> None:
    """Empty the folder of an earlier demo; its mark stays, so that a killed demo's folder can be cleared."""
    for entry in out.iterdir() if out.is_dir() else ():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        elif entry.name != MARK:
            entry.unlink()
    write_atomic(out / MARK, json.dumps({"made_by": "aced demo"}) + "\n")


def _run_row(demo: Demo, row: DemoRow, seed: int, title: str) -> dict[str, Any]:
    method = get_method(row.method)
    folder = demo.setup.out / "runs" / f"{row.name}-s{seed}"
    config = student_config(
        row, seed, demo.setup.scale, folder, split=demo.setup.split, steps=_wall_steps(demo, row, seed)
    )
    model = reference_model(row)
    reference = demo.references.of(model) if model is not None else None
    inputs = Inputs(
        source=demo.setup.pool,
        tasks=demo.setup.tasks,
        reference=reference.provider if reference and method.uses_reference else None,
        teachers=[reference.provider] if reference and method.distill else [],
    )
    with demo.setup.bars.part(_row_work(row, demo.setup.scale)):
        fitted = fit(config, inputs, make_student(config), demo.setup.bars, title=title)
    result = row_of(fitted, row.name, row.title, seed)
    return result | {"steps": config.train.steps, "run": str(folder.relative_to(demo.setup.out))}


def _wall_steps(demo: Demo, row: DemoRow, seed: int) -> int | None:
    """Number of steps that fit into ACED's wall time with this seed, at this row's own measured step time."""
    if not row.wall:
        return None
    seconds = {r["method"]: (r["budgets"]["seconds"], r["steps"]) for r in demo.rows if r["seed"] == seed}
    own, own_steps = seconds[row.timed_by]
    return max(1, round(seconds[WALL_OF][0] / own * own_steps))


def _finish(demo: Demo, warned: list[str]) -> dict[str, Any]:
    from aced.report import load_run, write_report

    results: dict[str, Any] = {"rows": demo.rows}
    if (reference := demo.references.as_json()) is not None:
        results["reference"] = reference
    results["environment"] = environment(demo.setup.device)
    results["summary"] = [*summarise(results), *warned]
    write_atomic(demo.setup.out / "results.json", json.dumps(results, indent=1) + "\n")
    runs = [load_run(demo.setup.out / row["run"]) for row in demo.rows]
    write_report(demo.setup.out / "report.html", results, runs)
    return results
