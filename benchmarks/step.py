"""Training steps: ours against `open_clip_train`'s, and every method's against IID's. On the CPU.

    python benchmarks/step.py --against-open-clip                  # sigmoid loss; needs `pip install -e .[bench]`
    python benchmarks/step.py --against-open-clip --loss softmax
    python benchmarks/step.py --methods                            # the demo's student, batch and super-batch
    python benchmarks/step.py --methods --against-open-clip --quick  # small, to see that it runs

**Against open_clip_train.** The same model (a small open_clip config), batch, AdamW (rates, betas, decay, clipping),
fp32, threads, tars and number of decoding workers; each run is a process of its own, and the two sides take turns.
Both are timed over whole steps, from the end of one to the end of the next: ours around `train_step` inside
`aced train`, theirs by the mean step time that its log prints for each window of steps. The first windows, in which
processes warm up, are left out; **images/s** is the median of the other windows of all runs, and the **ratio** is that
of these medians. The ratios of each turn's own medians stand beside it: where they differ, the machine was busy.
Random crops are switched off in open_clip_train (it is given its own inference transform), because ours does not
augment; `--augment` leaves them in. What differs still is what is meant to: how tars are read and decoded; that ours
sends short and long texts through the text tower apart, each cut to the longest of them (the embeddings stay the same),
where theirs computes the full context length; attention without copies; the fused AdamW; and that ours remembers the
tokens of a caption, checks the loss and the gradient, and counts FLOPs and samples at each step.

**Methods.** All rows of the methods table on the demo's student, pool and sizes, the reference's embeddings cached.
Weights are random: a step costs what it costs whatever they are. All methods take turns, a few steps at a time;
**time** is the median over the turns, the ratio is the median of the ratios to IID's step in the same turn, and the
shares are the ledger's. **FLOPs** are the ledger's too, so the gap between the ratios of time and of FLOPs is what the
parts that are not products cost (reading, the draw, small batches).
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

LOSSES = ("sigmoid", "softmax")
SIDES = {"aced": "aced", "open-clip": "open_clip_train", "aced-memory": "aced, data.in_memory"}
WINDOW = 8
"""Steps between two figures of a run; the first step and the first window are its warm-up."""
LR, BETAS, DECAY, CLIP = 1e-3, (0.9, 0.95), 0.05, 1.0
MODEL: dict[str, Any] = {
    "embed_dim": 64,
    "vision_cfg": {"image_size": 64, "layers": 3, "width": 96, "patch_size": 16, "head_width": 32},
    "text_cfg": {"context_length": 24, "vocab_size": 49408, "width": 96, "heads": 3, "layers": 3},
}


# --- one side, in a process of its own ----------------------------------------------------------------------------


@dataclass
class Speeds:
    """What the runs of one side gave: images/s of each window, and the share of the time spent waiting for data."""

    images: list[float] = field(default_factory=list)
    waiting: list[float] = field(default_factory=list)

    def turns(self, count: int) -> list[float]:
        """The median images/s of each of `count` runs of equal length."""
        length = len(self.images) // count
        return [statistics.median(self.images[i * length : (i + 1) * length]) for i in range(count)]


def child_aced(config: Path) -> None:
    """`aced train` on a config, with the end of each step noted; prints them as one line of JSON."""
    from aced.config import load_config
    from aced.programs.train import train_program
    from aced.train.run import loop

    ends: list[tuple[float, float]] = []
    step = loop.train_step

    def timed(trainer: Any, batches: Any) -> Any:
        outcome = step(trainer, batches)
        ends.append((time.perf_counter(), trainer.ledger.seconds["load"]))
        return outcome

    loop.train_step = timed
    train_program(load_config(config), Console(stderr=True), resume=False)
    print(json.dumps(ends))


def child_open_clip(model: Path, augment: bool, arguments: list[str]) -> None:
    """`open_clip_train` with a model config of ours, on machines without torchvision's operators too."""
    from aced.models.compat import ensure_torchvision

    ensure_torchvision()
    import open_clip
    import open_clip_train.main as program

    open_clip.add_model_config(model)
    create = program.create_model_and_transforms

    def without_crops(*args: Any, **kwargs: Any) -> tuple[Any, Any, Any]:
        built, _, inference = create(*args, **kwargs)
        return built, inference, inference

    if not augment:
        program.create_model_and_transforms = without_crops
    program.main(arguments)


def child(mode: str, rest: list[str], threads: int) -> str:
    """Run a child mode of this file with so many threads, and return all that it printed."""
    # Set for both sides before torch starts: a pool of another size would stay around.
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    result = subprocess.run(
        [sys.executable, __file__, "--child", mode, *rest], env=environment, capture_output=True, text=True
    )
    if result.returncode:
        sys.exit(f"The {mode} side failed:\n{result.stdout[-2000:]}\n{result.stderr[-4000:]}")
    return result.stdout + result.stderr


def run_aced(args: argparse.Namespace, folder: Path, model: Path, speeds: Speeds, *, in_memory: bool) -> None:
    """One run of ours."""
    import tomli_w

    config = {
        "run": {"out": str(folder / "run"), "threads": args.threads, "log_every": WINDOW, "checkpoint_every": 0},
        "data": {"shards": [args.shards], "workers": 0 if in_memory else args.workers, "in_memory": in_memory},
        "student": {"model": str(model)},
        "method": {"name": "iid", "loss": args.loss},
        "train": {
            "batch": args.batch,
            "steps": args.steps,
            "lr": LR,
            "warmup": 0.05,
            "betas": BETAS,
            "weight_decay": DECAY,
            "clip": CLIP,
        },
    }
    path = folder / "config.toml"
    path.write_text(tomli_w.dumps(config), encoding="utf-8")
    printed = child("aced", [str(path)], args.threads)
    ends = json.loads(next(line for line in printed.splitlines() if line.startswith("[[")))
    for first in range(WINDOW, args.steps - WINDOW, WINDOW):
        (start, loaded), (end, loaded_then) = ends[first], ends[first + WINDOW]
        speeds.images.append(args.batch * WINDOW / (end - start))
        speeds.waiting.append((loaded_then - loaded) / (end - start))


def run_open_clip(args: argparse.Namespace, folder: Path, model: Path, speeds: Speeds) -> None:
    """One run of theirs."""
    from aced.files.patterns import expand_tars

    tars = "::".join(map(str, expand_tars([args.shards])))
    options = {
        "model": model.stem,
        "train-data": tars,
        "train-num-samples": args.steps * args.batch,
        "dataset-type": "webdataset",
        "batch-size": args.batch,
        "epochs": 1,
        "warmup": 2,
        "lr": LR,
        "beta1": BETAS[0],
        "beta2": BETAS[1],
        "eps": 1e-8,
        "wd": DECAY,
        "grad-clip-norm": CLIP,
        "workers": args.workers,
        "precision": "fp32",
        "device": "cpu",
        "logs": folder,
        "name": "run",
        "log-every-n-steps": WINDOW,
    }
    arguments = [word for key, value in options.items() for word in (f"--{key}", str(value))]
    arguments += ["--siglip"] * (args.loss == "sigmoid")
    printed = child("open-clip", [str(model), *["--augment"] * args.augment, "--", *arguments], args.threads)
    lines = re.findall(r"Data \(t\): ([\d.]+) Batch \(t\): ([\d.]+)", printed)
    # The first line is the first step, the second the first window; a last short window is left out too.
    for waited, seconds in lines[2 : 1 + (args.steps - 1) // WINDOW]:
        speeds.images.append(args.batch / float(seconds))
        speeds.waiting.append(float(waited) / float(seconds))


def against_open_clip(args: argparse.Namespace, console: Console) -> dict[str, object]:
    """Both sides in turn, and ours with the images in memory."""
    content = MODEL | ({"init_logit_bias": -10} if args.loss == "sigmoid" else {})
    speeds = {side: Speeds() for side in SIDES}
    for repeat in range(args.repeats):
        for side, found in speeds.items():
            console.print(f"[dim]{SIDES[side]}, run {repeat + 1} of {args.repeats}", highlight=False)
            with tempfile.TemporaryDirectory() as name:
                # A config's name must not hold "siglip", or open_clip takes SigLIP's tokenizer.
                folder, model = Path(name), Path(name) / "tiny-aced.json"
                model.write_text(json.dumps(content), encoding="utf-8")
                if side == "open-clip":
                    run_open_clip(args, folder, model, found)
                else:
                    run_aced(args, folder, model, found, in_memory=side == "aced-memory")
    medians = {side: statistics.median(found.images) for side, found in speeds.items()}
    turns = {side: found.turns(args.repeats) for side, found in speeds.items()}
    ratios = {
        side: [own / theirs for own, theirs in zip(found, turns["open-clip"], strict=True)]
        for side, found in turns.items()
    }
    table = Table(
        title=f"IID step, {args.loss} loss, batch {args.batch}, {args.threads} threads, {args.workers} workers, "
        f"{args.repeats} runs each in turn" + (", their random crops on" if args.augment else "")
    )
    for column in ("", "images/s", "lowest to highest window", "ratio", "by turn", "waiting for data, %"):
        table.add_column(column, justify="right" if column else "left")
    for side, found in speeds.items():
        table.add_row(
            SIDES[side],
            f"{medians[side]:.0f}",
            f"{min(found.images):.0f} to {max(found.images):.0f}",
            f"{medians[side] / medians['open-clip']:.2f}",
            ", ".join(f"{ratio:.2f}" for ratio in ratios[side]),
            f"{100 * statistics.median(found.waiting):.0f}",
        )
    console.print(table)
    return {
        side: {
            "images_per_second": medians[side],
            "ratio": medians[side] / medians["open-clip"],
            "ratio_by_turn": ratios[side],
            "waiting": statistics.median(found.waiting),
            "windows": [round(value, 1) for value in found.images],
        }
        for side, found in speeds.items()
    }


# --- methods ------------------------------------------------------------------------------------------------------


@dataclass
class Contender:
    """A method with its trainer, its candidates, and what each turn took."""

    trainer: Any
    batches: Any
    milliseconds: list[float] = field(default_factory=list)

    def turn(self, steps: int) -> None:
        """Take so many steps and note the mean time of one."""
        from aced.train.step import train_step

        start = time.perf_counter()
        for _ in range(steps):
            train_step(self.trainer, self.batches)
        self.milliseconds.append(1000 * (time.perf_counter() - start) / steps)


def contenders(args: argparse.Namespace, folder: Path, console: Console) -> dict[str, Contender]:
    """A trainer for each method, as the demo makes them, on caches made here."""
    from aced.lab.demo.rows import REFERENCE, ROWS, STUDENT, Scale, student_config
    from aced.lab.scenes.scene_pool import make_scenes
    from aced.methods import METHODS
    from aced.models import load_tower
    from aced.runtime.progress import Bars
    from aced.train.run.fit import make_trainer
    from aced.train.run.inputs import Inputs, make_cached
    from aced.train.run.loop import batches_of
    from aced.train.run.student import make_student

    # As many as a super-batch of a few steps: a larger pool makes no step slower, only the preparation.
    scale = Scale(pool=args.pool, steps=args.turns * args.steps_per_turn + args.steps_per_turn)
    configs = {
        name: student_config(ROWS[name], 0, scale, folder / name, split="validation", steps=scale.steps)
        for name in METHODS
    }
    with Bars(console) as bars:
        pool = make_scenes("pool", args.pool, 1, bars.counting)
        caches = {
            name: make_cached(load_tower(name, seed=1), pool, folder / "cache", configs["iid"], device, bars)
            for name, device in ((REFERENCE, torch.device("cpu")), (STUDENT, torch.device("cpu")))
        }
    made = {}
    for name, config in configs.items():
        method = METHODS[name]
        provider = caches[config.reference.model]
        inputs = Inputs(
            source=pool,
            tasks=[],
            reference=provider if method.uses_reference else None,
            teachers=[provider] if method.distill else [],
        )
        trainer = make_trainer(config, inputs, make_student(config))
        made[name] = Contender(trainer, batches_of(trainer, pool, config, range(config.train.steps)))
    return made


def methods(args: argparse.Namespace, console: Console) -> dict[str, object]:
    """All methods in turn."""
    from aced.methods import METHODS
    from aced.runs.ledger import Ledger

    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as name:
        made = contenders(args, Path(name), console)
        for contender in made.values():  # the first steps warm up, and count for nothing
            contender.turn(args.steps_per_turn)
            contender.milliseconds.clear()
            contender.trainer.ledger = Ledger()
        for _ in range(args.turns):
            for contender in made.values():
                contender.turn(args.steps_per_turn)
    settings = made["iid"].trainer.settings
    table = Table(
        title=f"One step of each method, the demo's student, batch {settings.batch}, {args.threads} threads, "
        f"{args.turns} turns of {args.steps_per_turn} steps"
    )
    phases = ("load", "score", "select", "train")
    for column in ("", "time, ms", "to IID", "FLOPs to IID", *(f"{phase}, %" for phase in phases)):
        table.add_column(column, justify="right" if column else "left")
    base = made["iid"]
    rows: dict[str, object] = {}
    for name, contender in made.items():
        ledger = contender.trainer.ledger
        spent = sum(ledger.seconds.values())
        pairs = zip(contender.milliseconds, base.milliseconds, strict=True)
        row = {
            "milliseconds": statistics.median(contender.milliseconds),
            "ratio": statistics.median(own / iid for own, iid in pairs),
            "flops_ratio": sum(ledger.flops.values()) / sum(base.trainer.ledger.flops.values()),
            "shares": {phase: ledger.seconds[phase] / spent for phase in phases},
        }
        rows[name] = row
        table.add_row(
            METHODS[name].title,
            f"{row['milliseconds']:.1f}",
            f"{row['ratio']:.2f}",
            f"{row['flops_ratio']:.2f}",
            *(f"{100 * row['shares'][phase]:.0f}" for phase in phases),
        )
    console.print(table)
    return rows


def main() -> None:
    """Parse, measure, print tables and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against-open-clip", action="store_true", help="an IID step of ours and of open_clip_train")
    parser.add_argument("--methods", action="store_true", help="a step of each method")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--quick", action="store_true", help="as little as runs at all")
    group = parser.add_argument_group("against open_clip_train")
    group.add_argument("--shards", default="../shared/data/webmix", help="tars: a folder, a glob or a brace range")
    group.add_argument("--loss", choices=LOSSES, default="sigmoid")
    group.add_argument("--batch", type=int, default=128)
    group.add_argument("--steps", type=int, default=1 + 5 * WINDOW, help=f"of a run; the first {WINDOW + 1} warm up")
    group.add_argument("--repeats", type=int, default=2, help="runs of each side")
    group.add_argument("--workers", type=int, default=1, help="decoding processes; open_clip_train needs one at least")
    group.add_argument("--augment", action="store_true", help="leave open_clip_train's random crops on")
    group = parser.add_argument_group("methods")
    group.add_argument("--turns", type=int, default=12)
    group.add_argument("--steps-per-turn", type=int, default=4)
    group.add_argument("--pool", type=int, default=8000, help="scenes")
    if sys.argv[1:2] == ["--child"]:
        run_child(sys.argv[2:])
        return
    args = parser.parse_args()
    if not (args.against_open_clip or args.methods):
        parser.error("name what to measure: --against-open-clip, --methods, or both")
    if args.quick:
        args.steps, args.repeats, args.turns, args.steps_per_turn, args.pool = 1 + 2 * WINDOW, 1, 2, 1, 1000
    console = Console(width=120)
    result: dict[str, object] = {"benchmark": "step", "threads": args.threads, "torch": torch.__version__}
    if args.against_open_clip:
        shape = {name: getattr(args, name) for name in ("loss", "batch", "steps", "repeats", "workers", "augment")}
        result["against_open_clip"] = shape | against_open_clip(args, console)
    if args.methods:
        result["methods"] = methods(args, console)
    print(json.dumps(result))


def run_child(words: list[str]) -> None:
    """`aced CONFIG`, or `open-clip MODEL [--augment] -- ARGUMENTS`."""
    mode, path, *rest = words
    if mode == "aced":
        child_aced(Path(path))
    else:
        split = rest.index("--")
        child_open_clip(Path(path), "--augment" in rest[:split], rest[split + 1 :])


if __name__ == "__main__":
    main()
