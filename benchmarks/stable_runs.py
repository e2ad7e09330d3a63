"""Seeds of one small recipe, scored on every scenes task (validation split) and every task folder: what `aced stable`
is run on to choose the demo's suite.

    python benchmarks/stable_runs.py runs/stable --recipe scenes --method iid --seeds 10-15 --tasks data/eval
    python benchmarks/stable_runs.py runs/stable --recipe scenes --method i-aced --seeds 10-15 --tasks data/eval \
      --reference runs/demo/reference/aced-demo-l/model
    python benchmarks/stable_runs.py runs/stable --recipe photos --method iid --seeds 10-15 --tasks data/eval \
      --shards data/pool

`scenes` is a row of the demo with the demo's own settings; `photos` is the packaged recipe. The seeds are others than
those of the demo's table (0 to 2) and the split is the one that nothing is reported on, so that a suite chosen here
has not been chosen by what it will report. A run that is there already is left as it is.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from rich.console import Console

from aced.config import Config, load_config, make_config
from aced.errors import AcedError
from aced.evaluate.task_folders import find_task_folders, load_task_folder
from aced.evaluate.tasks import Task
from aced.files.atomic import write_atomic
from aced.lab.demo.rows import FULL, ROWS, student_config
from aced.lab.scenes import make_tasks
from aced.runs.environment import environment
from aced.runtime.progress import Bars
from aced.runtime.threads import set_threads
from aced.train.run.automatic import device_of
from aced.train.run.fit import fit
from aced.train.run.fitted import row_of
from aced.train.run.inputs import make_inputs
from aced.train.run.student import make_student


def config_of(options: argparse.Namespace, seed: int, folder: Path) -> Config:
    """The config of one seed."""
    cache = str(options.out / "cache")
    if options.recipe == "photos":
        shards = [f"data.shards={json.dumps(options.shards)}"]
        reference = [f"reference.model={options.reference}", f"reference.cache={cache}"] if options.reference else []
        own = [f"method.name={options.method}", f"run.seed={seed}", f"run.out={folder}", "run.checkpoint_every=0"]
        return load_config("photos", [*shards, *reference, *own])
    config = student_config(ROWS[options.method], seed, FULL, folder, split="validation")
    if not options.reference:
        return config
    sections = config.model_dump()
    sections["reference"] |= {"model": options.reference, "cache": cache}
    return make_config(sections, "the demo's row")


def run(options: argparse.Namespace, seed: int, tasks: list[Task], console: Console) -> None:
    """Train one seed and score it on all tasks; its results.json is written last."""
    folder = options.out / f"{options.recipe}-{options.method}-s{seed}"
    if (folder / "results.json").is_file():
        console.print(f"{folder} is there already.", markup=False, highlight=False)
        return
    config = config_of(options, seed, folder)
    student = make_student(config)
    with Bars(console) as bars:
        inputs = make_inputs(config, student, bars)
        inputs.tasks = tasks
        fitted = fit(config, inputs, student, bars)
    name = f"{options.recipe}-{options.method}"
    results = {"rows": [row_of(fitted, name, name, seed) | {"run": "."}], "environment": environment(device_of(config))}
    write_atomic(folder / "results.json", json.dumps(results, indent=1) + "\n")


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder of the runs")
    parser.add_argument("--recipe", choices=("scenes", "photos"), required=True)
    parser.add_argument("--method", default="iid", help="a method without a reference, or one with --reference")
    parser.add_argument("--seeds", default="10-15", help="first-last, or one seed")
    parser.add_argument("--tasks", nargs="*", default=[], help="task folders, or folders of them")
    parser.add_argument("--shards", nargs="*", default=[], help="the pool of the photos recipe")
    parser.add_argument("--reference", default="", help="model folder of the frozen reference")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    set_threads(options.threads)
    first, _, last = options.seeds.partition("-")
    try:
        tasks = [*make_tasks("validation")]
        tasks += [task for folder in find_task_folders(options.tasks) for task in load_task_folder(folder)]
        for seed in range(int(first), int(last or first) + 1):
            run(options, seed, tasks, Console())
    except AcedError as error:
        sys.exit(f"stable_runs.py: {error}")


if __name__ == "__main__":
    main()
