"""Processor time of an evaluation during a run, by the number of processes that share it.

    python benchmarks/evaluating.py --tasks data/eval                  # 1 and 2 processes over gloo, one thread each
    python benchmarks/evaluating.py --tasks data/eval --workers 2      # images decoded by two more processes for each

A student of random weights is scored on the tasks as `aced train` does it. For each process its own processor time
(with that of the processes that decode for it), and the wall time of all. The scores must be the same to the bit, or
the exit status is 1.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch


def seconds() -> float:
    """Processor time of this process and of its children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def job(given: argparse.Namespace) -> None:
    """As one of the processes: evaluate, and let the first one write what all have used and the scores."""
    from aced.evaluate.named_tasks import tasks_of
    from aced.evaluate.zeroshot import score_all, scores_json
    from aced.models import load_tower
    from aced.pool.loader.loading import Loading
    from aced.train.distributed import open_world
    from aced.train.evaluating import embed_together

    torch.set_num_threads(1)
    world = open_world(600)
    world.connect(torch.device("cpu"))
    tower = load_tower(given.model, seed=0).eval()
    tasks = tasks_of(str(given.tasks))
    world.meet()
    start, before = time.perf_counter(), seconds()
    embedder = embed_together(
        world,
        tower,
        tasks,
        micro_batch=given.micro_batch,
        precision="fp32",
        loading=Loading(given.workers),
        step=0,
    )
    scores = scores_json(score_all(tower, tasks, embedder)) if world.first else {}
    used = seconds() - before
    world.meet()
    everyones = world.everyones([used, time.perf_counter() - start])
    if world.first:
        given.job.write_text(json.dumps({"used": everyones, "scores": scores}), encoding="utf-8")
    world.close()


def measured(given: argparse.Namespace, ranks: int) -> dict[str, Any]:
    """What a job of so many processes writes."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "found.json"
        start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
        words = [str(Path(__file__).resolve()), "--job", str(target), "--tasks", str(given.tasks.resolve())]
        words += ["--model", given.model, "--micro-batch", str(given.micro_batch), "--workers", str(given.workers)]
        subprocess.run([*start, *words], env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True)
        found: dict[str, Any] = json.loads(target.read_text(encoding="utf-8"))
        return found


def main() -> None:
    """Start the jobs, and print what they used."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tasks", type=Path, default=Path("data/eval"), help="a folder of evaluation tasks")
    parser.add_argument("--model", default="aced-photo-s", help="architecture of the student")
    parser.add_argument("--micro-batch", type=int, default=256)
    parser.add_argument("--workers", type=int, default=0, help="processes that decode for each")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2], help="processes of each job")
    parser.add_argument("--job", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.job:
        job(given)
        return
    scores = []
    for ranks in given.ranks:
        found = measured(given, ranks)
        scores.append(found["scores"])
        each = ", ".join(f"{used:.1f}" for used, _ in found["used"])
        print(f"{ranks} processes: {each} s of processor time, {max(wall for _, wall in found['used']):.1f} s in all")
    if any(other != scores[0] for other in scores):
        sys.exit("The scores differ.")
    print(f"The scores are the same: {scores[0]['average']:.2f} % on average.")


if __name__ == "__main__":
    main()
