"""How often the processes of a job exchange something in one step: a row for each method and scope.

    python benchmarks/collectives.py                                # two processes over gloo
    python benchmarks/collectives.py --ranks 4 --only aced
    PYTHONPATH=OTHER/src python benchmarks/collectives.py           # of another checkout

Counted is the second step of a run, as `aced train` takes it: each call of one of the exchanges of `World`, inside the
joint draw and beside it. What DDP exchanges by itself, one all-reduce of the gradients for each 25 MB, is left out.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from waits import write_models

EXCHANGES = ("gather", "sum", "sum_rows", "exchange", "meet", "objects")  # the last in older checkouts only
STEPS, CHUNKS = 2, 4
COMMON = ["data.scenes_size=400", "student.model=peer.json", "train.steps=9", "train.batch=16", "run.device=cpu"]
COMMON += [f"method.chunks={CHUNKS}", "run.threads=1"]
MEMORY = {
    "reuse": ["scoring.reuse=2"],
    "cascade": ["scoring.cascade=0.4"],
    "predict": ["scoring.reuse=3", "scoring.unseen=predict", "scoring.refresh=0.7"],
    "early": ["scoring.cascade=0.4", "scoring.early=true"],
    "all": ["scoring.cascade=0.4", "scoring.early=true", "scoring.reuse=3"],
}


def rows() -> dict[str, list[str]]:
    """The command-line words of every row, by its name: method, scope, and what else."""
    from aced.methods import METHODS

    found = {}
    for name, method in METHODS.items():
        model = "peer" if method.needs_peer else "large"
        live = [f"method.name={name}"]
        live += [f"reference.model={model}"] if method.needs_peer or method.needs_large else []
        cached = [*live, f"reference.cache=cache-{model}"] if len(live) > 1 else live
        for scope in ("global", "quota", "local") if method.chooses else ("global",):
            found[f"{name} {scope}"] = [*cached, f"method.scope={scope}"]
            if cached != live and not (method.columns or method.filters):
                found[f"{name} {scope} live"] = [*live, f"method.scope={scope}"]
    for key, words in MEMORY.items():
        found[f"aced global {key}"] = [*found["aced global"], *words]
    found["aced global softmax"] = [*found["aced global"], "method.loss=softmax"]
    found["aced global fsdp"] = [*found["aced global"], "run.parallel=fsdp"]
    found["aced global caching"] = [*found["aced global"], "train.grad_cache=3"]
    return found


class Counting:
    """Counts the exchanges of a world, those of joint draws apart; what it calls itself is no further one."""

    def __init__(self, world: Any) -> None:
        import aced.core.selection as selection

        self.calls: dict[str, Counter[str]] = {"draw": Counter(), "beside": Counter()}
        self._within, self._inside = "beside", False
        for name in EXCHANGES:
            if hasattr(world, name):
                setattr(world, name, self._counted(name, getattr(world, name)))
        drawing = selection._draw

        def draw(*arguments: Any) -> Any:
            self._within, before = "draw", self._within
            try:
                return drawing(*arguments)
            finally:
                self._within = before

        selection._draw = draw

    def clear(self) -> None:
        """Begin anew."""
        for calls in self.calls.values():
            calls.clear()

    def _counted(self, name: str, exchange: Any) -> Any:
        def counted(*arguments: Any) -> Any:
            if self._inside:
                return exchange(*arguments)
            self.calls[self._within][name] += 1
            self._inside = True
            try:
                return exchange(*arguments)
            finally:
                self._inside = False

        return counted


def job(names: list[str], target: Path) -> None:
    """As one of the processes: take the steps of each row, and count those of the last."""
    from rich.console import Console

    from aced.config import load_config
    from aced.runtime.progress import Bars
    from aced.runtime.stopping import Asked
    from aced.train.distributed import open_world
    from aced.train.run import loop
    from aced.train.run.fit import make_trainer
    from aced.train.run.inputs import make_inputs
    from aced.train.run.student import make_student
    from aced.train.wishes import Wishes

    torch.set_num_threads(1)
    world, found, words = open_world(60), {}, rows()
    bars, made = Bars(Console(quiet=True)), {}
    world.connect(torch.device("cpu"))
    if world.first:
        write_models(Path())
    world.meet()
    counting = Counting(world)
    for name in names:
        config = load_config("scenes", [*COMMON, *words[name], "run.out=unused"])
        student = make_student(config)
        models = [word for word in words[name] if word.startswith("reference.")]
        key = (*models, config.row.uses_reference, bool(config.row.distill))
        if key not in made:
            made[key] = make_inputs(config, student, bars, world=world)
        inputs = made[key]
        trainer = make_trainer(config, inputs, student, world)
        batches = loop.batches_of(trainer, inputs.source, config, range(STEPS))
        wishes = Wishes(Asked(), 0, world)
        for _ in range(STEPS):
            counting.clear()
            with loop._summed(trainer, wishes):
                loop.train_step(trainer, batches)
        found[name] = {where: dict(calls) for where, calls in counting.calls.items()}
        everyones: list[Any] = [None] * world.size
        dist.all_gather_object(everyones, found[name])
        if not all(other == found[name] for other in everyones):
            sys.exit(f"{name}: the processes did not exchange alike.")
    if world.first:
        target.write_text(json.dumps(found), encoding="utf-8")
    world.close()


def main() -> None:
    """Start the processes, and print what they counted."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--ranks", type=int, default=2, help="processes")
    parser.add_argument("--only", default="", help="words, one of which a row's name must have")
    parser.add_argument("--json", type=Path, help="write what was counted here")
    parser.add_argument("--job", nargs="+", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.job:
        job(given.job, given.json)
        return
    only = [word for word in given.only.split(",") if word]
    names = [name for name in rows() if not only or any(word in name for word in only)]
    with tempfile.TemporaryDirectory() as folder:
        target = given.json.resolve() if given.json else Path(folder) / "found.json"
        start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(given.ranks)]
        words = [str(Path(__file__).resolve()), "--json", str(target), "--job", *names]
        env = {**os.environ, "OMP_NUM_THREADS": "1"}
        subprocess.run([*start, *words], cwd=folder, env=env, check=True)
        for name, calls in json.loads(target.read_text(encoding="utf-8")).items():
            draw, beside = (calls[where] for where in ("draw", "beside"))
            kinds = ", ".join(f"{count} {kind}" for kind, count in beside.items())
            print(f"{name:32} {sum(draw.values()):3} in the draw {sum(beside.values()):3} beside   {kinds}")


if __name__ == "__main__":
    main()
