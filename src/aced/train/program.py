"""`aced train`: one run from a config, with a table at the end."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from aced.config import Config
from aced.core.embeddings import Embeddings
from aced.data.atomic import write_atomic
from aced.progress import Bars
from aced.report.gallery import write_gallery
from aced.report.table import results_table
from aced.threads import set_threads
from aced.train.checkpoint import latest_checkpoint
from aced.train.feed import Faults
from aced.train.fit import Fitted, environment, fit, make_student, refuse_occupied, row_of
from aced.train.inputs import Inputs, make_inputs


def train_program(config: Config, console: Console, *, resume: bool) -> dict[str, object]:
    """Train as the config says; writes results.json and report.html beside the run and returns the results.

    Raises:
        AcedError: whatever a user or the data did wrong, in one sentence.
    """
    folder = Path(config.run.out)
    if not resume:
        refuse_occupied(folder)
    threads = set_threads(config.run.threads)
    _say_threads(folder, threads, console, resume=resume)
    student = make_student(config)
    with Bars(console) as bars:
        inputs = make_inputs(config, student, bars)
        fitted = fit(config, inputs, student, bars, resume=resume)
        _gallery(config, inputs, fitted)
    title = inputs_title(config)
    results = {"rows": [row_of(fitted, config.method.name, title, config.run.seed) | {"run": "."}]}
    results["environment"] = environment()  # type: ignore[assignment]
    write_atomic(folder / "results.json", json.dumps(results, indent=1) + "\n")
    page = _report(folder, results)
    if fitted.results:
        console.print(results_table(results))
        console.print(_task_table(fitted))
    if fitted.faults.counts:
        console.print(_fault_table(fitted.faults))
    console.print(f"Model: {folder / 'model'}   Report: {page}   Figures: {folder / 'results.json'}")
    return results


def inputs_title(config: Config) -> str:
    """The method's title for tables."""
    from aced.methods import METHODS

    return METHODS[config.method.name].title


def _say_threads(folder: Path, threads: int, console: Console, *, resume: bool) -> None:
    checkpoint = latest_checkpoint(folder / "checkpoints") if resume else None
    if checkpoint is None:
        console.print(f"Training on {threads} CPU thread{'s' * (threads > 1)}.")
        return
    facts = json.loads((checkpoint / "train.json").read_text(encoding="utf-8"))
    console.print(f"Resuming from step {facts['step']}.")
    if facts["threads"] != threads:
        console.print(
            f"The run was on {facts['threads']} CPU threads and goes on with {threads}: its figures will agree "
            f"closely, but not to the bit (set run.threads={facts['threads']} for that).",
            style="yellow",
        )


def _gallery(config: Config, inputs: Inputs, fitted: Fitted) -> None:
    from aced.core.ledger import Ledger
    from aced.methods import get_method

    method = get_method(config.method.name)
    if method.score is None:
        return
    generator = torch.Generator().manual_seed(config.run.seed)
    rows = torch.randperm(len(inputs.source), generator=generator)[:1024]
    views = [fitted.student.view, *(v for p in [inputs.reference] if p for v in p.views)]
    candidates = inputs.source.read(rows.tolist(), list(dict.fromkeys(views)))
    student: Embeddings | None = None
    if method.scores_student:
        student = fitted.student.score(candidates, config.train.micro_batch)
    # A ledger of its own: drawing pictures is no part of the run's cost.
    reference = inputs.reference.embed(candidates, Ledger(), "reference") if inputs.reference else None
    path = fitted.folder / "gallery.json"
    write_gallery(path, inputs.source, candidates, student, reference, score=method.score)


def _report(folder: Path, results: dict[str, object]) -> Path:
    from aced.report import load_run, write_report

    return write_report(folder / "report.html", results, [load_run(folder)])


def _task_table(fitted: Fitted) -> Table:
    table = Table("Task", "Metric")
    for head in ("Score, %", "Chance, %", "n"):
        table.add_column(head, justify="right")
    for name, r in fitted.results.items():
        table.add_row(name, r.metric, f"{100 * r.value:.1f}", f"{100 * r.chance:.1f}", str(r.n))
    return table


def _fault_table(faults: Faults) -> Table:
    table = Table("Left out", "Samples", "For example", title="Samples that could not be used")
    for name, count in faults.counts.most_common():
        example = faults.examples[name]
        table.add_row(name, str(count), f"{example.key}: {example.detail}")
    return table
