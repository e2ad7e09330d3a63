"""Whether two checkouts train alike, bit for bit: 20 steps of every method and of every way to score cheaply.

    python benchmarks/same.py OTHER                     # this checkout against another one, on this machine
    python benchmarks/same.py --record values.json      # keep this checkout's values ...
    python benchmarks/same.py --against values.json     # ... and compare with them later, on the same machine
    python benchmarks/same.py OTHER --only aced,early   # runs whose name has one of these words
    python benchmarks/same.py OTHER --but learnability  # values whose name has one of these words may differ

Each run is `aced train` on tars that this script writes, on one thread, with a trained-looking reference that both
checkouts read from the same files. Compared are, for each step, the candidates, the rows that were trained on, the
losses, the gradient's norm, the ledger (samples, FLOPs) and the faults; and at the end every tensor of the model and of
the checkpoint. Wall seconds are not. The exit status is 1 where anything differs, and the table names the first thing.

Values of another processor or another torch differ in their last bits: compare on one machine only.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

STEPS, SAMPLES, TARS = 20, 640, 4
"""Super-batches of 80 are eight to an epoch, so that samples come again within a run."""
CACHED = ["reference.cache=cache"]
CHEAP = {
    "cascade": [*CACHED, "scoring.cascade=0.5"],
    "cascade, early": [*CACHED, "scoring.cascade=0.5", "scoring.early=true"],
    "cascade, early, reuse": [*CACHED, "scoring.cascade=0.5", "scoring.early=true", "scoring.reuse=8"],
    "predict": [
        *(*CACHED, "scoring.cascade=0.5", "scoring.early=true", "scoring.reuse=8"),
        *("scoring.unseen=predict", "scoring.refresh=0.3"),
    ],
    "reuse": [*CACHED, "scoring.reuse=8"],
    "resolution": [*CACHED, "scoring.resolution=16"],
    "resolution, coarse_share": [*CACHED, "scoring.resolution=16", "scoring.coarse_share=0.5"],
    "cascade, early, reuse, resolution": [
        *(*CACHED, "scoring.cascade=0.5", "scoring.early=true", "scoring.reuse=8"),
        *("scoring.resolution=16", "scoring.coarse_share=0.5"),
    ],
}
OTHERS = {
    "aced, live": ["method.name=aced"],
    "aced, softmax": ["method.name=aced", "method.loss=softmax", *CACHED],
    "aced, gradients in parts": ["method.name=aced", "train.grad_cache=5", *CACHED],
    "aced, bf16": ["method.name=aced", "train.precision=bf16", "reference.cache=cache-bf16"],
    "aced, activations anew": ["method.name=aced", "train.activation_checkpointing=true", *CACHED],
    "aced, more than 400 candidates": ["method.name=aced", "train.batch=96", *CACHED],
    "i-aced, early": ["method.name=i-aced", "scoring.early=true", *CACHED],
    "d-aced, early": ["method.name=d-aced", "scoring.early=true", *CACHED],
    "aced, two workers": ["method.name=aced", "data.workers=2", *CACHED],
    "aced, views": ["method.name=aced", "data.views=3", "reference.cache=cache-views"],
    "aced, int8": ["method.name=aced", "reference.cache_dtype=int8", "reference.cache=cache-int8"],
    "iid, weights": ["method.name=iid", "data.weights=[1, 3]", 'data.shards=["pool/0.tar", "pool/1.tar"]'],
}
COMMON = [
    *("run.threads=1", "run.log_every=1", "run.checkpoint_every=0", "data.shards=pool", "student.model=aced-demo-s"),
    *(f"train.steps={STEPS}", "train.batch=16", "method.chunks=4", "data.max_bad_share=0.2"),
]


def runs() -> dict[str, list[str]]:
    """The command-line words of every run, by its name."""
    from aced.methods import METHODS

    named = {}
    for name, method in METHODS.items():
        reference = method.needs_large or method.needs_peer
        model = [f"reference.model={'peer' if method.needs_peer else 'large'}"] if reference else []
        named[name] = [f"method.name={name}", *model, *(CACHED if reference else [])]
        if method.concepts:
            named[name].append("data.concept_field=words")
    named |= {f"aced, {name}": ["method.name=aced", "reference.model=large", *words] for name, words in CHEAP.items()}
    return named | {name: [*words, "reference.model=large"] for name, words in OTHERS.items()}


def write_inputs(place: Path) -> None:
    """Tars of pictures with captions, one of them unreadable, and two models with random weights."""
    import numpy as np
    from PIL import Image

    from aced.models import load_tower, save_tower

    draw = np.random.default_rng(0)
    words = [
        "a",
        "red",
        "green",
        "blue",
        "small",
        "large",
        "dog",
        "cat",
        "tree",
        "house",
        "car",
        "on",
        "under",
        "beside",
        "the",
        "and",
        "sky",
        "grass",
    ]
    (place / "pool").mkdir()
    for number in range(TARS):
        with tarfile.open(place / "pool" / f"{number}.tar", "w") as tar:
            for sample in range(SAMPLES // TARS):
                picture = io.BytesIO()
                side = int(draw.integers(30, 90))
                pixels = draw.integers(0, 256, (4, 5, 3), dtype=np.uint8)
                Image.fromarray(pixels).resize((side, side + 9), Image.Resampling.BICUBIC).save(picture, "JPEG")
                content = b"no picture" if (number, sample) == (1, 7) else picture.getvalue()
                caption = " ".join(draw.choice(words, int(draw.integers(3, 12))))
                facts = json.dumps({"words": caption.split()[:5]}).encode()
                for suffix, data in (("jpg", content), ("json", facts), ("txt", caption.encode())):
                    member = tarfile.TarInfo(f"{sample:05d}.{suffix}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
    for name, model in (("large", "aced-demo-m"), ("peer", "aced-demo-s")):
        save_tower(load_tower(model, seed=7), place / name)


def values(words: list[str], out: Path) -> dict[str, Any]:
    """What a run of this checkout came to, in the working directory."""
    import torch
    from rich.console import Console
    from safetensors.torch import load_file

    import aced.train.run.loop as loop
    from aced.config import load_config
    from aced.programs.train import train_program

    steps: list[list[list[int]]] = []
    take = loop.train_step

    def noting(*arguments: Any) -> Any:
        outcome = take(*arguments)
        steps.append([outcome.candidates.tolist(), outcome.candidates[outcome.rows].tolist()])
        return outcome

    loop.train_step = noting
    try:
        config = load_config("scenes", [*COMMON, *words, f"run.out={out}"])
        train_program(config, Console(quiet=True), resume=False)
    finally:
        loop.train_step = take
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    kept = ("loss", "contrastive", "kd", "lr", "scale", "bias", "grad_norm", "learnability")
    kept = (*kept, "flops", "cached_flops", "faults", "samples")
    found: dict[str, Any] = {}
    for (candidates, chosen), line in zip(steps, lines, strict=True):
        at = f"step {line['step']:2d}: "
        found |= {at + "candidates": candidates, at + "rows": chosen} | {at + key: line[key] for key in kept}
        found[at + "samples trained"] = line["budgets"]["samples_trained"]
    checkpoint = out / "checkpoints" / f"step-{STEPS:08d}"
    for file in (out / "model/model.safetensors", checkpoint / "train.safetensors"):
        for name, tensor in sorted(load_file(file).items()):
            data = tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes()
            found[f"{file.parent.name}: {name}"] = hashlib.sha256(data).hexdigest()[:16]
    return found


def child(place: Path, out: Path, only: list[str]) -> None:
    """All runs of the checkout that is imported, in a folder with the inputs; their values as JSON into `out`."""
    os.chdir(place)
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for number, (name, words) in enumerate(wanted(runs(), only).items()):
            print(f"  {name}", file=sys.stderr, flush=True)
            found[name] = values(words, Path(folder) / str(number))
    out.write_text(json.dumps(found), encoding="utf-8")


def wanted(names: dict[str, Any], only: list[str]) -> dict[str, Any]:
    """The entries whose name has one of the words; all of them without words."""
    return {name: value for name, value in names.items() if not only or any(word in name for word in only)}


def recorded(checkout: Path, only: list[str], maker: Path) -> dict[str, Any]:
    """The values of a checkout, in a process and with caches of its own, on inputs that `maker` writes."""
    print(f"{checkout}:", file=sys.stderr)
    environment = os.environ | {"PYTHONPATH": str(checkout / "src"), "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as folder:
        ours = os.environ | {"PYTHONPATH": str(maker / "src")}
        script = [sys.executable, str(Path(__file__).resolve())]
        subprocess.run([*script, "--inputs", folder], check=True, env=ours)
        words = ["--child", folder, "--record", f"{folder}/values.json", "--only", ",".join(only)]
        subprocess.run([*script, *words], check=True, env=environment)
        return dict(json.loads(Path(folder, "values.json").read_text(encoding="utf-8")))


def compare(before: dict[str, Any], now: dict[str, Any], but: list[str]) -> bool:
    """Print a row for each run; whether all are equal, apart from values whose name has one of the words `but`."""
    equal = True
    for name in [*before, *(name for name in now if name not in before)]:
        if name not in before or name not in now:
            print(f"{name:38} only in {'this checkout' if name in now else 'the other one'}")
            continue
        old, new = before[name], now[name]
        keys = [k for k in [*old, *(k for k in new if k not in old)] if not any(word in k for word in but)]
        differs = [key for key in keys if old.get(key) != new.get(key)]
        equal &= not differs
        first = f"{differs[0]}: {str(old.get(differs[0]))[:60]} -> {str(new.get(differs[0]))[:60]}" if differs else ""
        print(f"{name:38} {'equal' if not differs else f'{len(differs)} of {len(old)} differ, first {first}'}")
    return equal


def main() -> None:
    """Parse, run, compare."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("other", nargs="?", type=Path, help="another checkout")
    parser.add_argument("--record", type=Path, help="write this checkout's values here")
    parser.add_argument("--against", type=Path, help="values that --record wrote")
    parser.add_argument("--only", default="", help="words, one of which a run's name must have")
    parser.add_argument("--but", default="", help="words; values whose name has one of them are not compared")
    parser.add_argument("--inputs", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    only, but = ([word for word in words.split(",") if word] for words in (given.only, given.but))
    if given.inputs:
        write_inputs(given.inputs)
        return
    if given.child:
        child(given.child, given.record, only)
        return
    if not (given.other or given.against or given.record):
        parser.error("name another checkout, or --record or --against a file")
    this = Path(__file__).resolve().parents[1]
    other = given.other.resolve() if given.other else this
    here = recorded(this, only, other)  # the other one's inputs: it may be older, and not read ours
    if given.record:
        given.record.write_text(json.dumps(here), encoding="utf-8")
        print(f"{len(here)} runs recorded in {given.record}")
    equal = True
    if given.against:
        equal = compare(wanted(json.loads(given.against.read_text(encoding="utf-8")), only), here, but)
    if given.other:
        equal &= compare(recorded(other, only, other), here, but)
    sys.exit(0 if equal else 1)


if __name__ == "__main__":
    main()
