"""The parts of `gpu.py` that go the whole way: `aced train` on tars, with workers, a cached reference and new captions.

No pair comes twice within a run, so that nothing is remembered that a run of weeks would not remember. All figures are
read from the run's metrics.jsonl: the time between lines, and what the ledger counted meanwhile.
"""

from __future__ import annotations

import io
import json
import random
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from gpu_measure import Row, Sizes, attempt, utilisation
from rich.console import Console

from aced.models import load_tower, save_tower

METHODS = ("iid", "softmax-kd", "i-acid", "h-acid", "i-aced", "aced")
SELECTING = 5
"""B / b."""
WARM, LINE = 2, 2
"""Steps before the first line that counts, and from line to line."""
PICTURES, TAR = 64, 2048
"""Different pictures in the pool, since decoding does not mind, and pairs of a tar."""
SYLLABLES = ("ka", "lo", "mi", "ne", "ru", "ta", "so", "vi", "pe", "dan", "el", "or", "sh", "th", "ing", "ly")


def write_pool(folder: Path, pairs: int, side: int) -> None:
    """Tars of JPEG files a little larger than the students' view, each pair with a caption of its own."""
    import numpy as np
    from PIL import Image

    draw, words = np.random.default_rng(0), random.Random(0)
    pictures = []
    for _ in range(PICTURES):
        file = io.BytesIO()
        rough = Image.fromarray(draw.integers(0, 256, (16, 16, 3), dtype=np.uint8))
        rough.resize((side + side // 8, side + side // 4), Image.Resampling.BICUBIC).save(file, "JPEG", quality=85)
        pictures.append(file.getvalue())
    folder.mkdir()
    for first in range(0, pairs, TAR):
        with tarfile.open(folder / f"{first // TAR:05d}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
            for number in range(first, min(pairs, first + TAR)):
                caption = " ".join("".join(words.choices(SYLLABLES, k=words.randint(1, 3))) for _ in range(12))
                for suffix, content in (("jpg", pictures[number % PICTURES]), ("txt", f"{number} {caption}".encode())):
                    member = tarfile.TarInfo(f"{number:08d}.{suffix}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))


@contextmanager
def place_of(sizes: Sizes) -> Iterator[Path]:
    """A folder with the pool and the folder of a reference that has weights."""
    with tempfile.TemporaryDirectory() as folder:
        reference = load_tower(sizes.models[-1], seed=1)
        save_tower(reference, Path(folder, "reference"))
        steps = WARM + LINE * sizes.lines
        pairs = max(SELECTING * sizes.batch * steps, 2 * sizes.large)
        write_pool(Path(folder, "pool"), pairs, reference.view.size)
        yield Path(folder)


def trained(place: Path, model: str, method: str, sizes: Sizes, device: torch.device, **keys: Any) -> Row:
    """What a run of `aced train` gave from its first line that counts to its last; `keys` as section__key."""
    from aced.config import make_config
    from aced.programs.train import train_program

    every = keys.pop("run__log_every", LINE)
    values: dict[str, dict[str, Any]] = {
        "run": {"device": str(device), "log_every": every, "checkpoint_every": 0},
        "data": {"shards": [str(place / "pool")], "index_dir": str(place / "index")},
        "student": {"model": model},
        "reference": {"model": str(place / "reference"), "cache": str(place / "cache")},
        "method": {"name": method},
        "train": {"batch": sizes.batch, "steps": WARM + LINE * sizes.lines, "micro_batch": sizes.micro_batch},
    }
    for name, value in keys.items():
        section, _, key = name.partition("__")
        values.setdefault(section, {})[key] = value
    with tempfile.TemporaryDirectory(dir=place) as out:
        values["run"]["out"] = f"{out}/run"
        config = make_config(values)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        results = train_program(config, Console(quiet=True), resume=False)
        text = Path(out, "run/metrics.jsonl").read_text(encoding="utf-8")
    row = figures([json.loads(line) for line in text.splitlines()], sizes)
    row["precision"] = results["environment"]["precision"]
    if device.type == "cuda":
        row["peak_gb"] = torch.cuda.max_memory_allocated(device) / 1e9
    return row


def figures(lines: list[dict[str, Any]], sizes: Sizes) -> Row:
    """Seconds of a step, images/s, utilisation and shares of the phases between the first and the last line."""
    first, last = lines[0], lines[-1]

    def grown(of: str, name: str) -> float:
        return float(last[of][name] - first[of][name])

    steps, seconds = last["step"] - first["step"], grown("clock", "written")
    spent = {phase: grown("seconds", phase) for phase in last["seconds"]}
    flops = sum(grown("flops", phase) for phase in last["flops"] if phase != "selection")
    row: Row = {
        "seconds": seconds / steps,
        "images_a_second": grown("budgets", "samples_loaded") / seconds,
        "trained_a_second": grown("budgets", "samples_trained") / seconds,
        "tflops": flops / seconds / 1e12,
        "mfu": utilisation(flops, seconds, sizes.peak_tflops),
    }
    row |= {"waiting" if phase == "load" else phase: value / sum(spent.values()) for phase, value in spent.items()}
    return row | {"loss": last["loss"]}


def steps_part(sizes: Sizes, device: torch.device) -> list[Row]:
    """Every method relative to IID by the last model, some by the first; images in memory; and a large IID step."""
    rows: list[Row] = []
    small, large = sizes.models[0], sizes.models[-1]
    cases: list[tuple[str, str, Mapping[str, Any]]] = [(large, name, {}) for name in METHODS]
    cases += [(small, "iid", {}), (small, "h-acid", {})]
    cases += [(large, "h-acid", {"data__in_memory": True}), (large, "iid", {"data__in_memory": True})]
    cases += [(large, "aced", {"scoring__cascade": 0.4, "scoring__early": True})]
    many = {"train__batch": sizes.large, "train__steps": 2, "train__grad_cache": sizes.grad_cache, "run__log_every": 1}
    with place_of(sizes) as place:
        for model, method, keys in cases:
            kind = ", in memory" * ("data__in_memory" in keys) + ", cascade, early" * ("scoring__early" in keys)
            work = partial(trained, place, model, method, sizes, device, **keys)
            row = attempt(rows, f"{model}, {method}{kind}", work)
            iid = next((one for one in rows if one["row"] == f"{model}, iid"), row)
            if "error" not in row and "error" not in iid:
                row["to_iid"] = row["seconds"] / iid["seconds"]
        attempt(rows, f"{large}, iid, grad_cache", partial(trained, place, large, "iid", sizes, device, **many))
    return rows


def compile_part(sizes: Sizes, device: torch.device) -> list[Row]:
    """H-ACID on images in memory in each of the ways that change how the towers run."""
    rows: list[Row] = []
    cases: dict[str, dict[str, Any]] = {
        "bf16": {},
        "bf16, no TF32": {"train__tf32": False},
        "bf16, compiled": {"train__compile": True},
        "bf16, activations anew": {"train__activation_checkpointing": True},
        "fp16": {"train__precision": "fp16"},
        "fp32": {"train__precision": "fp32"},
    }
    with place_of(sizes) as place:
        for case, keys in cases.items():
            own = {"data__in_memory": True, "train__precision": "bf16", **keys}
            row = attempt(rows, case, partial(trained, place, sizes.models[-1], "h-acid", sizes, device, **own))
            if "error" not in row and "error" not in rows[0]:
                row["to_bf16"] = row["seconds"] / rows[0]["seconds"]
    return rows
