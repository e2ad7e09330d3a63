"""The reader against webdataset: samples a second on the same tars with the same number of workers, and which get lost.

    python benchmarks/loader.py --shards data/pool               # needs `pip install -e .[bench]`
    python benchmarks/loader.py --shards data/pool --quick
    python benchmarks/loader.py --only index --shards data/pool  # time and memory of the index
    python benchmarks/loader.py --only pixels --shards data/pool # how far quick decoding is from exact

**Throughput.** Both sides read the same tars, decode every image to the tower's resolution (shorter side by Pillow's
bicubic filter, centre crop) and give batches of uint8 images and captions; webdataset does so with its own pipeline
and torchvision's transform. Ours reads in random order over the whole pool, theirs tar after tar without a shuffle
buffer, which is its fastest way. The sides take turns; a turn is one pass over the tars, timed from the first batch to
the last, so that starting workers counts for neither. The **ratio** is the median of the turns' ratios, with the lowest
and highest beside it. One thread in each process. The case of 224 px uses JPEGs of 512 x 384 to 640 x 512 pixels made
here; `fast` (the default), `exact` and `scaled` are ours with that `data.decoding`.

**Pixels.** For each `data.decoding` the values that differ from `exact`, which is what evaluation sees, and by how
much.

**Faults.** The first tar, whole and damaged in six ways; both sides read it with everything set to go on. A sample
counts if its image decodes and it has a caption.

**Index.** Seconds per 10,000 samples to read all headers, beside `tarfile`, and to load a kept index; bytes a sample in
memory.
"""

from __future__ import annotations

import argparse
import io
import os
import statistics
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table

BATCH = 64


def ours(paths: list[Path], size: int, workers: int, decoding: str) -> Iterator[int]:
    """Numbers of samples in the batches of one epoch."""
    from aced.pool.loader.filling import Fill
    from aced.pool.loader.loading import Loading
    from aced.pool.orders.order import Order
    from aced.pool.shards import open_shards
    from aced.pool.views import View
    from aced.train.feed import feed

    source = open_shards([str(path) for path in paths], bad_tars="skip", decoding=decoding)
    order = Order(len(source), BATCH, seed=0)
    steps = order.steps_per_epoch
    return map(len, feed(Fill(source, [View(size)]), order, range(steps), Loading(workers)))


def theirs(paths: list[Path], size: int, workers: int) -> Iterator[int]:
    """The same with webdataset."""
    import webdataset as wds

    from aced.models.compat import ensure_torchvision

    ensure_torchvision()
    import torchvision.transforms as T

    resize = T.Resize(size, interpolation=T.InterpolationMode.BICUBIC)
    transform = T.Compose([resize, T.CenterCrop(size), T.PILToTensor()])
    steps: list[Any] = [
        wds.SimpleShardList([str(path) for path in paths]),
        wds.split_by_worker,
        wds.tarfile_to_samples(handler=wds.ignore_and_continue),
        wds.select(lambda sample: "txt" in sample and any(end in sample for end in ("jpg", "jpeg", "png", "webp"))),
        wds.decode("pilrgb", handler=wds.ignore_and_continue),
        wds.rename(image="jpg;jpeg;png;webp", text="txt"),
        wds.map_dict(image=transform, handler=wds.ignore_and_continue),
        wds.to_tuple("image", "text"),
        wds.batched(BATCH, partial=True),
    ]
    loader = wds.WebLoader(wds.DataPipeline(*steps), batch_size=None, num_workers=workers)
    return (len(texts) for _, texts in loader)


def rate(batches: Iterator[int]) -> float:
    """Samples a second after the first batch."""
    next(batches)
    start, count = time.perf_counter(), 0
    for size in batches:
        count += size
    return count / (time.perf_counter() - start)


def photo(number: int) -> bytes:
    """A JPEG of a camera's detail: smooth shapes with some noise, about 60 kB."""
    draw = np.random.default_rng(number)
    size = (int(draw.integers(512, 641)), int(draw.integers(384, 513)))
    smooth = Image.fromarray(draw.integers(0, 256, (24, 32, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)
    noisy = np.asarray(smooth, dtype=np.int16) + draw.integers(-12, 13, (size[1], size[0], 3))
    out = io.BytesIO()
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(out, "JPEG", quality=85)
    return out.getvalue()


def write_photos(folder: Path, tars: int, each: int) -> list[Path]:
    """Tars of generated photos with captions."""
    paths = []
    for number in range(tars):
        path = folder / f"{number:05d}.tar"
        with tarfile.open(path, "w") as tar:
            for place in range(each):
                key = f"{number:05d}{place:04d}"
                for suffix, content in (("jpg", photo(number * each + place)), ("txt", b"a photo")):
                    info = tarfile.TarInfo(f"{key}.{suffix}")
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
        paths.append(path)
    return paths


def compare(console: Console, table: Table, name: str, paths: list[Path], size: int, args: argparse.Namespace) -> None:
    """A row for each number of workers."""
    sides: dict[str, Callable[[int], Iterator[int]]] = {
        "fast": lambda workers: ours(paths, size, workers, "fast"),
        "theirs": lambda workers: theirs(paths, size, workers),
        "exact": lambda workers: ours(paths, size, workers, "exact"),
    }
    if size > 64:
        sides["scaled"] = lambda workers: ours(paths, size, workers, "scaled")
    for workers in args.workers:
        rates: dict[str, list[float]] = {side: [] for side in sides}
        for turn in range(args.turns):
            order = list(sides) if turn % 2 == 0 else list(sides)[::-1]
            for side in order:
                rates[side].append(rate(sides[side](workers)))
            console.print(
                f"{name}, {workers} workers, turn {turn + 1}: { ({s: round(r[-1]) for s, r in rates.items()}) }"
            )
        for side in sides:
            if side == "theirs":
                continue
            ratios = [a / b for a, b in zip(rates[side], rates["theirs"], strict=True)]
            table.add_row(
                f"{name}, {side}",
                str(workers),
                f"{statistics.median(rates[side]):,.0f}",
                f"{statistics.median(rates['theirs']):,.0f}",
                f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
            )


def pixels(console: Console, name: str, paths: list[Path], size: int) -> None:
    """How far the values of each way to decode are from the exact ones."""
    from aced.pool.shards import open_shards
    from aced.pool.views import View

    def values(decoding: str) -> np.ndarray:
        source, view = open_shards([str(path) for path in paths], bad_tars="skip", decoding=decoding), View(size)
        return source.read(range(min(1000, len(source))), [view]).images[view].numpy().astype(np.int16)

    exact = values("exact")
    table = Table(
        "Decoding", "Differ", "By more than 1", "Most", "Mean", "Root mean square", title=f"{name}, levels of 255"
    )
    for decoding in ("fast", "scaled"):
        apart = values(decoding) - exact
        most, square = int(np.abs(apart).max()), float(np.sqrt(np.square(apart, dtype=np.float64).mean()))
        share, far = (f"{(np.abs(apart) > least).mean():.2%}" for least in (0, 1))
        table.add_row(decoding, share, far, str(most), f"{apart.mean():.4f}", f"{square:.3f}")
    console.print(table, f"{len(exact):,} images")


def damage(path: Path, folder: Path) -> list[Path]:
    """One tar in six states of disrepair."""
    whole = path.read_bytes()
    with tarfile.open(path) as tar:
        starts = [info.offset for info in tar]
    middle = starts[len(starts) // 2]
    states = {
        "none": whole,
        "cut": whole[: middle + 700],
        "zeroed": whole[:middle] + bytes(512) + whole[middle + 512 :],
        "flipped": whole[: middle + 1] + b"?" + whole[middle + 2 :],
        "joined": whole + whole,
        "shortened": whole[: middle + 1000] + whole[middle + 1100 :],
        "zero-tail": whole[:middle] + bytes(len(whole) - middle),
    }
    for name, content in states.items():
        (folder / f"{name}.tar").write_bytes(content)
    return [folder / f"{name}.tar" for name in states]


def faults(console: Console, paths: list[Path]) -> None:
    """Samples that each side gives of damaged tars."""
    from aced.pool.shards import open_shards
    from aced.pool.views import View

    table = Table("Damage", "Whole tar", "Ours", "webdataset", "We tell", title="Samples of damaged tars")
    whole = len(open_shards([str(paths[0])]))
    with tempfile.TemporaryDirectory() as folder:
        for path in damage(paths[0], Path(folder)):
            source = open_shards([str(path)], bad_tars="skip")
            given = source.read(range(len(source)), [View(64)])
            told: dict[str, int] = {}
            for fault in (*source.faults, *given.faults, *given.notes):
                told[fault.name] = told.get(fault.name, 0) + fault.count
            other = sum(theirs([path], 64, 0))
            words = ", ".join(f"{name} {count:,}" for name, count in told.items())
            table.add_row(path.stem, f"{whole:,}", f"{len(given):,}", f"{other:,}", words)
    console.print(table)


def index(console: Console, paths: list[Path]) -> None:
    """What an index costs."""
    from aced.pool.shards import open_shards
    from aced.pool.tars.tarindex import index_tar

    def seconds(work: Callable[[], object]) -> float:
        times = []
        for _ in range(3):
            start = time.perf_counter()
            work()
            times.append(time.perf_counter() - start)
        return min(times)

    def by_tarfile() -> None:
        for path in paths:
            with tarfile.open(path) as tar:
                tar.getmembers()

    source = open_shards([str(path) for path in paths])
    per = 10_000 / len(source)
    with tempfile.TemporaryDirectory() as folder:
        walked = seconds(lambda: [index_tar(path) for path in paths])
        kept = seconds(lambda: [index_tar(path, Path(folder)) for path in paths])
        disk = sum(file.stat().st_size for file in Path(folder).iterdir())
        opened = seconds(lambda: open_shards([str(path) for path in paths], index_dir=Path(folder)))
    slow = seconds(by_tarfile)
    table = Table("What", "s / 10,000 samples", title=f"The index of {len(source):,} samples in {len(paths)} tars")
    for name, value in (
        ("tarfile.getmembers", slow),
        ("reading all headers", walked),
        ("from the cache folder", kept),
        ("opening a source with kept indexes", opened),
    ):
        table.add_row(name, f"{value * per:.3f}")
    console.print(table)
    console.print(f"{source.nbytes / len(source):.1f} bytes a sample in memory, {disk / len(source):.1f} on disk")


def main() -> None:
    """Parse the command line and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", default="data/pool", help="a folder of tars with small images")
    parser.add_argument("--tars", type=int, default=4, help="how many of them are read in a turn")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", choices=["small", "large", "pixels", "faults", "index"])
    parser.add_argument("--quick", action="store_true", help="one tar and two turns")
    args = parser.parse_args()
    from aced.files.patterns import expand_tars

    if args.quick:
        args.tars, args.turns = 1, 2
    torch.set_num_threads(1)
    console = Console(width=140)
    paths = expand_tars([args.shards])
    wanted = [args.only] if args.only else ["index", "faults", "pixels", "small", "large"]
    if "index" in wanted:
        index(console, paths)
    if "faults" in wanted:
        faults(console, paths)
    table = Table("Data", "Workers", "aced, samples/s", "webdataset, samples/s", "Ratio", title="Throughput")
    if "small" in wanted:
        compare(console, table, "small photos to 64 px", paths[: args.tars], 64, args)
    if "pixels" in wanted:
        pixels(console, "small photos to 64 px", paths[: args.tars], 64)
    if {"large", "pixels"} & set(wanted):
        with tempfile.TemporaryDirectory() as folder:
            large = write_photos(Path(folder), 2 if args.quick else 4, 150)
            if "pixels" in wanted:
                pixels(console, "large photos to 224 px", large, 224)
            if "large" in wanted:
                compare(console, table, "large photos to 224 px", large, 224, args)
    if table.row_count:
        console.print(table)
    console.print(f"torch {torch.__version__}, {os.cpu_count()} cores", highlight=False)


if __name__ == "__main__":
    main()
