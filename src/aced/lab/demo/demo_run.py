"""The demo's program: reference, cached embeddings, every row for every seed, table, results and report."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from aced.cli.app import say
from aced.errors import AcedError
from aced.evaluate.tasks import Task
from aced.evaluate.zeroshot import scores_json
from aced.files.atomic import write_atomic
from aced.lab.demo.demo_summary import summarise
from aced.lab.demo.rows import (
    FULL,
    QUICK,
    REFERENCE,
    REFERENCE_COST,
    STUDENT,
    WALL_OF,
    DemoRow,
    Scale,
    choose_rows,
    reference_config,
    student_config,
)
from aced.lab.lab_options import DemoOptions
from aced.lab.scenes.scene_pool import make_scenes
from aced.methods import get_method
from aced.pool.source import Source
from aced.report import results_table
from aced.runs.environment import environment
from aced.runtime.progress import Bars
from aced.runtime.threads import set_threads
from aced.train.providers import Cached
from aced.train.run.automatic import device_of
from aced.train.run.fit import fit
from aced.train.run.fitted import Fitted, row_of
from aced.train.run.inputs import Inputs, make_cached, make_eval_tasks
from aced.train.run.student import make_student

MARK = "demo.json"
"""Marks a folder as made by the demo, so that the next demo may clear it."""


@dataclass
class Reference:
    """A trained reference with its embeddings of the pool, and the cost of both."""

    fitted: Fitted
    provider: Cached
    train_seconds: float
    embed_seconds: float
    pool_forwards: float


@dataclass
class Demo:
    """The state of one demo."""

    out: Path
    scale: Scale
    split: str
    device: torch.device
    bars: Bars
    tasks: list[Task]
    pool: Source
    references: dict[str, Reference] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)


def demo_program(options: DemoOptions, console: Console) -> dict[str, Any]:
    """Run the demo, and print its table and conclusions; returns the results.

    Raises:
        AcedError: as `run_demo`, or an unknown split.
    """
    choose_rows(options.methods)  # report mistakes before anything is computed
    check_demo(options.out, options.seeds)
    if options.split not in ("test", "validation"):
        raise AcedError(f"--split is '{options.split}'; use 'test' or 'validation'.")
    count = set_threads(options.threads)
    say(console, f"aced demo on {count} thread{'s' * (count > 1)}; results go to {options.out}")
    results = run_demo(options, QUICK if options.quick else FULL, console)
    console.print()
    console.print(results_table(results))
    for sentence in results["summary"]:
        say(console, sentence)
    if options.quick:
        say(console, "This was a quick look: far too short for the differences to mean anything.")
    say(console, f"Report: {options.out / 'report.html'}   Figures: {options.out / 'results.json'}")
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
    check_demo(out, seeds)
    _clear(out)
    with Bars(console) as bars:
        pool = make_scenes("pool", scale.pool, 1, bars.counting)
        first = student_config(rows[0], 0, scale, out, split=split)
        demo = Demo(out, scale, split, device_of(first), bars, make_eval_tasks(first), pool)
        bars.overall("Demo", _work(rows, seeds, scale))
        for seed in range(seeds):
            for row in rows:
                title = f"{row.title}, seed {seed}" if seeds > 1 else row.title
                demo.rows.append(_run_row(demo, row, seed, title))
    return _finish(demo)


def _row_work(row: DemoRow, scale: Scale) -> float:
    """Roughly what a row costs, in student forward passes over a batch."""
    per_step = {True: 8.0, False: 3.0}[get_method(row.method).scores_student]
    return scale.steps * (8.0 if row.wall else per_step * row.factor)


def _reference_work(model: str, scale: Scale) -> float:
    return scale.reference_steps * 3.0 * (1.0 if model == STUDENT else REFERENCE_COST)


def _work(rows: list[DemoRow], seeds: int, scale: Scale) -> float:
    """The demo's whole work in the units of `_row_work`; only the overall bar depends on it."""
    methods = [get_method(row.method) for row in rows]
    models = [
        m for m, used in ((REFERENCE, "needs_large"), (STUDENT, "needs_peer")) if any(getattr(x, used) for x in methods)
    ]
    return seeds * sum(_row_work(r, scale) for r in rows) + sum(_reference_work(m, scale) for m in models)


def check_demo(out: Path, seeds: int) -> None:
    """Raise an AcedError for a number of seeds below 1, and for a folder that the demo may not clear."""
    if seeds < 1:
        raise AcedError(f"--seeds is {seeds}; use at least 1.")
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
    folder = demo.out / "runs" / f"{row.name}-s{seed}"
    config = student_config(row, seed, demo.scale, folder, split=demo.split, steps=_wall_steps(demo, row, seed))
    reference = None
    if method.needs_large or method.needs_peer:
        reference = _reference(demo, config.reference.model)
    inputs = Inputs(
        source=demo.pool,
        tasks=demo.tasks,
        reference=reference.provider if reference and method.uses_reference else None,
        teachers=[reference.provider] if reference and method.distill else [],
    )
    with demo.bars.part(_row_work(row, demo.scale)):
        fitted = fit(config, inputs, make_student(config), demo.bars, title=title)
    result = row_of(fitted, row.name, row.title, seed)
    return result | {"steps": config.train.steps, "run": str(folder.relative_to(demo.out))}


def _wall_steps(demo: Demo, row: DemoRow, seed: int) -> int | None:
    """Number of steps that fit into ACED's wall time with this seed, at this row's own measured step time."""
    if not row.wall:
        return None
    seconds = {r["method"]: (r["budgets"]["seconds"], r["steps"]) for r in demo.rows if r["seed"] == seed}
    own, own_steps = seconds[row.timed_by]
    return max(1, round(seconds[WALL_OF][0] / own * own_steps))


def _reference(demo: Demo, model: str) -> Reference:
    """The reference of an architecture: trained on clean pairs on first use, then the pool is embedded once."""
    if model not in demo.references:
        folder = demo.out / "reference" / model
        config = reference_config(model, demo.scale, folder, split=demo.split)
        curated = make_scenes("curated", demo.scale.curated, config.data.scenes_seed, demo.bars.counting)
        start = time.perf_counter()
        with demo.bars.part(_reference_work(model, demo.scale)):
            fitted = fit(
                config,
                Inputs(curated, demo.tasks),
                make_student(config),
                demo.bars,
                title=f"Reference {model}",
            )
        trained = time.perf_counter()
        provider = make_cached(fitted.student, demo.pool, demo.out / "cache", config, demo.device, demo.bars)
        end = time.perf_counter()
        forwards = len(demo.pool) * provider.forward_flops
        demo.references[model] = Reference(fitted, provider, trained - start, end - trained, forwards)
    return demo.references[model]


def _finish(demo: Demo) -> dict[str, Any]:
    from aced.report import load_run, write_report

    results: dict[str, Any] = {"rows": demo.rows}
    large = demo.references.get(REFERENCE) or next(iter(demo.references.values()), None)
    if large is not None:
        results["reference"] = {
            **scores_json(large.fitted.scores),
            "train_seconds": large.train_seconds,
            "embed_seconds": large.embed_seconds,
            "train_flops": large.fitted.ledger.budgets()["flops"],
            "embed_flops": large.pool_forwards,
        }
    results["environment"] = environment(demo.device)
    results["summary"] = summarise(results)
    write_atomic(demo.out / "results.json", json.dumps(results, indent=1) + "\n")
    runs = [load_run(demo.out / row["run"]) for row in demo.rows]
    write_report(demo.out / "report.html", results, runs)
    return results
