"""Opening a complete cache of many side-cars, and looking up in it: seconds, memory and descriptors.

    python benchmarks/sidecars.py --tars 20 --rows 1000             # a small pool
    python benchmarks/sidecars.py --tars 10000 --rows 20
    python benchmarks/sidecars.py --tars 10000 --rows 20 --files 256 # as under `ulimit -n 256`
    python benchmarks/sidecars.py --tars 100000 --rows 10000 --empty 99990  # of most of them only the size and the list
    python benchmarks/sidecars.py --early --d 512                   # what `scoring.early` costs the main process
    python benchmarks/sidecars.py ... --keep DIR                    # leaves the side-cars there for the next time

The side-cars are written directly, without tars and without a model; the last `--empty` ones are sparse files of which
the list tells, and lookups are then in the others. `lookup` is the median of 30 super-batches of
4,096 pairs drawn from the whole pool; `near` of as many from 16 tars. Memory is what opening the cache added. With
`--early`, the median over 20 super-batches of 4,096 (2,048 kept, in 8 chunks) of processor time of the main thread,
all of it and the draw's part, without loading processes and with one that looks up.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from aced.cache.home import LocalHome, file_state
from aced.cache.making import EmbedSettings
from aced.cache.sidecar import (
    VERSION,
    Part,
    SideCarInfo,
    SideCarWriter,
    parts_of,
    sample_bytes,
    sidecar_name,
    sidecar_path,
    tower_folder,
)
from aced.cache.sidecarlist import LIST, SideCarList
from aced.cache.store import Store, open_store
from aced.pool.source import Candidates, Keys, Source
from aced.pool.views import View

D = 64
IDENTITY = {name: name * 8 for name in ("weights", "preprocessing", "tokenizer", "architecture", "contents", "tower")}


class Pool(Source):
    """A source of tars that are not there."""

    name = fingerprint = "pool"

    def __init__(self, tars: int, rows: int) -> None:
        self.parts: Mapping[str, str] = {f"{tar:05d}.tar": f"txt fast {tar:016x}" for tar in range(tars)}
        self.part_sizes: Sequence[int] = [rows] * tars
        self.keys: Sequence[str] = Keys(lambda row: f"{row // rows:05d}.tar/{row % rows:06d}", tars * rows)

    def __len__(self) -> int:
        return len(self.keys)

    def read(self, indices: Sequence[int], views: Sequence[View]) -> Candidates:
        """There is nothing to read."""
        raise NotImplementedError


def pretend(cache: Path, parts: Sequence[Part], identity: dict[str, str], d: int, dtype: str = "float16") -> None:
    """Side-cars that a start takes for whole: sparse files, and what the list in their folder says of them."""
    folder = tower_folder(cache, identity["tower"])
    folder.mkdir(parents=True, exist_ok=True)
    listed = SideCarList(LocalHome(folder))
    info = {"version": VERSION, "tower": "none", "identity": identity, "d": d, "views": 1, "dtype": dtype}
    info |= {"scale": 1.0, "bias": 0.0, "ends": [], "faults": {}, "seconds": 1.0, "flops": 1.0}
    for number, part in enumerate(parts):
        path, n = folder / sidecar_name(part), len(part)
        with path.open("wb") as file:
            file.truncate(n * sample_bytes(d, dtype, 1))
        own = {"part": part.name, "mark": part.mark, "n": n, "usable": n, "sha256": f"{number:064x}"}
        state = file_state(path)
        assert state is not None
        listed.add(path.name, state, SideCarInfo(**info, **own))  # type: ignore[arg-type]
    listed.save()


def write(cache: Path, pool: Pool, count: int, d: int = D) -> None:
    """The side-car of every tar that has none yet, of the first `count`."""
    generator = torch.Generator().manual_seed(0)
    made: dict[str, Any] = {"tower": "none", "identity": IDENTITY, "scale": 1.0, "bias": 0.0, "faults": {}}
    made |= {"seconds": 1.0, "flops": 1.0}
    for part in parts_of(pool)[:count]:
        path = sidecar_path(cache, IDENTITY["tower"], part)
        if path.exists():
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".new")
        writer = SideCarWriter(temporary, path, list(part.keys(pool)), d, 1, "float16")
        rows = torch.nn.functional.normalize(torch.randn(len(part), 2, d, generator=generator), dim=-1)
        writer.add(torch.arange(len(part)), rows[:, :1], rows[:, 1])
        writer.finish(part=part.name, mark=part.mark, d=d, views=1, **made)
        temporary.rename(path)


def resident() -> float:
    """Memory of this process in MB."""
    return int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def times(store: Store, most: int, count: int = 30) -> list[float]:
    """Seconds of each of some lookups in the first `most` pairs."""
    generator = torch.Generator().manual_seed(1)
    found = []
    for _ in range(count):
        positions = torch.randint(most, (4096,), generator=generator)
        start = time.perf_counter()
        store.lookup(positions)
        found.append(time.perf_counter() - start)
    return found


def early(store: Store, workers: int) -> tuple[float, float]:
    """Seconds of the main thread's processor time for the order of a step with `scoring.early`, and for its draw."""
    from aced.methods import get_method
    from aced.pool.loader.loading import Loading
    from aced.pool.orders.order import Order
    from aced.train.distributed import World
    from aced.train.providers import Cached
    from aced.train.scoring.cascade import Sieve
    from aced.train.scoring.early import SievedOrder
    from aced.train.settings import StepSettings

    method, drawn, whole = get_method("aced"), list[float](), list[float]()
    numbers: Any = StepSettings(**dict.fromkeys(StepSettings.__dataclass_fields__))  # type: ignore[arg-type]
    numbers = replace(numbers, chunks=8, temperature=1.0, loss="sigmoid", scope="global")
    sieve = Sieve(2048, numbers, method, 0, World())
    keep = sieve.keep

    def timed(*arguments: Any) -> torch.Tensor:
        start = time.thread_time()
        kept = keep(*arguments)
        drawn.append(time.thread_time() - start)
        return kept

    sieve.keep = timed  # type: ignore[method-assign]
    order = Order(len(store), 4096, 0)
    sieved = SievedOrder(order, sieve, Cached(store, torch.device("cpu"), 1.0), 22, Loading(workers))
    for step in range(22):
        start = time.thread_time()
        sieved.indices(step)
        whole.append(time.thread_time() - start)
    return statistics.median(whole[2:]), statistics.median(drawn[2:])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--tars", type=int, default=1000)
    parser.add_argument("--rows", type=int, default=100)
    parser.add_argument("--empty", type=int, default=0, help="tars without a real side-car")
    parser.add_argument("--files", type=int, default=0, help="so many open files at most")
    parser.add_argument("--early", action="store_true", help="measure that alone")
    parser.add_argument("--d", type=int, default=D, help="dimensions of an embedding")
    parser.add_argument("--keep", type=Path, default=None)
    args = parser.parse_args()
    if args.files:
        resource.setrlimit(resource.RLIMIT_NOFILE, (args.files, args.files))
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        cache, pool = args.keep or Path(folder), Pool(args.tars, args.rows)
        there = args.tars - args.empty
        write(cache, pool, there, args.d)
        if args.empty and not (tower_folder(cache, IDENTITY["tower"]) / LIST).exists():
            pretend(cache, parts_of(pool)[there:], IDENTITY, args.d)  # type: ignore[arg-type]
        for which in ("first", "again"):
            before, start = resident(), time.perf_counter()
            store = open_store(cache, IDENTITY, pool, EmbedSettings())  # type: ignore[arg-type]
            seconds, grown = time.perf_counter() - start, resident() - before
            print(f"open, {which}: {seconds:.2f} s, {grown:.0f} MB more")
        if args.early:
            for workers in (0, 1):
                step, draw = early(store, workers)
                print(f"{workers} loading processes: {1e3 * step:.1f} ms a step, {1e3 * draw:.1f} of them the draw")
            return
        whole = there * args.rows
        for name, most in (("lookup", whole), ("near", min(whole, 16 * args.rows))):
            all_of = times(store, most)
            print(f"{name}: first {1e3 * all_of[0]:.1f} ms, median {1e3 * statistics.median(all_of):.2f} ms")
        print(f"descriptors {len(os.listdir('/proc/self/fd'))}, {resident():.0f} MB")
        hashes = np.frombuffer(store.lookup(torch.arange(0, whole, 7)).text.numpy().tobytes(), np.uint8)
        print(f"sum of bytes {int(hashes.sum())}")


if __name__ == "__main__":
    main()
