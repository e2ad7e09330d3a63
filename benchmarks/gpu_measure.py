"""What the parts of `gpu.py` share: sizes, time and memory on a device, and rows that may fail alone."""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from selection import forget_peak, peak

Row = dict[str, Any]


@dataclass(frozen=True)
class Sizes:
    """How large everything is.

    Attributes:
        candidates, chosen, width: B, b and d of the selection.
        models: students, the smaller one first; the last one is used where one will do.
        batch: b of a step; a method that chooses gets five times as many candidates.
        large: b of the IID step with gradient caching.
        grad_cache: micro-batch of that step.
        micro_batch: of scoring.
        losses: n of the losses.
        loss_width: d of the losses.
        steps: steps that are timed, after two that warm up.
        runs: other things that are timed, after one that warms up.
        scenes: pairs of the program's run under torchrun.
        lines: lines of metrics.jsonl that are timed of a run on tars, after the first one.
        peak_tflops: what the device multiplies at most in bf16, in 10^12 FLOP/s; None: not known.
    """

    candidates: int
    chosen: int
    width: int
    models: tuple[str, ...]
    batch: int
    large: int
    grad_cache: int
    micro_batch: int
    losses: tuple[int, ...]
    loss_width: int
    steps: int
    runs: int
    scenes: int
    lines: int = 3
    peak_tflops: float | None = None


FULL = Sizes(163_840, 32_768, 768, ("ViT-S-32", "ViT-B-32"), 1024, 32_768, 512, 2048, (4096, 32_768), 512, 4, 3, 4096)
SMALL = Sizes(1280, 256, 32, ("aced-demo-s", "aced-demo-l"), 16, 64, 16, 64, (128,), 32, 2, 2, 400)


PEAKS = {
    "B200": 2250, "H200": 989, "H100 PCIe": 756, "H100": 989, "A100": 312, "L40S": 362, "L40": 181, "L4": 121,
    "A10G": 70, "A10": 125, "A40": 150, "A6000": 155, "RTX 4090": 165, "RTX 3090": 71, "MI300X": 1307,
}  # fmt: skip
"""10^12 FLOP/s in bf16 with sums in fp32, dense, as the makers state them; the first name that occurs counts."""


def peak_of(device: torch.device) -> float | None:
    """The device's own, by its name; None where it is none of the known ones."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    return next((float(peak) for known, peak in PEAKS.items() if known in name), None)


def utilisation(flops: float, seconds: float, peak_tflops: float | None) -> float | None:
    """Share of what the device could have multiplied; None where that is not known."""
    return None if peak_tflops is None else flops / seconds / (peak_tflops * 1e12)


_deadline, _kept = math.inf, Path(os.devnull)


def end_by(seconds: float, kept: Path) -> None:
    """Begin no row of this process later than so many seconds from now; rows are kept in a file as they are made."""
    global _deadline, _kept
    _deadline, _kept = time.monotonic() + seconds, kept


def synchronize(device: torch.device) -> None:
    """Wait for all that the device was asked for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(work: Callable[[], object], device: torch.device, runs: int) -> float:
    """Median time of `work` after one call that warms up; by the device's own events where it has them."""
    work()
    return statistics.median(_once(work, device) for _ in range(runs))


def _once(work: Callable[[], object], device: torch.device) -> float:
    if device.type != "cuda":
        start = time.perf_counter()
        work()
        return time.perf_counter() - start
    synchronize(device)
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    first.record()
    work()
    last.record()
    last.synchronize()
    return first.elapsed_time(last) / 1000


def extra_mib(work: Callable[[], object], device: torch.device) -> float:
    """By how much memory rises at most while `work` runs: of the device's allocator, on a CPU the resident size."""
    if device.type != "cuda":
        before = forget_peak()
        work()
        return peak() - before
    synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    work()
    synchronize(device)
    return (torch.cuda.max_memory_allocated(device) - before) / (1 << 20)


def attempt(rows: list[Row], name: str, work: Callable[[], Row]) -> Row:
    """Add a row of figures, or of what went wrong; the next row goes on with the memory given back."""
    if time.monotonic() > _deadline:
        rows.append({"row": name, "error": "left out: no time was left"})
        return rows[-1]
    try:
        row = {"row": name, **work()}
    except Exception as error:  # whatever it is, it is told in its row and in the exit status
        row = {"row": name, "error": f"{type(error).__name__}: {str(error).strip().splitlines()[0][:300]}"}
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    rows.append(row)
    _kept.write_text(json.dumps(rows), encoding="utf-8")  # for whoever ends this process
    return row


def run_command(command: Sequence[str], limit: float, *, quiet: bool) -> subprocess.CompletedProcess[str]:
    """Run a command, and end all that it started; `quiet` keeps what it says on stderr instead of printing it.

    Raises:
        TimeoutError: it takes longer than `limit` seconds.
    """
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdout=pipe, stderr=pipe if quiet else None, text=True, start_new_session=True)
    try:
        out, err = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        raise TimeoutError(f"not done after {limit:.0f} seconds") from None
    finally:
        # What torchrun has started outlives it where it is killed.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return subprocess.CompletedProcess(command, process.returncode, out, err or "")
