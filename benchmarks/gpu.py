"""All that is to be known of a GPU, in one run: selection, whole runs on tars, losses, compilation, FSDP2 and NCCL.

    python benchmarks/gpu.py                          # everything; meant for one GPU with 80 GB, under ten minutes
    python benchmarks/gpu.py --parts selection steps  # some of it
    python benchmarks/gpu.py --small                  # small sizes, to see on a CPU that it runs
    python benchmarks/gpu.py --peak-tflops 989        # of a device whose peak in bf16 is not in the script's table

Each part runs in a process of its own and has a share of `--minutes`: no row begins when that is used up. Each row may
fail alone (out of memory, say): it then holds the error, the others go on, and the exit status is 1. Time is by the
device's events and the median of several runs after a warm-up; memory is what the allocator held at most, so without
what CUDA itself takes.

- `selection`: 163,840 to 32,768 at d = 768 in bfloat16, float32, float32 with TensorFloat-32 allowed, mixed as a run
  with `train.precision=bf16` has them, and in bfloat16 with the losses' kernel compiled into one; with the share of the
  draw that the float32 one has too.
- `losses`: ours against open_clip's or whole matrices, forward and backward.
- `host`: what the processor does for a super-batch: tokenising, copying rows, sending images.
- `steps`: `aced train` on tars with workers, a cached reference and captions that are new at every step: each method
  relative to IID, with images/s, model FLOPs utilisation (the ledger's FLOPs but for selection, by the device's peak in
  bf16), shares of waiting for data, scoring, selecting and training, and peak memory; the same with images in memory;
  and one IID step of b = 32,768 with gradient caching.
- `compile`: H-ACID on images in memory without TF32, compiled by inductor, with activations computed anew, in float16
  and in float32.
- `fsdp`: the step with FSDP2 on one device against the plain one.
- `nccl`: torchrun with one process: every exchange, the draw over ranks, DDP, and `aced train`.

The line below the tables puts selection in proportion: its share of an H-ACID step of that size by the last model.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import losses as loss_benchmark
import torch
from gpu_measure import FULL, SMALL, Row, Sizes, attempt, end_by, extra_mib, peak_of, run_command, seconds_of
from gpu_steps import fsdp_part, host_part, nccl_part
from gpu_tars import compile_part, steps_part
from rich.console import Console
from rich.table import Table
from selection import embeddings

from aced.core import selection
from aced.core.embeddings import Embeddings
from aced.runs.ledger import selection_flops
from aced.runtime.devices import find_device

Part = Callable[[Sizes, torch.device], list[Row]]

GRACE = 60
"""Seconds that a part may take beyond its share, for the row that it is at."""


def cast(e: Embeddings, dtype: torch.dtype) -> Embeddings:
    """The same in another type."""
    return Embeddings(e.image.to(dtype), e.text.to(dtype), e.scale, e.bias)


def selection_part(sizes: Sizes, device: torch.device) -> list[Row]:
    """The joint draw by learnability in several types."""
    wide = [embeddings(sizes.candidates, sizes.width, seed).to(device) for seed in (0, 1)]
    narrow = [cast(e, torch.bfloat16) for e in wide]
    flops = selection_flops(sizes.candidates, sizes.chosen, 16, [sizes.width] * 2)
    eager = selection._sum_of_losses
    rows: list[Row] = []
    truth: set[int] = set()

    def measured(student: Embeddings, reference: Embeddings, precision: str, compiled: bool) -> Row:
        def draw() -> selection.Selection:
            noise = torch.Generator().manual_seed(0)
            return selection.select(student, reference, sizes.chosen, generator=noise)

        torch.set_float32_matmul_precision(precision)
        selection._sum_of_losses = torch.compile(eager, dynamic=True) if compiled else eager
        try:
            chosen = set(draw().indices.tolist())
            seconds, extra = seconds_of(draw, device, sizes.runs), extra_mib(draw, device)
        finally:
            selection._sum_of_losses = eager
            torch.set_float32_matmul_precision("highest")
        if not truth:
            truth.update(chosen)
        same = len(chosen & truth) / len(truth)
        return {"seconds": seconds, "extra_mib": extra, "tflops": flops / seconds / 1e12, "same_as_fp32": same}

    for name, student, reference, precision, compiled in (
        ("fp32", wide[0], wide[1], "highest", False),
        ("fp32, TF32 allowed", wide[0], wide[1], "high", False),
        ("bf16", narrow[0], narrow[1], "highest", False),
        ("student bf16, reference fp32", narrow[0], wide[1], "highest", False),
        ("bf16, losses compiled", narrow[0], narrow[1], "highest", True),
    ):
        attempt(rows, name, lambda case=(student, reference, precision, compiled): measured(*case))
    return rows


def losses_part(sizes: Sizes, device: torch.device) -> list[Row]:
    """Ours against theirs."""
    rows: list[Row] = []

    def measured(count: int, name: str, side: str) -> Row:
        student, teacher = loss_benchmark.inputs(count, sizes.loss_width, device)
        loss = loss_benchmark.SIDES[name][side]

        def work() -> object:
            return loss_benchmark.pass_through(loss, student, teacher)

        return {"seconds": seconds_of(work, device, sizes.runs), "extra_mib": extra_mib(work, device)}

    for count in sizes.losses:
        for name in loss_benchmark.SIDES:
            ours = attempt(rows, f"{name}, n = {count:,}", lambda n=count, k=name: measured(n, k, "ours"))
            peer = loss_benchmark.PEERS.get(name, "whole matrices")
            theirs = attempt(rows, f"{name}, n = {count:,}, {peer}", lambda n=count, k=name: measured(n, k, "theirs"))
            if "error" not in ours and "error" not in theirs:
                ours["time_ratio"] = ours["seconds"] / theirs["seconds"]
                ours["memory_ratio"] = ours["extra_mib"] / theirs["extra_mib"] if theirs["extra_mib"] else None
    return rows


PARTS: dict[str, tuple[Part, float]] = {
    "selection": (selection_part, 0.10),
    "steps": (steps_part, 0.40),
    "compile": (compile_part, 0.15),
    "losses": (losses_part, 0.10),
    "host": (host_part, 0.03),
    "fsdp": (fsdp_part, 0.05),
    "nccl": (nccl_part, 0.10),
}
"""What there is, the most important first, and its share of the time."""


def run_part(name: str, arguments: list[str], seconds: float, left: float) -> list[Row]:
    """The rows of one part, from a process of its own; and one with an error where it did not end well.

    Args:
        name: the part.
        arguments: of this script.
        seconds: after which it shall begin no further row.
        left: seconds after which it is killed.
    """
    if left < 10:
        return [{"row": name, "error": "left out: no time was left"}]
    with tempfile.TemporaryDirectory() as folder:
        kept = Path(folder, "rows.json")
        command = [sys.executable, __file__, "--child", name, f"--seconds={seconds:.0f}", f"--rows={kept}", *arguments]
        error = ""
        try:
            if status := run_command(command, left, quiet=False).returncode:
                error = f"ended with status {status}, see above"
        except TimeoutError as late:
            error = str(late)
        rows: list[Row] = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else []
    return [*rows, {"row": name, "error": error}] if error else rows


def table_of(name: str, rows: list[Row], seconds: float) -> Table:
    """Whatever figures the rows have, a column each."""
    table = Table(title=f"{name} ({seconds:.0f} s)")
    columns = list(dict.fromkeys(key for row in rows for key in row))
    for column in columns:
        table.add_column(column.replace("_", " "), justify="left" if column in ("row", "error") else "right")
    for row in rows:
        table.add_row(*(_cell(row.get(column)) for column in columns))
    return table


def _cell(value: object) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def share_of_step(results: dict[str, list[Row]], sizes: Sizes) -> dict[str, float]:
    """Each selection's share of an H-ACID step: scoring and training as the steps took them, for each pair."""
    steps = {row["row"]: row for row in results.get("steps", []) if "error" not in row}
    chosen = steps.get(f"{sizes.models[-1]}, h-acid, in memory")
    if chosen is None:
        return {}
    score = chosen["seconds"] * chosen["score"] / (5 * sizes.batch) * sizes.candidates
    train = chosen["seconds"] * chosen["train"] / sizes.batch * sizes.chosen
    found = [row for row in results.get("selection", []) if "error" not in row]
    return {row["row"]: row["seconds"] / (row["seconds"] + score + train) for row in found}


def main() -> None:
    """Run the parts, print their tables, write one JSON file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS), help="which ones")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda")
    parser.add_argument("--small", action="store_true", help="small sizes")
    parser.add_argument("--minutes", type=float, default=9.0, help="for all of it")
    parser.add_argument("--peak-tflops", type=float, help="of the device in bf16, where its name does not tell")
    parser.add_argument("--seconds", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--rows", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=Path("runs/gpu.json"), help="the JSON file")
    parser.add_argument("--child", choices=list(PARTS), help=argparse.SUPPRESS)
    args = parser.parse_args()
    # So that what was started ends with this process: the parts are in sessions of their own.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sizes, device = SMALL if args.small else FULL, find_device(args.device, f"--device {args.device}")
    sizes = replace(sizes, peak_tflops=args.peak_tflops or peak_of(device))
    if args.child:
        end_by(args.seconds, args.rows)
        args.rows.write_text(json.dumps(PARTS[args.child][0](sizes, device)), encoding="utf-8")
        return

    from aced.runs.environment import environment

    console, results = Console(width=150), {}
    whole, end = sum(PARTS[name][1] for name in args.parts), time.perf_counter() + 60 * args.minutes
    words = [f"--device={device}", *["--small"] * args.small]
    words += [f"--peak-tflops={args.peak_tflops}"] if args.peak_tflops else []
    for name in args.parts:
        start = time.perf_counter()
        seconds = 60 * args.minutes * PARTS[name][1] / whole
        results[name] = run_part(name, words, seconds, min(seconds + GRACE, end - start))
        console.print(table_of(name, results[name], time.perf_counter() - start))
    shares = share_of_step(results, sizes)
    if shares:
        told = ", ".join(f"{name} {100 * share:.1f} %" for name, share in shares.items())
        console.print(f"Selection as a share of an H-ACID step of its size by {sizes.models[-1]}: {told}")
    facts = {"benchmark": "gpu", "small": args.small, "environment": environment(device), "share_of_step": shares}
    facts["peak_tflops"] = sizes.peak_tflops
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(facts | {"parts": results}, indent=1) + "\n", encoding="utf-8")
    failed = [row["row"] for rows in results.values() for row in rows if "error" in row]
    console.print(f"Written to {args.out}." + (f" Failed: {'; '.join(failed)}" if failed else ""), highlight=False)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
