"""What the main process does of a step beside the models: for a super-batch of 4,096 whose captions are always new.

    python benchmarks/host.py                            # this checkout
    python benchmarks/host.py OTHER                      # an older one and this one, in turn, on this machine
    python benchmarks/host.py --candidates 512 --steps 2 # small, to see that it runs

H-ACID steps of `train_step` on images of 64 px that come from loading processes, with CLIP's own tokenizer, captions
of 8 to 30 words that no step has seen before, and cached embeddings of a reference of 512 dimensions. What a device
would compute is left out: image towers give a mean of their pixels, text towers one row of their table, and the time of
these, of losses, draws, gradients and the update is taken off. **host** is what is left: processor time of the main
thread, which does not tick while it waits for the loading processes, so that busy cores do not matter much. **whole**
is that time with the losses, draws and updates. Both are medians over the steps behind the first two, for a step.

    python benchmarks/host.py --memory --candidates 2560 --workers 8   # one of 8 processes of b = 4,096, f = .8

prints instead, for super-batches of 224 px with token ids and the cached rows of one model (d = 768), the most bytes
that were under way at a time: in `/dev/shm`, and by how much the anonymous memory of the main and of the loading
processes had grown (`smaps_rollup`, shared pages by their share).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aced.pool.source import Candidates, Source

MODEL: dict[str, Any] = {
    "embed_dim": 64,
    "vision_cfg": {"image_size": 64, "layers": 1, "width": 64, "patch_size": 32, "head_width": 32},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 1},
}
WIDTH = 512
"""d of the reference."""
SAMPLES = 1 << 16
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


class Noise(Source):
    """Pairs out of nothing: pixels that cost no decoding, and captions of words that nobody has met."""

    name = fingerprint = "noise"

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def read(self, indices: Sequence[int], views: Sequence[Any]) -> Any:
        """As in the contract."""
        images = {
            view: torch.zeros(len(indices), 3, view.size, view.size, dtype=torch.uint8).random_() for view in views
        }
        return Candidates(torch.tensor(list(indices)), [caption(i) for i in indices], images)


def caption(index: int) -> str:
    """8 to 30 words, most of them short."""
    draw = random.Random(index)
    words = ("".join(draw.choices(_LETTERS, k=draw.randint(2, 8))) for _ in range(draw.randint(8, 30)))
    return " ".join(words)


class Rows:
    """A store of `WIDTH` numbers for each sample, in a memory map on the disk."""

    def __init__(self, folder: Path, count: int) -> None:
        import numpy as np

        from aced.core.embeddings import Embeddings

        self.folder, self._count, self._embeddings = folder, count, Embeddings
        self._map = np.memmap(folder / "rows", np.float16, "w+", shape=(count, 2 * WIDTH))
        noise = np.random.default_rng(0).standard_normal((4096, 2 * WIDTH)).astype(np.float16)
        for start in range(0, count, 4096):
            self._map[start : start + 4096] = noise[: count - start]

    def valid(self, indices: Tensor) -> Tensor:
        """All."""
        return torch.ones(len(indices), dtype=torch.bool)

    def lookup(self, indices: Tensor, crops: Tensor | None = None) -> Any:
        """Their rows."""
        both = torch.from_numpy(self._map[indices.numpy()]).float()
        image, text = (torch.nn.functional.normalize(side, dim=1) for side in both.chunk(2, dim=1))
        return self._embeddings(image, text, 10.0, -10.0)

    @property
    def info(self) -> Any:
        """What a provider asks."""
        identity = {"tower": "noise", "contents": "noise", "architecture": ""}
        return argparse.Namespace(d=WIDTH, identity=identity, scale=10.0, bias=-10.0, n=self._count, faults={})


# --- one checkout -----------------------------------------------------------------------------------------------------


class Device:
    """Processor time of the main thread that a device would save it."""

    def __init__(self) -> None:
        self.seconds, self._depth = 0.0, 0

    @contextmanager
    def working(self) -> Iterator[None]:
        """What is done inside is the device's."""
        start, self._depth = time.thread_time(), self._depth + 1
        try:
            yield
        finally:
            self._depth -= 1
            if not self._depth:
                self.seconds += time.thread_time() - start

    def takes(self, owner: Any, name: str) -> None:
        """Count a function or method as the device's."""
        own = getattr(owner, name)

        def counted(*arguments: Any, **named: Any) -> Any:
            with self.working():
                return own(*arguments, **named)

        setattr(owner, name, counted)


def make_trainer(place: Path, candidates: int, size: int, workers: int) -> tuple[Any, Any, Any]:
    """A trainer with towers that compute next to nothing, its config and its source."""
    from aced.config import make_config
    from aced.train.providers import Cached
    from aced.train.run.fit import make_trainer as make
    from aced.train.run.inputs import Inputs
    from aced.train.run.student import make_student

    model = place / "model.json"
    model.write_text(json.dumps({**MODEL, "vision_cfg": {**MODEL["vision_cfg"], "image_size": size}}), encoding="utf-8")
    values = {
        "run": {"out": str(place / "run"), "threads": 1},
        "student": {"model": str(model)},
        "reference": {"model": "ViT-L-14"},
        "data": {"workers": workers},
        "method": {"name": "h-acid", "filtering_ratio": 0.8},
        "train": {"batch": candidates // 5, "steps": 1000, "micro_batch": 1024},
    }
    config, source = make_config(values), Noise(SAMPLES)
    reference = Cached(Rows(place, SAMPLES), torch.device("cpu"), 1e9)  # type: ignore[arg-type]
    return make(config, Inputs(source, [], reference, [reference]), make_student(config)), config, source


def make_light(trainer: Any, device: Device) -> None:
    """Let the student's towers compute next to nothing, and count that and the training as the device's."""
    from aced.models import Tower, text

    weights = trainer.student.model

    def encode_image(pixels: Tensor) -> Tensor:
        return pixels.mean((1, 2, 3))[:, None] + weights.visual.proj[0]

    def encode_text(model: Any, ids: Tensor, *_: Any) -> Tensor:
        return model.token_embedding(ids[:, 0])[:, : trainer.student.width]

    weights.encode_image, text.encode = encode_image, encode_text
    device.takes(Tower, "pixels")
    device.takes(weights, "encode_image")
    device.takes(text, "encode")
    device.takes(trainer.replica, "backward")
    device.takes(trainer.replica, "update")
    device.takes(trainer.replica, "clip")
    device.takes(trainer.objective, "forward")


def draws(device: Device) -> None:
    """Count the draw as the device's, wherever this checkout has it."""
    import aced.train.scoring.choosing as choosing

    device.takes(choosing, "draw")


def batches_of(trainer: Any, config: Any, source: Any, steps: int) -> Any:
    """The batches of some steps as the loop of this checkout has them loaded."""
    from aced.train.run import loop

    return loop.batches_of(trainer, source, config, range(steps))


def seconds(candidates: int, steps: int, workers: int) -> dict[str, list[float]]:
    """Of each step, what the main thread did in all and beside the device's work."""
    from aced.train.step import train_step

    torch.set_num_threads(1)
    device = Device()
    found: dict[str, list[float]] = {"host": [], "whole": []}
    with tempfile.TemporaryDirectory() as folder:
        trainer, config, source = make_trainer(Path(folder), candidates - candidates % 5, 64, workers)
        make_light(trainer, device)
        draws(device)
        batches = batches_of(trainer, config, source, steps + 2)
        for number in range(steps + 2):
            start, before = time.thread_time(), device.seconds
            train_step(trainer, batches)
            whole = time.thread_time() - start
            if number >= 2:
                found["whole"].append(whole)
                found["host"].append(whole - (device.seconds - before))
    return found


# --- memory -----------------------------------------------------------------------------------------------------------


def memory(rows: int, workers: int, batches: int) -> dict[str, float]:
    """The most bytes under way at a time while batches of 224 px are loaded and thrown away; where they were then."""
    from aced.pool.loader.filling import Fill
    from aced.pool.loader.loading import Loading
    from aced.pool.orders.order import Order
    from aced.pool.views import View
    from aced.train.feed import feed

    torch.set_num_threads(1)
    place, most, over = Path("/dev/shm"), [{"whole": 0}], threading.Event()
    before = _bytes_now(place)

    def look() -> None:
        while not over.wait(0.02):
            now = {name: count - before[name] for name, count in _bytes_now(place).items()}
            most[0] = max(most[0], {**now, "whole": sum(now.values())}, key=lambda found: found["whole"])

    watch = threading.Thread(target=look)
    watch.start()
    order, source = Order(SAMPLES, rows, 0), Noise(SAMPLES)
    for _ in feed(Fill(source, [View(224)], _columns()), order, range(batches), Loading(workers)):  # type: ignore[arg-type]
        time.sleep(1.5)  # a step, in which the processes read on
    over.set()
    watch.join()
    return most[0]


def _columns() -> list[Any]:
    """Token ids, and the rows of a model of 768 dimensions."""
    from aced.pool.source import Column

    class Constant(Column):
        def load(self, candidates: Candidates) -> Tensor:
            return torch.ones(len(candidates), *self.shape, dtype=self.dtype)

    return [Constant("ids", torch.int32, (77,)), Constant("rows", torch.float32, (2, 768))]


def _bytes_now(place: Path) -> dict[str, int]:
    """Bytes in `/dev/shm`, and those of this process and of its children that are no files and lie not there."""
    used = os.statvfs(place)
    own = os.getpid()
    children = [int(word) for word in Path(f"/proc/{own}/task/{own}/children").read_text(encoding="ascii").split()]
    return {
        "shared": (used.f_blocks - used.f_bfree) * used.f_frsize,
        "own": _anonymous(own),
        "workers": sum(map(_anonymous, children)),
    }


def _anonymous(process: int) -> int:
    """Bytes of a process's anonymous memory, its share of what it has in common with others (PSS)."""
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text(encoding="ascii").splitlines()
    except OSError:  # it has ended
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("Pss_Anon:")), 0)


# --- both checkouts ---------------------------------------------------------------------------------------------------


def asked(checkout: Path, given: argparse.Namespace, what: str) -> dict[str, Any]:
    """What a process of a checkout says."""
    environment = os.environ | {"PYTHONPATH": str(checkout / "src"), "OMP_NUM_THREADS": "1"}
    numbers = [f"--{name}={getattr(given, name)}" for name in ("candidates", "steps", "workers")]
    command = [sys.executable, str(Path(__file__).resolve()), "--child", what, *numbers]
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, encoding="utf-8")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("other", nargs="?", type=Path, help="an older checkout")
    parser.add_argument("--candidates", type=int, default=4096, help="of a super-batch")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--memory", action="store_true", help="bytes under way at 224 px instead")
    parser.add_argument("--child", choices=["seconds", "memory"], help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child == "seconds":
        print(json.dumps(seconds(given.candidates, given.steps, given.workers)))
        return
    if given.child == "memory":
        print(json.dumps(memory(given.candidates, given.workers, 4)))
        return
    this = Path(__file__).resolve().parents[1]
    checkouts = {"before": given.other.resolve(), "now": this} if given.other else {"now": this}
    if given.memory:
        for name, checkout in checkouts.items():
            found = asked(checkout, given, "memory")
            shared, own, workers, whole = (found[key] / 1e6 for key in ("shared", "own", "workers", "whole"))
            print(
                f"{name:7} {given.candidates} rows of 224 px, {given.workers} workers: {whole:,.0f} MB, of these "
                f"{shared:,.0f} MB in /dev/shm, {own:,.0f} MB of the main process, {workers:,.0f} MB of the workers"
            )
        return
    host: dict[str, float] = {}
    for name, checkout in checkouts.items():
        found = asked(checkout, given, "seconds")
        host[name] = statistics.median(found["host"])
        spread = f"{min(found['host']):.4f} to {max(found['host']):.4f}"
        print(f"{name:7} host {host[name]:.4f} s ({spread}), whole {statistics.median(found['whole']):.4f} s a step")
    if given.other:
        print(f"host, before / now: {host['before'] / host['now']:.1f}")


if __name__ == "__main__":
    main()
