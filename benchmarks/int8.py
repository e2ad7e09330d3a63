"""What storing the reference's embeddings as float16 or int8 does to selection and to the trained student.

    python benchmarks/int8.py overlap --data scenes --reference runs/demo/reference/aced-demo-l/model
    python benchmarks/int8.py overlap --data photos --reference runs/photos-reference/model --shards data/pool
    python benchmarks/int8.py train --data scenes --reference runs/demo/reference/aced-demo-l/model --seeds 3
    python benchmarks/int8.py train --data photos --reference runs/photos-reference/model --shards data/pool \\
        --tasks data/eval --seeds 3

*overlap*: the same super-batches, the same generator, the reference's embeddings as they come back from each type.
Shown is the share of the chosen set that float32 chooses too, beside a yardstick: how much two draws from float32
itself have in common when only the generator differs, and how much chance alone would give (b/B). Two sets that differ
are not worse sets: a draw is random anyway. So the table also has the mean float32 score s_ii of the chosen, which is
what the draw is after, and how far a row moves (the angle between a row and its stored self).

*train*: whole runs that differ in `reference.cache_dtype` alone; average over the tasks by seed. A run that is there
already is not repeated, so that the command can be stopped and started again (`--most 1` makes one run at a time).
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from aced.cache.costs import size_text
from aced.cache.making import EmbedSettings
from aced.cache.rowcodec import DTYPES
from aced.cache.store import Store, build_store
from aced.config import Config, load_config, make_config
from aced.core.embeddings import Embeddings
from aced.core.selection import Score, Selection, select
from aced.models import Tower, load_tower
from aced.pool.orders.order import Order
from aced.pool.source import Candidates, Source
from aced.programs.train import train_program
from aced.runtime.progress import Bars
from aced.train.run.inputs import make_source

CONSOLE = Console(width=140)


def config_of(options: argparse.Namespace, **run: Any) -> Config:
    """The run of a data set: the demo's student on scenes, or the recipe for photos."""
    values: dict[str, dict[str, Any]] = {
        "run": {"checkpoint_every": 0, "log_every": 50, "threads": options.threads} | run,
        "reference": {"model": str(options.reference)},
        "method": {"name": options.method},
    }
    if options.data == "photos":
        recipe = load_config("photos").model_dump(exclude_none=True)
        values = {name: recipe.get(name, {}) | values.get(name, {}) for name in {*recipe, *values}}
        values["data"] |= {"shards": options.shards}
        values["eval"] |= {"tasks": options.tasks}
    else:
        values["method"]["temperature"] = 0.5  # the demo's first recipe, with which the figures in LOG.md were measured
    if options.steps:
        values.setdefault("train", {})["steps"] = options.steps
    return make_config(values)


class Stored:
    """A tower that knows its embeddings by heart: float32 side-cars are written anew in another type."""

    def __init__(self, tower: Tower, store: Store) -> None:
        self.name, self.width, self.view = tower.name, tower.width, tower.view
        self.identity, self.scale_and_bias, self.score_images = tower.identity, tower.scale_and_bias, tower.score_images
        self.forward_flops, self.flops, self._store = tower.forward_flops, tower.flops, store

    def score(self, candidates: Candidates, micro_batch: int) -> Embeddings:
        """What is stored."""
        return self._store.lookup(candidates.indices)


def make_stores(options: argparse.Namespace, source: Source, bars: Bars) -> dict[str, Store]:
    """The side-cars of each type; the model is asked for those of float32 only."""
    tower: Any = load_tower(options.reference).eval()
    stores: dict[str, Store] = {}
    for dtype in ("float32", "float16", "int8"):
        with bars.counting(f"Embedding as {dtype}") as progress:
            by = Stored(tower, stores["float32"]) if stores else tower
            folder = options.out / f"cache-{options.data}-{dtype}"
            stores[dtype] = build_store(folder, source, by, EmbedSettings(dtype, micro_batch=256), progress)
    return stores


# --- overlap --------------------------------------------------------------------------------------------------------


def choose(student: Embeddings, reference: Embeddings, score: Score, size: int, seed: int) -> Selection:
    """One joint draw."""
    generator = torch.Generator().manual_seed(seed)
    return select(student, reference, size, score=score, generator=generator)


def shared(one: Selection, other: Selection) -> float:
    """The share of one chosen set that is in the other."""
    return len(set(one.indices.tolist()) & set(other.indices.tolist())) / len(one.indices)


def measure(
    source: Source, stores: dict[str, Store], student: Tower, score: Score, sizes: tuple[int, int], draws: int
) -> dict[str, list[float]]:
    """For each type, and for `another draw`: overlap with float32 and mean float32 score of the chosen, by draw."""
    batch, size = sizes
    order = Order(len(source), batch, 0)
    found: dict[str, list[float]] = {}
    for step in range(draws):
        indices = order.indices(step)
        indices = indices[stores["float32"].valid(indices)]
        own = student.score(source.read(indices.tolist(), [student.view]), 256)
        exact = stores["float32"].lookup(indices)
        first = choose(own, exact, score, size, step)
        others = {name: choose(own, store.lookup(indices), score, size, step) for name, store in stores.items()}
        others["another draw"] = choose(own, exact, score, size, 10_000 + step)
        for name, chosen in others.items():
            found.setdefault(name, []).append(shared(first, chosen))
            found.setdefault(f"{name} score", []).append(float(first.scores[chosen.indices].mean()))
        found.setdefault("pool score", []).append(float(first.scores.mean()))
    return found


def overlap(options: argparse.Namespace) -> None:
    """Print the tables of overlaps."""
    config = config_of(options)
    student = load_tower(options.student or config.student.model, seed=0)
    with Bars(CONSOLE) as bars:
        source = make_source(config, bars)
        stores = make_stores(options, source, bars)
    rows = torch.arange(len(source))[:: max(1, len(source) // 4000)]
    rows = rows[stores["float32"].valid(rows)]
    exact = stores["float32"].lookup(rows)
    table = Table(
        "Type", "Bytes on disk", "Angle, image", "Angle, text", title=f"{options.data}, {len(source):,} pairs"
    )
    for dtype, store in stores.items():
        angles = []
        for side in ("image", "text"):
            a, b = getattr(exact, side), getattr(store.lookup(rows), side)
            angles.append(f"{torch.rad2deg(2 * torch.asin((a - b).norm(dim=1).clamp(max=2) / 2)).mean():.4f}°")
        table.add_row(dtype, size_text(store.info.bytes), *angles)
    CONSOLE.print(table)
    for score in ("easy-reference", "learnability"):
        for batch in options.super_batch:
            sizes = (batch, batch // 5)
            found = measure(source, stores, student, score, sizes, options.draws)
            title = f"{options.data}: {score}, {sizes[1]} of {batch}, {options.draws} super-batches"
            table = Table("", "Overlap with float32", "Least", "Mean score of the chosen", title=title)
            for name in (*DTYPES, "another draw"):
                values, scores = found[name], found[f"{name} score"]
                table.add_row(name, f"{mean(values)}", f"{min(values):.3f}", mean(scores))
            table.add_row("chance / the pool", f"{sizes[1] / batch:.3f}", "", mean(found["pool score"]))
            CONSOLE.print(table)


def mean(values: list[float]) -> str:
    """Mean and standard error."""
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return f"{statistics.fmean(values):.4f} ± {error:.4f}"


# --- accuracy -------------------------------------------------------------------------------------------------------


def train(options: argparse.Namespace) -> None:
    """Make the runs that are not there, and print the table of all that are."""
    made = 0
    with Bars(CONSOLE) as bars:
        make_stores(options, make_source(config_of(options), bars), bars)
    for seed in range(options.seeds):
        for dtype in DTYPES:
            folder = options.out / f"{options.data}-{options.method}-{dtype}-s{seed}"
            if (folder / "results.json").is_file() or (options.most and made == options.most):
                continue
            config = config_of(options, out=str(folder), seed=seed)
            reference = config.reference.model_copy(
                update={"cache": str(options.out / f"cache-{options.data}-{dtype}"), "cache_dtype": dtype}
            )
            train_program(config.model_copy(update={"reference": reference}), CONSOLE, resume=False)
            made += 1
    show(options)


def show(options: argparse.Namespace) -> None:
    """The averages by type and seed, and the differences to float32 with the same seed."""
    scores: dict[str, dict[int, float]] = {dtype: {} for dtype in DTYPES}
    for dtype in DTYPES:
        for seed in range(options.seeds):
            file = options.out / f"{options.data}-{options.method}-{dtype}-s{seed}" / "results.json"
            if file.is_file():
                scores[dtype][seed] = json.loads(file.read_text(encoding="utf-8"))["rows"][0]["average"]
    table = Table("Type", "Average, %", "by seed", "to float32, same seed", title=f"{options.data}, {options.method}")
    for dtype, found in scores.items():
        if not found:
            continue
        spread = f" ± {statistics.stdev(found.values()):.2f}" if len(found) > 1 else ""
        differences = [value - scores["float32"][seed] for seed, value in found.items() if seed in scores["float32"]]
        table.add_row(
            dtype,
            f"{statistics.fmean(found.values()):.2f}{spread}",
            ", ".join(f"{value:.1f}" for value in found.values()),
            ", ".join(f"{value:+.1f}" for value in differences),
        )
    CONSOLE.print(table)


def main() -> None:
    """Parse and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("overlap", "train"))
    parser.add_argument("--data", choices=("scenes", "photos"), default="scenes")
    parser.add_argument("--reference", type=Path, required=True, help="the `model` folder of a trained reference")
    parser.add_argument("--student", default="", help="overlap: a trained student in the place of a new one")
    parser.add_argument("--shards", nargs="+", default=[], help="photos: the pool")
    parser.add_argument("--tasks", nargs="+", default=[], help="photos: the tasks")
    parser.add_argument("--method", default="i-aced", help="train: a row of the methods table")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=0, help="train: 0 is the recipe's")
    parser.add_argument("--most", type=int, default=0, help="train: make at most so many runs; 0 makes all")
    parser.add_argument("--draws", type=int, default=20, help="overlap: super-batches")
    parser.add_argument("--super-batch", type=int, nargs="+", default=[320, 2560], help="overlap: B")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("runs/int8"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    {"overlap": overlap, "train": train}[options.what](options)


if __name__ == "__main__":
    main()
