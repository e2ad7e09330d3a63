"""From the command to the first step on pools of many tars: seconds and memory, with IID and with I-ACED.

    python benchmarks/pool.py                                  # 10 to 10^5 tars of 10,000 pairs
    python benchmarks/pool.py --tars 10,1000 --pairs 100       # smaller ones
    python benchmarks/pool.py --ways manifest,folder           # named by a manifest, or as a folder that was indexed
    python benchmarks/pool.py --other ../before --most 10      # another checkout (0.2 or newer), up to 10 tars
    python benchmarks/pool.py --keep DIR                       # leaves everything there for the next time

All tars of a pool are links to one, and so are their side-cars, so that 10^5 of them fit onto any disk; the manifest,
the list of side-cars and all files that a run opens are real. Each cell is the fastest of `--turns` runs after one that
is not counted, which finds the indexes of the tars that the first steps read. Seconds are from the start of the process
to the end of its first step, with those of the processor beside them, and memory is the most that it had resident until
then. Another checkout reads the headers of all tars each time, if it knows no manifests.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

METHODS = {
    "iid": ["method.name=iid"],
    "i-aced": ["method.name=i-aced", "reference.model=model", "reference.cache=CACHE"],
}
COMMON = [
    *("run.threads=1", "run.checkpoint_every=0", "student.model=aced-demo-s", "train.steps=2", "train.batch=64"),
    *("eval.tasks=[]", "data.index_dir=index"),
]
STREAMED = ["data.locality=1", "data.streams=1"]
"""What keeps the order of a billion pairs from being one permutation."""


def write_tar(path: Path, pairs: int) -> None:
    """A tar of small pictures with captions."""
    import numpy as np
    from PIL import Image

    draw = np.random.default_rng(0)
    pictures = []
    for _ in range(20):
        out = io.BytesIO()
        Image.fromarray(draw.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(out, "JPEG")
        pictures.append(out.getvalue())
    with tarfile.open(path, "w") as tar:
        for number in range(pairs):
            for suffix, content in (("jpg", pictures[number % 20]), ("txt", f"picture {number}".encode())):
                member = tarfile.TarInfo(f"{number:06d}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))


def write_model(place: Path, pairs: int) -> None:
    """A reference, and its side-car of the tar."""
    import torch

    from aced.cache.sidecar import VERSION, SideCarWriter, parts_of
    from aced.models import load_tower, save_tower
    from aced.pool.shards import open_shards

    save_tower(load_tower("aced-demo-s", seed=7), place / "model")
    tower = load_tower(str(place / "model"))
    source = open_shards([str(place / "real.tar")], index_dir=place / "index")
    (part,) = parts_of(source)
    target = place / "real.safetensors"
    writer = SideCarWriter(target, target, part.keys(source), tower.width, 1, "float16")
    rows = torch.nn.functional.normalize(torch.randn(pairs, tower.width, generator=torch.Generator().manual_seed(0)))
    writer.add(torch.arange(pairs), rows[:, None], rows)
    with torch.no_grad():
        scale, bias = map(float, tower.scale_and_bias())
    facts = {"tower": tower.name, "identity": tower.identity(), "part": part.name, "mark": part.mark, "d": tower.width}
    writer.finish(**facts, views=1, scale=scale, bias=bias, precision="fp32", faults={}, seconds=1.0, flops=1e9)
    writer.close()
    assert VERSION


def write_pool(place: Path, tars: int) -> None:
    """A folder of links to the tar, its manifests, and the side-cars of all with their list."""
    from aced.cache.home import LocalHome, file_state
    from aced.cache.sidecar import Part, open_sidecar, sidecar_name, tower_folder
    from aced.cache.sidecarlist import SideCarList
    from aced.pool.tars.manifest import Manifest, trimmed
    from aced.pool.tars.manifestfile import kept_path, write_kept, write_named
    from aced.pool.tars.stock import StockTaking

    real, sidecar = place / "real.tar", place / "real.safetensors"
    facts = StockTaking(index_dir=place / "index").take([real]).manifest.tars[0]
    info = open_sidecar(sidecar).info
    pool, folder = place / f"pool-{tars}", tower_folder(place / f"cache-{tars}", info.identity["tower"])
    folder.mkdir(parents=True)
    pool.mkdir()
    state, listed = file_state(sidecar), SideCarList(LocalHome(folder))
    assert state is not None
    names = [f"{number:06d}.tar" for number in range(tars)]
    for name in names:
        (pool / name).symlink_to(real)
        own = sidecar_name(Part(name, info.mark, 0, info.n))
        (folder / own).symlink_to(sidecar)
        listed.add(own, state, info)
    listed.save()
    manifest = Manifest(tuple(trimmed(facts._replace(source=str(pool / name)) for name in names)))
    write_named(pool / "pool.manifest", manifest)
    write_kept(kept_path(place / "index", [str(pool)]), manifest)


def first_step(words: list[str]) -> None:
    """Train until the first step is over, in the working directory; prints seconds and megabytes as JSON."""
    import resource

    from rich.console import Console

    import aced.train.run.loop as loop
    from aced.config import load_config
    from aced.programs.train import train_program

    take = loop.train_step
    began = time.time() - time.clock_gettime(time.CLOCK_MONOTONIC) + _began()

    def first(*arguments: Any) -> Any:
        take(*arguments)
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
        files = len(os.listdir("/proc/self/fd"))
        spent = {"seconds": time.time() - began, "processor": time.process_time()}
        print(json.dumps(spent | {"megabytes": most, "files": files}), flush=True)
        os._exit(0)

    loop.train_step = first
    with tempfile.TemporaryDirectory() as out:
        train_program(load_config("scenes", [*COMMON, *words, f"run.out={out}"]), Console(stderr=True), resume=False)


def _began() -> float:
    """When this process was started, by the clock that counts from the start of the system."""
    ticks = int(Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19])
    return ticks / os.sysconf("SC_CLK_TCK")


def measured(checkout: Path, place: Path, words: list[str], turns: int) -> dict[str, float]:
    """The fastest of some runs of a checkout, after one that is not counted."""
    environment = os.environ | {"PYTHONPATH": str(checkout / "src"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(Path(__file__).resolve()), "--child", *words]
    found = []
    for _ in range(turns + 1):
        ended = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True)
        if ended.returncode:
            raise SystemExit(f"{' '.join(words)}:\n{ended.stdout}\n{ended.stderr}")
        found.append(json.loads(ended.stdout.splitlines()[-1]))
    return min(found[1:], key=lambda one: one["seconds"])


def rows(options: argparse.Namespace, place: Path) -> None:
    """Print the table."""
    here = Path(__file__).resolve().parents[1]
    checkouts = [("here", here), *([("other", options.other.resolve())] if options.other else [])]
    heads = (f"{'tars':>8} {'pairs':>14} {'method':8} {'named by':9} {'checkout':8}", f"{'s':>6} {'cpu s':>6}")
    print(*heads, f"{'MB':>6} {'files':>6}")
    for tars in options.tars:
        if not (place / f"pool-{tars}").exists():
            write_pool(place, tars)
        for name, checkout in checkouts:
            ways = [way for way in options.ways if name == "here" or way == "folder"]
            if name == "other" and tars > options.most:
                continue
            for way in ways or ["folder"]:
                for method in options.methods:
                    shards = f"data.shards=pool-{tars}" + ("/pool.manifest" if way == "manifest" else "")
                    words = [word.replace("CACHE", f"cache-{tars}") for word in METHODS[method]]
                    found = measured(checkout, place, [shards, *words, *STREAMED], options.turns)
                    print(
                        f"{tars:8,} {tars * options.pairs:14,} {method:8} {way:9} {name:8} {found['seconds']:6.1f} "
                        f"{found['processor']:6.1f} {found['megabytes']:6,.0f} {found['files']:6,.0f}",
                        flush=True,
                    )


def main() -> None:
    """Parse, write, measure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tars", default="10,100,1000,10000,100000", help="how many tars the pools have")
    parser.add_argument("--pairs", type=int, default=10_000, help="pairs of each tar")
    parser.add_argument("--methods", default="iid,i-aced")
    parser.add_argument("--ways", default="manifest", help="manifest, folder, or both")
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--other", type=Path, help="another checkout")
    parser.add_argument("--most", type=int, default=10, help="tars of the largest pool that the other one reads")
    parser.add_argument("--keep", type=Path, help="folder for the pools, which stay there")
    parser.add_argument("--child", nargs="*", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child is not None:
        first_step(options.child)
        return
    options.tars = [int(word) for word in options.tars.split(",")]
    options.methods, options.ways = options.methods.split(","), options.ways.split(",")
    with tempfile.TemporaryDirectory() as folder:
        place = options.keep or Path(folder)
        place = place.resolve()
        if not (place / "real.safetensors").exists():
            place.mkdir(parents=True, exist_ok=True)
            write_tar(place / "real.tar", options.pairs)
            write_model(place, options.pairs)
        rows(options, place)


if __name__ == "__main__":
    main()
