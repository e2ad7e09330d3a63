"""Joint selection on the CPU: streaming (`aced.select`) against the dense forms.

    python benchmarks/selection.py                   # B = 8192, d = 512, f = 0.8, n = 16
    python benchmarks/selection.py --dense-chunks 4  # time four of the dense form's chunks and scale
    python benchmarks/selection.py --table           # streaming alone, B = 1,024 to 65,536
    python benchmarks/selection.py --quick           # a small size, to see that it runs

Three ways to the same conditional scores g_i(K) of the sigmoid loss and learnability:

- *streaming*: `aced.select`.
- *dense, every chunk*: the form of the public re-implementations of JEST: for each chunk and each model three
  B x B products of the embeddings (the pairs' own logits; every image with all texts; every text with all images),
  the losses of all pairs, and a sum over the chosen ones by a mask: 6 n B^2 d multiply-adds. The masked sum is a
  matrix-vector product here, which is kinder to this form than the published mask of B x B.
- *dense, once*: the form of the JEST paper's pseudo-code: the B x B matrix of pair scores is made once, and each
  chunk takes masked sums over it: 2 B^2 d multiply-adds and 2 n passes over the matrix.

Each way is timed in one process of its own and its memory measured in another, all with the same number of
threads. A process makes the embeddings in place and runs a small selection first, so that libraries and thread
pools are there.

- *Time*: the median of five runs of streaming (one above B = 8192), one run of a dense form. Chunks of the dense
  form cost the same, so that a part may be timed and scaled.
- *Peak extra memory*: by how much the resident size rises at most while one selection (of the dense form: one
  chunk) runs: VmHWM, reset before, and not `ru_maxrss`, which a child inherits from its parent. So workspaces count
  too. glibc is told to give freed memory back at once, so that the figure is what the work needs and not what the
  allocator keeps.
- *Difference*: the largest absolute one of all the conditional scores g_i(K) that streaming drew by; the dense
  forms are given streaming's chosen sets.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor

from aced.core.embeddings import Embeddings
from aced.core.selection import Selection, select

WAYS = ("streaming", "dense", "dense-once")
TABLE = [1 << k for k in range(10, 17)]
FREE_AT_ONCE = {"MALLOC_MMAP_THRESHOLD_": "262144", "MALLOC_TRIM_THRESHOLD_": "262144"}


# --- the three ways ---------------------------------------------------------------------------------------------


def streaming(student: Embeddings, reference: Embeddings, size: int, chunks: int) -> Selection:
    """Ours."""
    return select(student, reference, size, chunks=chunks, generator=torch.Generator().manual_seed(0))


def dense(student: Embeddings, reference: Embeddings, masks: list[Tensor]) -> Iterator[Tensor]:
    """g_i(K) for each mask `[B]` of chosen ones, everything computed anew for each."""
    for mask in masks:
        total = torch.zeros_like(mask)
        for sign, e in ((1, student), (-1, reference)):
            pairs = e.scale * (e.image @ e.text.T) + e.bias
            all_texts = e.scale * (e.image @ e.text.T) + e.bias
            all_images = e.scale * (e.text @ e.image.T) + e.bias
            own = F.softplus(-pairs.diagonal())
            total += sign * (own + F.softplus(all_texts) @ mask + F.softplus(all_images) @ mask)
        yield total


def dense_once(student: Embeddings, reference: Embeddings, masks: list[Tensor]) -> Iterator[Tensor]:
    """g_i(K) for each mask, from one matrix of pair scores."""
    own, scores = torch.zeros_like(masks[0]), None
    for sign, e in ((1, student), (-1, reference)):
        logits = e.scale * (e.image @ e.text.T) + e.bias
        own += sign * F.softplus(-logits.diagonal())
        losses = F.softplus(logits)
        scores = losses if scores is None else scores - losses
    for mask in masks:
        yield own + scores @ mask + scores.T @ mask


# --- measuring --------------------------------------------------------------------------------------------------


def embeddings(count: int, width: int, seed: int) -> Embeddings:
    """Random unit vectors, made in place."""
    generator = torch.Generator().manual_seed(seed)
    sides = []
    for _ in range(2):
        values = torch.empty(count, width).normal_(generator=generator)
        sides.append(values.div_(values.norm(dim=1, keepdim=True)))
    # Texts that agree with their images in part, so that own losses differ.
    sides[1].add_(sides[0], alpha=0.5)
    sides[1].div_(sides[1].norm(dim=1, keepdim=True))
    return Embeddings(sides[0], sides[1], scale=10.0, bias=-10.0)


def forget_peak() -> float:
    """Start a new measurement of the largest resident size; returns the size now, in MiB."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    return peak()


def peak() -> float:
    """The largest resident size since `forget_peak` (elsewhere than on Linux: of the process), in MiB."""
    status = Path("/proc/self/status")
    if status.exists():
        return int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text(encoding="utf-8"))[1]) / 1024
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest / (1 << 20 if sys.platform == "darwin" else 1 << 10)


def masks_of(selection: Selection, count: int, numbers: list[int]) -> list[Tensor]:
    """What had been chosen before each of the chunks."""
    masks = []
    for number in numbers:
        mask = torch.zeros(count)
        mask[selection.indices[selection.chunk < number]] = 1
        masks.append(mask)
    return masks


def child(args: argparse.Namespace) -> dict[str, float]:
    """One way at one size, in this process: its time, or its peak extra memory."""
    torch.set_num_threads(args.threads)
    size = round(args.B * (1 - args.f))
    student, reference = embeddings(args.B, args.d, 0), embeddings(args.B, args.d, 1)
    form = {"dense": dense, "dense-once": dense_once}.get(args.child)
    few = slice(0, min(args.B, 512))
    ours = streaming(student[few], reference[few], len(student[few]) // 5, 4)
    if form is not None:
        list(form(student[few], reference[few], masks_of(ours, len(student[few]), [1])))
        ours = streaming(student, reference, size, args.n)

    if args.measure == "memory":
        before = forget_peak()
        if form is None:
            streaming(student, reference, size, args.n)
        else:
            list(form(student, reference, masks_of(ours, args.B, [args.n - 1])))
        return {"extra_mib": peak() - before}

    if form is None:
        seconds = []
        for _ in range(5 if args.B <= 8192 else 1):
            start = time.perf_counter()
            streaming(student, reference, size, args.n)
            seconds.append(time.perf_counter() - start)
        return {"seconds": statistics.median(seconds), "runs": len(seconds)}

    # Timed chunks are spread over the draw; the last, with the largest K, is always among them.
    count = args.dense_chunks if form is dense and args.dense_chunks else args.n
    numbers = [args.n - 1 - args.n * i // count for i in range(count)]
    masks = masks_of(ours, args.B, numbers)
    start = time.perf_counter()
    gains = list(form(student, reference, masks))
    seconds = time.perf_counter() - start
    difference = max(
        float((theirs[ours.indices[ours.chunk == number]] - ours.gains[ours.chunk == number]).abs().max())
        for number, theirs in zip(numbers, gains, strict=True)
    )
    scale = args.n / count if form is dense else 1
    return {"seconds": seconds * scale, "difference": difference, "chunks_timed": count}


def measure(args: argparse.Namespace, way: str, count: int) -> dict[str, float]:
    """Run one way in processes of its own."""
    command = [sys.executable, __file__, "--child", way, "--B", str(count)]
    for name in ("d", "f", "n", "dense_chunks", "threads"):
        command += [f"--{name.replace('_', '-')}", str(getattr(args, name))]
    result: dict[str, float] = {}
    for what, malloc in (("time", {}), ("memory", FREE_AT_ONCE)):
        run = subprocess.run(
            [*command, "--measure", what],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **malloc},
        )
        result |= json.loads(run.stdout)
    return result


def compare(args: argparse.Namespace, console: Console) -> dict[str, object]:
    """Ours against both dense forms."""
    results = {way: measure(args, way, args.B) for way in WAYS}
    ours = results["streaming"]
    table = Table(
        title=f"Joint selection, B = {args.B}, b = {round(args.B * (1 - args.f))}, d = {args.d}, "
        f"n = {args.n}, sigmoid, learnability, {args.threads} thread(s)"
    )
    for column in ("", "time, s", "ratio", "peak extra memory, MiB", "ratio", "largest difference of g"):
        table.add_column(column, justify="right" if column else "left")
    for way, r in results.items():
        timed = r.get("chunks_timed", args.n)
        name = {"streaming": "streaming (aced)", "dense": "dense, every chunk", "dense-once": "dense, once"}[way]
        if timed < args.n:
            name += f" ({timed} of {args.n} chunks timed, scaled)"
        r["time_ratio"] = r["seconds"] / ours["seconds"]
        r["memory_ratio"] = r["extra_mib"] / max(ours["extra_mib"], 1.0)  # below a MiB nothing is told apart
        table.add_row(
            name,
            f"{r['seconds']:.3f}",
            f"{r['time_ratio']:.1f}",
            f"{r['extra_mib']:.1f}",
            f"{r['memory_ratio']:.1f}",
            f"{r['difference']:.1e}" if "difference" in r else "",
        )
    console.print(table)
    return {"compare": results}


def scaling(args: argparse.Namespace, console: Console) -> dict[str, object]:
    """Ours alone, from small to large."""
    rows = {}
    table = Table(
        title=f"Streaming joint selection, f = {args.f}, d = {args.d}, n = {args.n}, "
        f"sigmoid, learnability, {args.threads} thread(s)"
    )
    for column in ("B", "b", "time, s", "peak extra memory, MiB", "one B x B matrix would be, MiB"):
        table.add_column(column, justify="right")
    for count in [min(TABLE)] if args.quick else TABLE:
        r = rows[count] = measure(args, "streaming", count)
        table.add_row(
            f"{count:,}",
            f"{round(count * (1 - args.f)):,}",
            f"{r['seconds']:.3f}",
            f"{r['extra_mib']:.1f}",
            f"{4 * count**2 / (1 << 20):,.0f}",
        )
    console.print(table)
    return {"table": rows}


def main() -> None:
    """Parse, measure, print a table and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--B", type=int, default=8192, help="candidates")
    parser.add_argument("--d", type=int, default=512, help="embedding width")
    parser.add_argument("--f", type=float, default=0.8, help="filtering ratio")
    parser.add_argument("--n", type=int, default=16, help="chunks")
    parser.add_argument("--dense-chunks", type=int, default=0, help="how many to time of the dense form; 0: all")
    parser.add_argument(
        "--threads",
        type=int,
        default=1,
        help="more only on an idle machine: threads that wait for each other spoil the ratio",
    )
    parser.add_argument("--table", action="store_true", help="streaming alone at B = 1,024 to 65,536")
    parser.add_argument("--quick", action="store_true", help="B = 1024, d = 64, n = 4")
    parser.add_argument("--child", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--measure", choices=("time", "memory"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(child(args)))
        return
    if args.quick:
        args.B, args.d, args.n = 1024, 64, 4
    console = Console(width=120)
    result = scaling(args, console) if args.table else compare(args, console)
    shape = {name: getattr(args, name) for name in ("B", "d", "f", "n", "threads")}
    print(json.dumps({"benchmark": "selection", **shape, "torch": torch.__version__, **result}))


if __name__ == "__main__":
    main()
