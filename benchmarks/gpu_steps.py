"""The parts of `gpu.py` that look at pieces: the processor's work, FSDP2 and DDP on one device, the exchanges."""

from __future__ import annotations

import itertools
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from activations import pairs_of
from gpu_measure import FULL, SMALL, Row, Sizes, attempt, run_command, seconds_of, synchronize, utilisation
from gpu_tars import SELECTING
from torch import Tensor

from aced.config import Config, make_config
from aced.core import selection
from aced.core.embeddings import Embeddings
from aced.core.selection import select
from aced.models import Tower, load_tower
from aced.pool.source import Candidates, Column, Source
from aced.pool.views import View
from aced.runs.ledger import FlopPhase, Ledger
from aced.runtime.devices import clock_of
from aced.train.distributed import World, open_world
from aced.train.replica import Replica, _ddp
from aced.train.run.automatic import device_of
from aced.train.run.fit import make_trainer, optimizer_of
from aced.train.run.inputs import Inputs
from aced.train.sharding import shard
from aced.train.step import Outcome, Trainer, train_step

WIDTH = 768
"""d of the reference."""
PHASES = ("load", "score", "select", "train")


@dataclass(frozen=True)
class Noise(Source):
    """As much of a source as a trainer asks for; candidates come from memory."""

    count: int
    name: str = "noise"
    fingerprint: str = "noise"

    def __len__(self) -> int:
        return self.count

    def read(self, indices: Sequence[int], views: Sequence[View]) -> Candidates:
        """Nothing is read here."""
        raise NotImplementedError


@dataclass
class Table:
    """A cached reference: embeddings in the computer's memory that are looked up and sent to the device."""

    count: int
    device: torch.device
    width: int = WIDTH
    views: tuple[View, ...] = ()
    columns: tuple[Column, ...] = ()
    fingerprint: str = "table"
    architecture: str = ""
    sides: Tensor = field(init=False)

    def __post_init__(self) -> None:
        noise = torch.randn(2, self.count, self.width, generator=torch.Generator().manual_seed(1))
        noise[1] += noise[0]
        self.sides = F.normalize(noise, dim=2)

    def embed(self, candidates: Candidates, ledger: Ledger, phase: FlopPhase) -> Embeddings:
        """Look them up."""
        image, text = self.sides[:, candidates.indices].to(self.device)
        return Embeddings(image, text, 10.0, -10.0)


def config_of(model: str, method: str, batch: int, device: torch.device, sizes: Sizes, **keys: Any) -> Config:
    """A run's config; `keys` as section__key."""
    values: dict[str, dict[str, Any]] = {
        "run": {"device": str(device), "out": "unused"},
        "student": {"model": model},
        "reference": {"model": "ViT-L-14"},
        "method": {"name": method},
        "train": {"batch": batch, "steps": 1000, "precision": "bf16", "micro_batch": sizes.micro_batch},
    }
    for name, value in keys.items():
        section, _, key = name.partition("__")
        values.setdefault(section, {})[key] = value
    return make_config(values)


def trainer_of(config: Config, student: Tower, table: Table | None) -> Trainer:
    """A trainer as `aced train` makes it."""
    inputs = Inputs(Noise(config.super_batch), [], table, [table] if table else [])  # type: ignore[arg-type, list-item]
    return make_trainer(config, inputs, student)


def noise_pairs(tower: Tower, count: int) -> Candidates:
    """The same pairs of noise whenever they are asked for."""
    torch.manual_seed(0)
    return pairs_of(tower, count)


def measured(trainer: Trainer, candidates: Candidates, sizes: Sizes) -> Row:
    """Mean time of steps on the same candidates that nobody waits between, their shares, and the most memory held."""
    device, batches = trainer.student.device, itertools.repeat(candidates)
    begin = time.perf_counter()
    take(trainer, batches)
    first = time.perf_counter() - begin
    take(trainer, batches)
    trainer.ledger = Ledger(clock=clock_of(device))
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    begin = time.perf_counter()
    for _ in range(sizes.steps - 1):
        train_step(trainer, batches)
    outcome = take(trainer, batches)
    seconds = (time.perf_counter() - begin) / sizes.steps
    spent = trainer.ledger.budgets()["seconds"]
    row: Row = {"seconds": seconds, "first_step": first, "pairs_a_second": 0.0}
    row["pairs_a_second"] = len(outcome.rows) / row["seconds"]
    row["mfu"] = utilisation(sum(trainer.ledger.flops.values()) / sizes.steps, row["seconds"], sizes.peak_tflops)
    row |= {phase: trainer.ledger.seconds[phase] / spent for phase in PHASES}
    row["loss"] = float(outcome.parts.loss)
    if device.type == "cuda":
        row["peak_gb"] = torch.cuda.max_memory_allocated(device) / 1e9
    return row


def take(trainer: Trainer, batches: Iterator[Candidates]) -> Outcome:
    """One step, done when it comes back; a gradient of nothing or of NaN is no step."""
    outcome = train_step(trainer, batches)
    synchronize(trainer.student.device)
    if not (math.isfinite(float(outcome.parts.loss)) and math.isfinite(float(outcome.grad_norm))):
        raise ValueError(f"loss {outcome.parts.loss}, gradient {outcome.grad_norm}")
    return outcome


# --- parts ------------------------------------------------------------------------------------------------------


def host_part(sizes: Sizes, device: torch.device) -> list[Row]:
    """What the processor does for a super-batch of the steps, beside the device."""
    rows: list[Row] = []
    tower = load_tower(sizes.models[-1], device=device, seed=0)
    candidates = noise_pairs(tower, SELECTING * sizes.batch)
    images = candidates.images[tower.view]
    gigabytes = images.numel() / 1e9

    def tokenised() -> Row:
        start = time.perf_counter()
        tower.tokens(candidates.texts)  # the first time: they are remembered
        seconds = time.perf_counter() - start
        again = seconds_of(lambda: tower.tokens(candidates.texts), device, sizes.runs)
        return {"seconds": seconds, "pairs_a_second": len(candidates) / seconds, "again": again}

    def copied() -> Row:
        some = torch.randperm(len(candidates))[: sizes.batch]
        seconds = seconds_of(lambda: candidates[some], torch.device("cpu"), sizes.runs)
        return {"seconds": seconds, "gb_a_second": gigabytes / SELECTING / seconds}

    def sent(pinned: bool) -> Row:
        held = images.pin_memory() if pinned and device.type == "cuda" else images
        seconds = seconds_of(lambda: held.to(device, non_blocking=True), device, sizes.runs)
        return {"seconds": seconds, "gb_a_second": gigabytes / seconds}

    attempt(rows, f"tokenise {len(candidates):,} captions", tokenised)
    attempt(rows, f"copy {sizes.batch:,} of {len(candidates):,} images", copied)
    attempt(rows, f"send {len(candidates):,} images", lambda: sent(False))
    attempt(rows, "the same, pinned", lambda: sent(True))
    return rows


class Alone(Replica):
    """A student that one process wraps as several would: FSDP2 or DDP on one device."""

    def __init__(self, student: Tower, objective: torch.nn.Module, *, parallel: str) -> None:
        super().__init__(student, objective, World(), precision="bf16")
        if parallel == "fsdp":
            self._module = self._sharded = shard(self._module, student.device, 1)
        elif parallel == "ddp":
            self._module = _ddp(self._module)


def wrapped_row(parallel: str, sizes: Sizes, device: torch.device) -> Row:
    """IID steps of a student so wrapped; process groups must be there."""
    student = load_tower(sizes.models[-1], device=device, seed=0)
    config = config_of(sizes.models[-1], "iid", sizes.batch, device, sizes)
    trainer = trainer_of(config, student, None)
    trainer.replica = Alone(student, trainer.objective, parallel=parallel)
    trainer.optimizer = optimizer_of([student, trainer.objective], config)
    return measured(trainer, noise_pairs(student, sizes.batch), sizes)


def fsdp_part(sizes: Sizes, device: torch.device) -> list[Row]:
    """IID steps with FSDP2 on one device against the plain ones; the loss after as many steps must agree."""
    import torch.distributed as dist

    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    if device.type == "cuda":
        torch.cuda.set_device(device)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        dist.init_process_group(backend, init_method=f"file://{folder}/meeting", rank=0, world_size=1)
        for parallel in ("plain", "fsdp"):
            attempt(rows, parallel, lambda parallel=parallel: wrapped_row(parallel, sizes, device))
        dist.destroy_process_group()
    plain, cut = rows
    if "error" not in plain and "error" not in cut:
        cut["to_plain"] = cut["seconds"] / plain["seconds"]
        _agree(cut, plain)
    return rows


def _agree(row: Row, plain: Row) -> None:
    if abs(row["loss"] - plain["loss"]) > 0.01 * abs(plain["loss"]):
        row["error"] = f"loss {row['loss']:.5g} after the steps where the plain one has {plain['loss']:.5g}"


def nccl_part(sizes: Sizes, device: torch.device) -> list[Row]:
    """torchrun with one process: the exchanges of a job, DDP, and the program itself."""
    rows: list[Row] = []
    small = ["--small"] * (sizes is SMALL)
    name = "cuda" if device.type == "cuda" else "cpu"

    def exchanged() -> Row:
        ended = torchrun([__file__, name, *small])
        if ended.returncode:
            raise ChildProcessError(_last_line(ended))
        rows.extend(json.loads(ended.stdout.splitlines()[-1]))
        return {}

    def program() -> Row:
        with tempfile.TemporaryDirectory() as folder:
            words = ["scenes", "method.name=iid", f"data.scenes_size={sizes.scenes}", "train.steps=3"]
            words += [f"run.device={name}", "train.precision=bf16", f"run.out={folder}/run"]
            start = time.perf_counter()
            ended = torchrun(["-m", "aced", "train", *words])
            if ended.returncode:
                raise ChildProcessError(_last_line(ended))
            return {"seconds": time.perf_counter() - start}

    attempt(rows, "torchrun", exchanged)
    attempt(rows, "torchrun -m aced train", program)
    return rows


def torchrun(words: list[str]) -> subprocess.CompletedProcess[str]:
    """Run a script or a module by torchrun in one process."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1", *words]
    return run_command(command, 150, quiet=True)


def _last_line(ended: subprocess.CompletedProcess[str]) -> str:
    lines = [line for line in ended.stderr.splitlines() if "Error" in line] or ended.stderr.splitlines() or [""]
    return f"status {ended.returncode}: {lines[0].strip()[:300]}"


# --- in the process that torchrun starts -------------------------------------------------------------------------


def exchanges(world: World, device: torch.device) -> Row:
    """What `World` promises, with tensors on the device (NCCL) and on the processor (gloo)."""
    for home in (device, torch.device("cpu")):
        values = torch.arange(6.0, device=home).reshape(3, 2)
        gathered, total, mean = world.gather(values, [3]), world.sum(values), values.clone()
        world.average([mean])
        if not (torch.equal(gathered, values) and torch.equal(total, values) and torch.equal(mean, values)):
            raise ValueError(f"gather, sum or average changed values on {home}")
        if not torch.equal(world.exchange(values, [3], [3]), values):
            raise ValueError(f"exchange changed values on {home}")
        if not torch.equal(world.sum_rows(values, [3]), values):
            raise ValueError(f"sum_rows changed values on {home}")
    if world.counts(7) != [7]:
        raise ValueError("counts came back changed")
    world.meet()
    gathered_ms = 1000 * seconds_of(lambda: world.gather(torch.ones(2048, 1536, device=device), [2048]), device, 5)
    return {"gather_2048_ms": gathered_ms}


def drawn_over_ranks(world: World, device: torch.device, sizes: Sizes) -> Row:
    """The draw over ranks against the one of a single process, in bfloat16; time of both."""
    count, size = SELECTING * sizes.batch, sizes.batch
    table = Table(count, device)
    pair = [Embeddings(*table.sides.to(device, torch.bfloat16), 10.0, -10.0)] * 2
    pair[1] = Embeddings(pair[0].text, pair[0].image, 7.0, -5.0)

    def noise() -> torch.Generator:
        return torch.Generator().manual_seed(0)

    ranks: Any = world

    def over_ranks() -> selection.Selection:
        return selection.draw(pair[0], pair[1], size, ranks, [count], generator=noise())

    many = seconds_of(over_ranks, device, 3)
    one = seconds_of(lambda: select(*pair, size, generator=noise()), device, 3)
    chosen = over_ranks().indices.tolist()
    same = len(set(chosen) & set(select(*pair, size, generator=noise()).indices.tolist())) / size
    if same < 0.99:
        raise ValueError(f"over ranks only {100 * same:.1f} % of the chosen are those of one process")
    return {"seconds": many, "one_process": one, "same": same}


def child(name: str, sizes: Sizes) -> list[Row]:
    """The rows of the process that torchrun started."""
    config = config_of(sizes.models[-1], "iid", sizes.batch, torch.device(name), sizes)
    device, world = device_of(config), open_world(60)
    world.connect(device)
    rows: list[Row] = []
    attempt(rows, f"exchanges on {device}", lambda: exchanges(world, device))
    attempt(rows, "draw over ranks", lambda: drawn_over_ranks(world, device, sizes))
    plain = attempt(rows, "plain step", lambda: wrapped_row("plain", sizes, device))
    ddp = attempt(rows, "DDP step", lambda: wrapped_row("ddp", sizes, device))
    if "error" not in plain and "error" not in ddp:
        ddp["to_plain"] = ddp["seconds"] / plain["seconds"]
        _agree(ddp, plain)
    world.close()
    return rows


if __name__ == "__main__":
    print(json.dumps(child(sys.argv[1], SMALL if "--small" in sys.argv else FULL)))
