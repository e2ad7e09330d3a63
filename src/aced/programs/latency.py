"""`aced latency`: times models side by side on this device; a table, a figure, and all numbers as JSON."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from torch import Tensor

from aced.errors import AcedError, nearest, reason_of
from aced.evaluate.named_tasks import tasks_of
from aced.evaluate.tasks import Task
from aced.files.atomic import write_atomic
from aced.latency.accuracy import score
from aced.latency.figure import draw
from aced.latency.measuring import measure
from aced.latency.runtimes import RUNTIMES, Ready, halves
from aced.models import Tower, load_recipe
from aced.models.model_argument import device_of
from aced.models.recipes import find_recipe
from aced.programs.command_options import LatencyOptions
from aced.runs.environment import environment
from aced.runtime.progress import Bars, counting


@dataclass(frozen=True)
class _Case:
    """One line of the table: its labels and what it times."""

    facts: dict[str, Any]
    ready: Ready
    inputs: Tensor

    def call(self) -> object:
        """Embed the inputs."""
        return (self.ready.image if self.facts["tower"] == "image" else self.ready.text)(self.inputs)

    def before(self) -> None:
        """Set the number of threads."""
        torch.set_num_threads(self.facts["threads"])


def latency_program(options: LatencyOptions, console: Console) -> list[dict[str, Any]]:
    """Time models; writes `latency.json`, `latency.md` and `latency.svg` and prints a table.

    A runtime that cannot run a model is reported and skipped for that model.

    Returns:
        A row for each model, tower, runtime, batch and number of threads; times in seconds.

    Raises:
        AcedError: there is no such model, runtime or device, or nothing can run.
    """
    for name in options.runtimes:
        if name not in RUNTIMES:
            raise AcedError(f"--runtime is '{name}'.{nearest(name, RUNTIMES)}")
    if options.out.exists() and not options.out.is_dir():
        raise AcedError(f"--out {options.out} is a file; name a folder for the results.")
    device = device_of(options.device)
    tasks = [task for place in options.data for task in tasks_of(place)]
    recipes = [find_recipe(model) for model in options.models]
    towers = [load_recipe(recipe, device, 0, partial(counting, console)).eval() for recipe in recipes]
    threads = torch.get_num_threads()
    try:
        with tempfile.TemporaryDirectory(prefix="aced-latency-") as folder:
            cases, failed = _cases(towers, options, Path(folder), console)
            trained = [tower if recipe.trained else None for tower, recipe in zip(towers, recipes, strict=True)]
            scores = _scores(trained, tasks, options, Path(folder), failed) if tasks else {}
            if not cases:
                raise AcedError(next(iter(failed.values())))
            with Bars(console) as bars, bars.bar("Timing", options.rounds * len(cases)) as tick:
                calls, before = [case.call for case in cases], [case.before for case in cases]
                found = measure(calls, options.rounds, options.seconds, before, lambda done: tick(done, ""))
    finally:
        torch.set_num_threads(threads)
    rows = [case.facts | vars(times) for case, times in zip(cases, found, strict=True)]
    for row in rows:
        row["average"] = scores.get((row["model"], row["runtime"]))
    _write(options, rows, failed, environment(device))
    _print(rows, console)
    for what, sentence in failed.items():
        console.print(f"{what}: {sentence}", markup=False, highlight=False, soft_wrap=True)
    console.print(f"Results: {options.out / 'latency.json'}", markup=False, highlight=False, soft_wrap=True)
    return rows


def _cases(
    towers: Sequence[Tower], options: LatencyOptions, folder: Path, console: Console
) -> tuple[list[_Case], dict[str, str]]:
    """The cases to time, each called once; and for each model that a runtime cannot run, the reason."""
    cases: list[_Case] = []
    failed: dict[str, str] = {}
    with Bars(console) as bars, bars.bar("Preparing", len(towers) * len(options.runtimes)) as tick:
        for number, tower in enumerate(towers):
            own = folder / str(number)
            own.mkdir()
            for place, runtime in enumerate(options.runtimes):
                tick(number * len(options.runtimes) + place, f"{tower.name}, {runtime}")
                try:
                    cases += _of(tower, runtime, options, own)
                except Exception as error:
                    failed[f"{tower.name}, {runtime}"] = reason_of(error)
    return cases, failed


def _of(tower: Tower, runtime: str, options: LatencyOptions, folder: Path) -> list[_Case]:
    cases = []
    generator = torch.Generator().manual_seed(0)
    flops, parameters = tower.flops(tower.context_length), halves(tower)
    for threads in options.threads:
        torch.set_num_threads(threads)
        ready = RUNTIMES[runtime](tower, folder)
        for batch in options.batches:
            shape = (batch, 3, tower.view.size, tower.view.size)
            inputs = {
                "image": tower.pixels(torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)),
                "text": tower.tokenizer(["a photo of a dog on a red sofa"] * batch).to(tower.device),
            }
            for number, side in enumerate(inputs):
                facts = {"model": tower.name, "tower": side, "runtime": runtime, "batch": batch, "threads": threads}
                facts |= {"parameters": parameters[number], "multiply_adds": flops[number] / 2}
                case = _Case(facts | {"bytes": ready[2 + number]}, ready, inputs[side])
                case.call()
                cases.append(case)
    return cases


def _scores(
    towers: Sequence[Tower | None], tasks: Sequence[Task], options: LatencyOptions, folder: Path, failed: dict[str, str]
) -> dict[tuple[str, str], float]:
    """The average score of each model with trained weights, by runtime; what cannot be scored is noted."""
    scores: dict[tuple[str, str], float] = {}
    for number, tower in enumerate(towers):
        for runtime in options.runtimes if tower is not None else ():
            assert tower is not None
            if f"{tower.name}, {runtime}" in failed:
                continue
            try:
                scores[tower.name, runtime] = score(tower, runtime, tasks, folder / str(number))
            except Exception as error:
                failed[f"{tower.name}, {runtime}, tasks"] = reason_of(error)
    return scores


# -- results -------------------------------------------------------------------------------------------------------

_HEAD = ("model", "tower", "runtime", "batch", "threads", "parameters, M", "multiply-adds, G", "MB")
_TIMES = ("median, ms", "rounds, ms", "p95, ms", "average, %")


def _cells(row: dict[str, Any]) -> list[str]:
    cells = [str(row[key]) for key in _HEAD[:5]]
    cells += [f"{row['parameters'] / 1e6:.3g}", f"{row['multiply_adds'] / 1e9:.3g}", f"{row['bytes'] / 1e6:.3g}"]
    milliseconds = {key: f"{1e3 * row[key]:.3g}" for key in ("median", "low", "high", "p95")}
    return [
        *cells,
        milliseconds["median"],
        f"{milliseconds['low']}–{milliseconds['high']}",
        milliseconds["p95"],
        _percent(row),
    ]


def _percent(row: dict[str, Any]) -> str:
    return "" if row["average"] is None else f"{row['average']:.2f}"


def _print(rows: Sequence[dict[str, Any]], console: Console) -> None:
    """The table for the terminal, which is narrow: the rest is in the files."""
    table = Table(header_style="bold", box=SIMPLE_HEAD, pad_edge=False)
    heads = ("Model", "Tower", "Runtime", "b", "t", "Madds, G", "Median, ms", "Rounds", "p95", "Score, %")
    for number, head in enumerate(heads):
        table.add_column(head, justify="left" if number < 3 else "right", no_wrap=number != 0, overflow="fold")
    for row in rows:
        _, _, _, _, _, _, adds, _, *times = _cells(row)
        names = [escape(str(row[key])) for key in ("model", "tower", "runtime", "batch", "threads")]
        table.add_row(*names, adds, *times)
    console.print(table)
    console.print(
        "b: samples per call, to which the time refers; t: threads; Madds: multiply-adds per sample; Rounds: the "
        "lowest and highest median of a round. Texts have full length.",
        highlight=False,
    )


def _write(
    options: LatencyOptions, rows: Sequence[dict[str, Any]], failed: dict[str, str], facts: dict[str, Any]
) -> None:
    lines = [[*_HEAD, *_TIMES], ["---"] * (len(_HEAD) + len(_TIMES)), *map(_cells, rows)]
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    write_atomic(options.out / "latency.md", f"{table}\n")
    batch, threads = min(options.batches), options.threads[0]
    shown = [row for row in rows if (row["batch"], row["threads"]) == (batch, threads)]
    place = facts["cpu"] if facts["device"] == "cpu" else facts["device"]
    title = f"batch {batch}, {threads} thread{'s' * (threads > 1)}, {place}"
    write_atomic(options.out / "latency.svg", draw(shown, title))
    settings = {"rounds": options.rounds, "seconds": options.seconds}
    content = {"settings": settings, "environment": facts, "rows": list(rows), "failed": failed}
    write_atomic(options.out / "latency.json", json.dumps(content, indent=1) + "\n")
