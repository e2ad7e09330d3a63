"""What `data.locality` costs and saves: accuracy, tars touched and samples a second, with K tars at a time.

    python benchmarks/locality.py --pool data/webmix --curated data/webmix-curated --tasks data/eval --out l.jsonl
    python benchmarks/locality.py ... --reference runs/photos-reference/model      # does not train one first
    python benchmarks/locality.py --only loader --pool data/webmix
    python benchmarks/locality.py --only plan                                       # the order of 10^9 pairs
    python benchmarks/locality.py --table l.jsonl                                  # the means of what lies there

The pool is written anew, into tars that are a fraction of a super-batch to a few of them large, as they are in large
runs: once in the order in which it lies, and once sorted by source and class (the fields `source` and `label` of its
.json), which is the worst case: a tar then holds one class or two. A row is a method, an arrangement, and C streams of
K tars; `all` is data.locality=0, one permutation of everything. One stream (the default here) shows K at its worst,
since a super-batch holds pairs of C K tars at least. Everything else is the recipe `photos` with `--steps` steps.
Accuracy is the average over the tasks, of which so short a run of so small a model learns little; and the share of the
curated pairs whose caption is the nearest one to their image among 100, which tells short runs apart.

**Loader.** Samples in a second of processor time of one process, of super-batches of 320, as bytes and decoded to
32 px; and how many tars a super-batch opens if none is open before it.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import os
import pickle
import statistics
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

ARRANGED = ("sorted", "lies")
LOADED = 320


def samples_of(pool: Path) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Key and members of every sample."""
    for path in sorted(pool.glob("*.tar")):
        with tarfile.open(path) as tar:
            last, members = "", dict[str, bytes]()
            for info in tar:
                key, _, suffix = info.name.partition(".")
                if key != last and members:
                    yield last, members
                    members = {}
                file = tar.extractfile(info)
                assert file is not None
                last, members[suffix] = key, file.read()
            if members:
                yield last, members


def arrange(pool: Path, out: Path, tars: int) -> None:
    """Write the pool into `out/lies` and `out/sorted`, in so many tars each."""
    samples = list(samples_of(pool))
    classes = [json.loads(members["json"]) for _, members in samples]
    order = sorted(range(len(samples)), key=lambda i: (classes[i]["source"], str(classes[i]["label"]), i))
    for name, rows in (("lies", range(len(samples))), ("sorted", order)):
        (out / name).mkdir(parents=True)
        ends = [len(samples) * tar // tars for tar in range(tars + 1)]
        for tar in range(tars):
            with tarfile.open(out / name / f"{tar:05d}.tar", "w") as file:
                for row in rows[ends[tar] : ends[tar + 1]]:
                    for suffix, content in samples[row][1].items():
                        info = tarfile.TarInfo(f"{samples[row][0]}.{suffix}")
                        info.size = len(content)
                        file.addfile(info, io.BytesIO(content))


def name_of(streams: int, locality: int) -> str:
    """The row's name of an order."""
    return "all" if locality == 0 else f"{streams} x {locality}"


# -- accuracy ----------------------------------------------------------------------------------------------------------


def config_of(args: argparse.Namespace, folder: Path, **data: Any) -> Any:
    """The recipe with a method, seed and order."""
    from aced.config import load_config, make_config

    values = load_config("photos").model_dump(mode="json")
    values["run"] |= {"out": str(folder), "checkpoint_every": 0, "seed": data.pop("seed", 0)}
    values["method"]["name"], values["train"]["steps"] = data.pop("method", "iid"), args.steps
    values["data"] |= {"shards": [str(args.pool)], **data}
    values["reference"]["model"] = str(args.reference)
    return make_config(values)


def train_reference(args: argparse.Namespace, folder: Path, tasks: list[Any], bars: Any) -> None:
    """The recipe `photos-reference` on the curated pairs."""
    from aced.config import load_config
    from aced.train.run.fit import fit
    from aced.train.run.inputs import make_inputs
    from aced.train.run.student import make_student

    keys = [f"data.shards={args.curated}", f"run.out={folder}", f"train.steps={args.reference_steps}"]
    config = load_config("photos-reference", keys)
    student = make_student(config)
    inputs = make_inputs(config, student, bars)
    inputs.tasks = tasks
    fit(config, inputs, student, bars, title="Reference")


def accuracies(args: argparse.Namespace, place: Path, bars: Any) -> Iterator[dict[str, Any]]:
    """One row for each run, seed after seed."""
    from aced.evaluate.named_tasks import tasks_of
    from aced.models import load_tower
    from aced.pool.inmemory import InMemory
    from aced.pool.shards import open_shards
    from aced.train.run.inputs import make_cached
    from aced.train.run.student import make_student

    tasks = tasks_of(str(args.tasks))
    if not args.reference:
        args.reference = place / "reference" / "model"
        if not args.reference.exists():
            train_reference(args, place / "reference", tasks, bars)
    tower = load_tower(str(args.reference)).requires_grad_(False).eval()
    config, methods = config_of(args, place / "run"), args.methods.split(",")
    view = make_student(config).view
    curated = open_shards([str(args.curated)])
    probe = curated.read(range(len(curated)), [view])
    pools: dict[str, tuple[Any, Any]] = {}
    rows = itertools.product(range(args.seeds), args.arranged.split(","), methods, args.orders.split(","))
    for seed, arranged, method, order in rows:
        streams, locality = map(int, order.split("x"))
        if locality == 0 and arranged != args.arranged.split(",")[0]:
            continue  # the same pairs are drawn alike, however they are arranged
        if arranged not in pools:
            source = open_shards([str(place / arranged)])
            cached = make_cached(tower, source, place / "cache" / arranged, config, tower.device, bars)
            pools[arranged] = InMemory(source, [view]), cached
        data = {"seed": seed, "method": method, "locality": locality, "streams": max(1, streams)}
        student, accuracy = trained(args, data, *pools[arranged], tasks, bars)
        row = {"arranged": arranged, "method": method, "order": name_of(streams, locality), "seed": seed}
        yield row | {"steps": args.steps, "accuracy": accuracy, "found": found_among(student, probe)}


def trained(
    args: argparse.Namespace, data: dict[str, Any], pool: Any, cached: Any, tasks: list[Any], bars: Any
) -> tuple[Any, float]:
    """The student of one run, and its average over the tasks."""
    from aced.train.run.fit import fit
    from aced.train.run.inputs import Inputs
    from aced.train.run.student import make_student

    with tempfile.TemporaryDirectory() as folder:
        config = config_of(args, Path(folder), **data)
        reference = cached if config.row.uses_reference else None
        inputs = Inputs(pool, tasks, reference, [cached] if config.row.distill else [])
        fitted = fit(config, inputs, make_student(config), bars, title=str(data))
    return fitted.student, float(fitted.scores.average or 0)


def found_among(student: Any, probe: Any, others: int = 100) -> float:
    """The share of pairs, in percent, whose caption is nearest to their image among so many, drawn at random."""
    import torch

    rows = torch.randperm(len(probe), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        embedded = student.eval().score(probe[rows], 1024)
    right = [
        (image @ text.T).argmax(1) == torch.arange(len(image))
        for image, text in zip(embedded.image.split(others), embedded.text.split(others), strict=True)
    ]
    return 100 * float(torch.cat(right).float().mean())


# -- loader ------------------------------------------------------------------------------------------------------------


def loader(args: argparse.Namespace, place: Path) -> Iterator[dict[str, Any]]:
    """Samples a second and tars opened, for each order: the fastest of three turns of so many super-batches."""
    from aced.pool.orders.order import Order, Orders
    from aced.pool.orders.plan import Plan
    from aced.pool.shards import open_shards
    from aced.pool.views import View

    opened: set[str] = set()
    sys.addaudithook(lambda event, found: opened.add(str(found[0])) if event == "open" else None)
    source = open_shards([str(place / "lies")])

    def rate(order: Orders, views: list[View]) -> float:
        best = 0.0
        for turn in range(3):
            start, count = time.process_time(), 0
            for step in range(turn * 20, turn * 20 + 20):
                count += len(source.read(order.indices(step).tolist(), views))
            best = max(best, count / (time.process_time() - start))
        return best

    for streams, locality in (tuple(map(int, order.split("x"))) for order in args.orders.split(",")):
        order: Orders = Order(len(source), LOADED, seed=0)
        if locality:
            order = Plan(source.part_sizes, LOADED, 0, locality, streams)
        tars = []
        for step in range(20):
            fresh = pickle.loads(pickle.dumps(source))  # without open files
            opened.clear()
            fresh.read(order.indices(step).tolist(), [])
            tars.append(sum(name.endswith(".tar") for name in opened))
        name, rates = name_of(streams, locality), [rate(order, views) for views in ([], [View(32)])]
        yield {"order": name, "read": rates[0], "decoded": rates[1], "opens": statistics.mean(tars)}


# -- plan --------------------------------------------------------------------------------------------------------------


def plan_times(tars: int = 100_000, pairs: int = 10_000, batch: int = 4096, far: int = 10**7) -> str:
    """What the order of a pool of so many tars takes."""
    from aced.pool.orders.plan import Plan

    def resident() -> float:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6

    before, clock = resident(), time.process_time
    start = clock()
    plan = Plan([pairs] * tars, batch, 0, 16, 8)
    times = [clock() - start]
    for step in (far, *range(far + 1, far + 101)):
        start = clock()
        plan.indices(step)
        times.append(clock() - start)
    made, first, *rest = (1e3 * seconds for seconds in times)
    return (
        f"{tars:,} tars of {pairs:,}, 8 streams of 16: made in {made:.0f} ms, step {far:,} in {first:.0f} ms, the next "
        f"in {statistics.median(rest):.2f} ms; {resident() - before:.0f} MB"
    )


# -- tables ------------------------------------------------------------------------------------------------------------


def show(rows: list[dict[str, Any]], console: Console) -> None:
    """The means over seeds."""
    runs = [row for row in rows if "accuracy" in row]
    table = Table("method", "arranged", "C x K", "accuracy, %", "caption found, %", "lowest to highest", "seeds")
    for method, arranged, order in dict.fromkeys((r["method"], r["arranged"], r["order"]) for r in runs):
        mine = [r for r in runs if (r["method"], r["arranged"], r["order"]) == (method, arranged, order)]
        accuracy, found = ([r[name] for r in mine] for name in ("accuracy", "found"))
        spread = f"{min(found):.1f} to {max(found):.1f}"
        means = (f"{statistics.mean(values):.1f}" for values in (accuracy, found))
        table.add_row(method, arranged, order, *means, spread, str(len(mine)))
    if runs:
        console.print(table)
    loads = Table("C x K", "samples/s, bytes", "decoded", "tars a super-batch")
    for row in rows:
        if "read" in row:
            loads.add_row(row["order"], f"{row['read']:,.0f}", f"{row['decoded']:,.0f}", f"{row['opens']:.0f}")
    if loads.rows:
        console.print(loads)


def main() -> None:
    """Parse, measure, and print tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pool", type=Path, help="a folder of tars with `source` and `label` in their .json")
    parser.add_argument("--curated", type=Path, help="clean pairs for the reference")
    parser.add_argument("--tasks", help="folders of tasks")
    parser.add_argument("--reference", default="", help="a trained one")
    parser.add_argument("--reference-steps", type=int, default=400)
    parser.add_argument("--tars", type=int, default=256)
    parser.add_argument("--orders", default="1x1,1x4,1x16,0x0", help="CxK; 0x0 is one permutation of all")
    parser.add_argument("--arranged", default=",".join(ARRANGED))
    parser.add_argument("--methods", default="iid,i-aced")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=200, help="340 of 64 are an epoch of webmix")
    parser.add_argument("--only", choices=["loader", "accuracy", "plan"])
    parser.add_argument("--keep", type=Path, help="a folder that keeps tars, reference and its cache for the next time")
    parser.add_argument("--out", type=Path, help="where rows are added, one a line")
    parser.add_argument("--table", type=Path, help="show what such a file holds")
    args = parser.parse_args()
    console = Console()
    if args.table:
        show([json.loads(line) for line in args.table.read_text(encoding="utf-8").splitlines()], console)
        return
    if args.only in (None, "plan"):
        print(plan_times())
    if args.only == "plan":
        return
    from aced.runtime.progress import Bars

    rows = []
    with tempfile.TemporaryDirectory() as folder, Bars(console) as bars:
        place = args.keep or Path(folder)
        if not (place / "sorted").exists():
            arrange(args.pool, place, args.tars)
        parts = {"loader": lambda: loader(args, place), "accuracy": lambda: accuracies(args, place, bars)}
        for name, part in parts.items():
            for row in part() if args.only in (None, name) else ():
                rows.append(row)
                if args.out:
                    with args.out.open("a", encoding="utf-8") as file:
                        file.write(json.dumps(row) + "\n")
    show(rows, console)


if __name__ == "__main__":
    main()
