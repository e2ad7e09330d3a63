"""The number of CPU threads: measured, because a second thread on a busy core costs more than it gains."""

from __future__ import annotations

import os
import statistics
import time

import torch


def available_cores() -> int:
    """Cores that this process may run on, container quota included."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        with open("/sys/fs/cgroup/cpu.max", encoding="ascii") as file:
            quota, period = file.read().split()
    except (OSError, ValueError):
        return cores  # no such cgroup: nothing limits the cores
    return cores if quota == "max" else max(1, min(cores, int(quota) // int(period)))


def set_threads(requested: int) -> int:
    """Set torch's thread count and return it: `requested`, or for 0 the faster of 1 and all cores, measured."""
    count = requested or _quicker(available_cores())
    torch.set_num_threads(count)
    return count


def _quicker(cores: int) -> int:
    if cores == 1:
        return 1
    times: dict[int, list[float]] = {1: [], cores: []}
    for _ in range(5):
        for count, seen in times.items():
            torch.set_num_threads(count)
            seen.append(_small_training_step())
    return min(times, key=lambda count: statistics.median(times[count]))


def _small_training_step() -> float:
    """Seconds for products and element-wise work of the size of a small tower's step."""
    x = torch.ones(64 * 16, 64)
    weight = torch.ones(64, 256, requires_grad=True)
    start = time.perf_counter()
    for _ in range(20):
        (torch.nn.functional.gelu(x @ weight) @ weight.T).sum().backward()
    return time.perf_counter() - start
