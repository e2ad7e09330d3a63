"""Ways to score for little, and what they are up against: step time relative to IID and accuracy, in one run.

    python benchmarks/cheap.py --seeds 0,1,2 --split test --out cheap.jsonl      # trains the reference first (minutes)
    python benchmarks/cheap.py --reference runs/demo/reference/aced-demo-l/model --rows iid,aced,aced+cascade=0.4
    python benchmarks/cheap.py --table cheap.jsonl                               # means over seeds of what lies there
    python benchmarks/cheap.py --photos data/pool --tasks data/eval --reference REFERENCE --student vit64.json \
      --rows aced,aced+resolution=48                                             # the recipe photos on tars

A row is `METHOD[@STEPS][+KEY=VALUE...]`: a row of the methods table, the number of its steps where it is not `--steps`,
and keys of `[scoring]`, or of another section with its name before them (`method.weight=4`). Everything else is the
demo's recipe: student, pool of 24,000 scenes, batch, learning rate, temperature. IID is always among the rows.

All rows of a seed are trained in turn, a few steps of one, then of the next, so that what else the machine does meets
all of them alike. A row's time is the sum over *all* its steps (steps differ: a memory is empty at first) relative to
IID's, by the clock and by the processor time of this process; the latter knows nothing of other work on the machine.
Accuracy is the average over the scenes tasks, as in the demo's table.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import tempfile
import time
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

ROWS = (
    "iid",
    "softmax-kd",
    "i-aced",
    "i-aced+early=true",
    "aced",
    "aced+cascade=0.4+early=true",
    "aced+cascade=0.25+early=true",
    "aced+reuse=160",
    "aced+reuse=400",
    "aced+cascade=0.4+early=true+reuse=160",
    "aced+cascade=0.4+early=true+reuse=400",
    'aced+cascade=0.4+early=true+reuse=400+unseen="predict"',
    'aced+cascade=0.4+early=true+reuse=400+unseen="predict"+refresh=0.3',
    'aced+cascade=0.4+early=true+reuse=1+unseen="predict"+refresh=0.3',
    "aced+resolution=16",
    "columns-kd",
    "d-aced+early=true",
)
TURNS = 40
"""Pieces into which each run is cut."""


@dataclass
class Run:
    """One row with one seed."""

    row: str
    config: Any
    trainer: Any
    batches: Any
    wall: float = 0.0
    cpu: float = 0.0
    done: int = 0
    kinds: dict[str, int] = field(default_factory=dict)

    def go_to(self, step: int, kinds: Any) -> None:
        """Take the steps up to `step`, timed."""
        from aced.train.step import train_step

        count, outcomes = step - self.done, []
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(count):
            outcomes.append(train_step(self.trainer, self.batches))
        self.wall += time.perf_counter() - wall
        self.cpu += time.process_time() - cpu
        self.done = step
        for outcome in outcomes:
            for index in outcome.candidates[outcome.rows].tolist():
                self.kinds[kinds[index]] = self.kinds.get(kinds[index], 0) + 1


@dataclass
class World:
    """What all rows share."""

    pool: Any
    tasks: list[Any]
    cached: Any


def config_of(row: str, seed: int, args: argparse.Namespace, folder: Path) -> Any:
    """The demo's config with the row's method, steps and keys."""
    from aced.config import load_config, make_config
    from aced.lab.demo.rows import FULL, DemoRow, student_config

    name, *keys = row.split("+")
    method, _, steps = name.partition("@")
    if args.photos:
        values = load_config("photos", [f"method.name={method}", f"run.seed={seed}"]).model_dump(mode="json")
        values["student"]["model"] = args.student
        # Of the pool and the reference here is decided elsewhere, once for all rows.
        values["data"]["shards"], values["reference"]["model"] = [args.photos], args.reference
    else:
        values = student_config(DemoRow(row, row, method), seed, FULL, folder, split=args.split).model_dump(mode="json")
        values["data"]["scenes"], values["data"]["scenes_size"] = args.pool, args.size
    values["train"]["steps"] = int(steps or args.steps)
    for key in keys:
        name, _, value = key.partition("=")
        section, _, key = name.rpartition(".")
        values[section or "scoring"][key] = tomllib.loads(f"v = {value}")["v"]
    return make_config(values, row)


def make_world(args: argparse.Namespace, folder: Path, console: Console) -> World:
    """Pool, tasks, and the reference's embeddings: of a trained one, or of one trained here as the demo does."""
    from aced.lab.demo.rows import FULL, REFERENCE, reference_config
    from aced.lab.scenes.scene_pool import make_scenes
    from aced.models import load_tower
    from aced.runtime.progress import Bars
    from aced.train.run.fit import fit
    from aced.train.run.inputs import Inputs, make_cached, make_eval_tasks
    from aced.train.run.student import make_student

    config = reference_config(REFERENCE, FULL, folder / "reference", split=args.split)
    tasks = make_eval_tasks(config)
    with Bars(console) as bars:
        if args.reference:
            tower = load_tower(args.reference)
        else:
            curated = make_scenes("curated", FULL.curated, config.data.scenes_seed, bars.counting)
            tower = fit(config, Inputs(curated, tasks), make_student(config), bars, title="Reference").student
        pool = make_scenes(args.pool, args.size, 1, bars.counting)
        tower.requires_grad_(False).eval()
        return World(pool, tasks, make_cached(tower, pool, Path(args.cache or folder), config, tower.device, bars))


def make_photos(args: argparse.Namespace, folder: Path, console: Console) -> World:
    """The same with tars of photos, decoded once, and a trained reference."""
    from aced.evaluate.named_tasks import tasks_of
    from aced.models import load_tower
    from aced.pool.inmemory import InMemory
    from aced.pool.shards import open_shards
    from aced.runtime.progress import Bars
    from aced.train.run.inputs import make_cached

    tower = load_tower(args.reference).requires_grad_(False).eval()
    tasks = tasks_of(str(args.tasks))
    config = config_of("aced", 0, args, folder)
    with Bars(console) as bars:
        source = open_shards([args.photos], kind_field="kind")
        cached = make_cached(tower, source, Path(args.cache or folder), config, tower.device, bars)
        with bars.counting("Decoding images") as progress:
            pool = InMemory(source, [load_tower(args.student, seed=0).view], progress=progress)
    return World(pool, tasks, cached)


def make_run(row: str, seed: int, world: World, args: argparse.Namespace, folder: Path) -> Run:
    """A trainer with its candidates, as `fit` makes them."""
    from aced.methods import get_method
    from aced.train.run.fit import make_trainer
    from aced.train.run.inputs import Inputs
    from aced.train.run.loop import batches_of
    from aced.train.run.student import make_student

    config = config_of(row, seed, args, folder)
    method = get_method(config.method.name)
    reference = world.cached if method.uses_reference else None
    inputs = Inputs(world.pool, [], reference, [world.cached] if method.distill else [])
    student = make_student(config)
    trainer = make_trainer(config, inputs, student)
    return Run(row, config, trainer, batches_of(trainer, world.pool, config, range(config.train.steps)))


def measure(seed: int, world: World, args: argparse.Namespace, folder: Path, bars: Any) -> list[dict[str, Any]]:
    """All rows with one seed."""
    from aced.evaluate.zeroshot import average, evaluate
    from aced.pool.source import SOUND_KINDS

    rows = list(dict.fromkeys(["iid", *args.rows.split(",")]))
    runs = [make_run(row, seed, world, args, folder) for row in rows]
    with bars.bar(f"Seed {seed}", TURNS + len(runs)) as tick:
        for turn in range(1, TURNS + 1):
            for run in runs:
                run.go_to(run.config.train.steps * turn // TURNS, world.pool.kinds)
            tick(turn)
        found = []
        for number, run in enumerate(runs, 1):
            results = evaluate(run.trainer.student, world.tasks, micro_batch=run.config.train.micro_batch)
            ledger, base = run.trainer.ledger, runs[0]
            sound = sum(count for kind, count in run.kinds.items() if kind in SOUND_KINDS) / sum(run.kinds.values())
            found.append(
                {
                    "row": run.row,
                    "seed": seed,
                    "split": args.split,
                    "pool": args.pool,
                    "steps": run.config.train.steps,
                    "average": average(results),
                    "wall": run.wall,
                    "cpu": run.cpu,
                    "wall_ratio": run.wall / base.wall,
                    "cpu_ratio": run.cpu / base.cpu,
                    "step_ratio": run.cpu / run.config.train.steps / (base.cpu / base.config.train.steps),
                    "flops_ratio": sum(ledger.flops.values()) / sum(base.trainer.ledger.flops.values()),
                    "loaded_ratio": ledger.samples_loaded / base.trainer.ledger.samples_loaded,
                    "sound": sound,
                    "seconds": ledger.seconds,
                    "tasks": {name: round(result.value, 4) for name, result in results.items()},
                }
            )
            tick(TURNS + number)
    return found


def show(lines: list[dict[str, Any]], console: Console) -> None:
    """Means over seeds, with the standard error of the average."""
    table = Table(title="Cheap scoring: times relative to IID (whole runs, and a mean step)")
    for column in (
        "row",
        "steps",
        "seeds",
        "average, %",
        "± s.e.",
        "step",
        "run, CPU",
        "run, clock",
        "FLOPs",
        "loaded",
    ):
        table.add_column(column, justify="left" if column == "row" else "right", no_wrap=column == "row")
    for key in dict.fromkeys((line["pool"], line["split"], line["row"], line["steps"]) for line in lines):
        mine = [x for x in lines if (x["pool"], x["split"], x["row"], x["steps"]) == key]
        averages = [x["average"] for x in mine]
        error = statistics.stdev(averages) / math.sqrt(len(averages)) if len(averages) > 1 else math.nan
        means = {
            name: statistics.mean(x[f"{name}_ratio"] for x in mine)
            for name in ("step", "cpu", "wall", "flops", "loaded")
        }
        label = key[2] + ("" if key[0] == "pool" else f" [{key[0]}]") + ("" if key[1] == "test" else f" ({key[1]})")
        numbers = (f"{statistics.mean(averages):.1f}", f"{error:.1f}", *(f"{value:.2f}" for value in means.values()))
        table.add_row(label, str(key[3]), str(len(mine)), *numbers)
    console.print(table)


def main() -> None:
    """Parse, measure, and print a table and JSON lines."""
    from aced.runtime.progress import Bars

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default=",".join(ROWS))
    parser.add_argument("--seeds", default="0", help="with commas")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--split", choices=("test", "validation"), default="validation")
    parser.add_argument("--pool", choices=("pool", "redundant"), default="pool")
    parser.add_argument("--size", type=int, default=24_000, help="scenes of the pool")
    parser.add_argument("--reference", default="", help="a trained model; by default an aced-demo-l is trained")
    parser.add_argument("--photos", default="", help="tars of photos in the place of scenes; needs --reference")
    parser.add_argument("--tasks", default="", help="task folders for photos")
    parser.add_argument("--student", default="aced-photo-s", help="the student for photos")
    parser.add_argument("--cache", default="", help="folder for the reference's embeddings")
    parser.add_argument("--threads", type=int, default=int(os.environ.get("OMP_NUM_THREADS", "1")))
    parser.add_argument("--out", type=Path, help="append the lines of JSON here too")
    parser.add_argument("--table", type=Path, nargs="+", help="only show the table of these files")
    args = parser.parse_args()
    console = Console(width=150)
    if args.table:
        show(
            [json.loads(line) for file in args.table for line in file.read_text(encoding="utf-8").splitlines()], console
        )
        return
    torch.set_num_threads(args.threads)
    lines: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        world = (make_photos if args.photos else make_world)(args, Path(name), console)
        with Bars(console) as bars:
            for seed in map(int, args.seeds.split(",")):
                lines += measure(seed, world, args, Path(name), bars)
    if args.out:
        with args.out.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(line) + "\n" for line in lines)
    show(lines, console)
    for line in lines:
        print(json.dumps(line))


if __name__ == "__main__":
    main()
