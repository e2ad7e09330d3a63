"""How fast scenes are made: pictures a second, and the seconds to build a pool and all tasks.

python benchmarks/scenes.py --threads 2
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from aced.lab.scenes import IMAGE_SIZE, make_pool, make_tasks, world
from aced.lab.scenes.render import render
from aced.pool.views import View


def seconds(work: Callable[[], object], repeats: int) -> float:
    """Median wall time of some runs, after one that is not counted."""
    work()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def main() -> None:
    """Print one line for each measurement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of torch")
    parser.add_argument("--n", type=int, default=24000, help="pairs in the pool")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each measurement; the median is printed")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    plan = world.sample(8000, world.generator("benchmark"))
    took = seconds(lambda: render(plan), options.repeats)
    print(f"render           {len(plan) / took:9,.0f} images/s on {options.threads} threads")
    took = seconds(lambda: make_pool(options.n, seed=1), options.repeats)
    print(f"make_pool        {took:9.2f} s for {options.n:,} pairs ({options.n / took:,.0f} pairs/s)")
    took = seconds(lambda: [task.images(View(IMAGE_SIZE)) for task in make_tasks()], options.repeats)
    print(f"make_tasks       {took:9.2f} s with all pictures")


if __name__ == "__main__":
    main()
