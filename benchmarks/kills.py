"""Runs that are killed by SIGKILL and started again, against the run that never was: bit by bit, line by line.

    python benchmarks/kills.py                          # 100 kills at random moments
    python benchmarks/kills.py --kills 20 --seed 7
    python benchmarks/kills.py --operations             # a kill before every file operation and within every write
    python benchmarks/kills.py --operations --first 0 --last 60   # a part of them

The command is `aced train CONFIG --resume` throughout, for the first start as for every other: what a job script has.
It runs in a child forked from a process that has the imports behind it, in a session of its own, on real tars, with
evaluations, the best model kept and a checkpoint every few steps; the number of loading processes is drawn anew at
each start. The settings differ by method, reference (cached or not), loss and model; one drops patches at random.

- *Random moments*: the whole process group is killed after a time that is uniform from nothing to the time that the
  uninterrupted run took, until a run ends by itself; then the next setting begins.
- *Operations*: os.replace, fsync, mkdir, unlink, rmdir and every write of the main process are counted. For each
  number k a new run is killed before its k-th, or half-way in it where it is a write, and then resumed to its end.

What is compared: the weights and the whole last checkpoint (optimiser, generator) byte by byte, `metrics.jsonl` and
`evals.jsonl` without wall seconds (each step once), the ledger, faults and counts of `train.json`, the best model, the
gallery and the scores in `results.json`; and that no file of a killed run is left.
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing.util
import os
import random
import signal
import sys
import tarfile
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from PIL import Image
from rich.console import Console

# What a child would have to import, loaded before the fork.
import aced.evaluate.task_folders
import aced.evaluate.zeroshot
import aced.programs.train
import aced.report
import aced.runs.lines
from aced.cli import main as aced_main
from aced.models import load_tower, save_tower
from aced.models.compat import import_open_clip

STEPS = 14
SETTINGS: dict[str, list[str]] = {
    "aced, cached reference": ["method.name=aced", "reference.cache=cache"],
    "aced, cheap scoring": [
        *("method.name=aced", "reference.cache=cache", "scoring.cascade=0.5", "scoring.early=true"),
        *("scoring.reuse=6", "scoring.unseen=predict", "scoring.refresh=0.3"),
    ],
    "i-aced": ["method.name=i-aced", "run.log_every=3", "run.keep=1"],
    "iid": ["method.name=iid", "run.log_every=4", "run.checkpoint_every=5"],
    "h-acid, softmax, cached reference": ["method.name=h-acid", "method.loss=softmax", "reference.cache=cache"],
    "iid, dropped patches": ["method.name=iid", "student.model=dropping.json"],
}
SHORT = ["method.name=aced", "train.steps=4", "run.checkpoint_every=2", "run.keep=1"]
BASE = """
[run]
threads = 1
log_every = 1
checkpoint_every = 3
keep_best = true
[data]
shards = ["pool"]
max_bad_share = 0.5
[reference]
model = "reference"
[method]
chunks = 4
filtering_ratio = 0.5
[train]
batch = 8
steps = STEPS
lr = 1.5e-3
[eval]
tasks = ["task"]
every = 2
"""


# --- the data ---------------------------------------------------------------------------------------------------


def picture(number: int) -> bytes:
    """A small image whose pixels depend on `number`."""
    pixels = np.random.default_rng(number).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def write_tar(path: Path, members: dict[str, bytes]) -> None:
    """A tar of files by name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def make_place(folder: Path) -> None:
    """Tars with some images that cannot be read, a task, a reference, a student's config: an epoch is 6 steps."""
    for tar in range(2):
        members: dict[str, bytes] = {}
        for number in range(tar * 50, tar * 50 + 50):
            members[f"{number:04d}.png"] = b"no image" if number % 17 == 0 else picture(number)
            members[f"{number:04d}.txt"] = f"a picture of thing {number % 7}".encode()
        write_tar(folder / f"pool/{tar:05d}.tar", members)
    labelled = {f"{i}.png": picture(i) for i in range(12)} | {f"{i}.cls": b"%d" % (i % 3) for i in range(12)}
    write_tar(folder / "task/test/0.tar", dict(sorted(labelled.items())))
    (folder / "task/classnames.txt").write_text("one\ntwo\nthree\n", encoding="utf-8")
    (folder / "task/zeroshot_classification_templates.txt").write_text("a picture of thing {c}\n", encoding="utf-8")
    save_tower(load_tower("aced-demo-s", seed=7), folder / "reference")
    vision = {"image_size": 32, "layers": 1, "width": 32, "patch_size": 8, "head_width": 16, "patch_dropout": 0.5}
    text = {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 1, "layers": 1}
    dropping = {"embed_dim": 16, "custom_text": True, "init_logit_bias": -10, "vision_cfg": vision, "text_cfg": text}
    (folder / "dropping.json").write_text(json.dumps(dropping), encoding="utf-8")
    (folder / "config.toml").write_text(BASE.replace("STEPS", str(STEPS)), encoding="utf-8")


# --- children ---------------------------------------------------------------------------------------------------


@dataclass
class Place:
    """A folder with the data, in which commands are run."""

    folder: Path
    starts: int = 0
    kills: int = 0

    def start(self, out: str, words: Sequence[str], before: Callable[[], None] | None = None) -> int:
        """Fork a child that runs `aced train` in a session of its own; returns its process id."""
        self.starts += 1
        sys.stdout.flush()
        child = os.fork()
        if child:
            return child
        status = 70
        try:
            # A plain fork: what multiprocessing has open, such as its thread that hands over tensors, is the parent's.
            multiprocessing.util._run_after_forkers()  # type: ignore[attr-defined]
            os.setsid()
            os.chdir(self.folder)
            os.environ["COLUMNS"] = "250"  # sentences are not broken
            output = os.open(self.log(out), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(output, 1)
            os.dup2(output, 2)
            sys.stdout = sys.__stdout__ = os.fdopen(1, "w", encoding="utf-8")
            sys.stderr = sys.__stderr__ = os.fdopen(2, "w", encoding="utf-8")
            torch.manual_seed(os.getpid())  # the global generator must not matter
            sys.argv = ["aced", "train", "config.toml", f"run.out={out}", *words, "--resume"]
            if before is not None:
                before()
            aced_main()
        except SystemExit as ended:
            status = ended.code if isinstance(ended.code, int) else 0
        except BaseException:
            traceback.print_exc()
        finally:
            with suppress(BaseException):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(status)

    def finish(self, child: int, seconds: float = 120.0) -> int | None:
        """Wait for a child, and kill its whole group after so many seconds; its status, or None if it was killed."""
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                return self._status(status)
            time.sleep(0.002)
        with suppress(ProcessLookupError):  # killed before it has its group
            os.killpg(child, signal.SIGKILL)
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        return self._status(os.waitpid(child, 0)[1])

    def _status(self, status: int) -> int | None:
        if os.WIFSIGNALED(status):
            assert os.WTERMSIG(status) == signal.SIGKILL, status
            self.kills += 1
            return None
        return os.WEXITSTATUS(status)

    def whole(self, out: str, words: Sequence[str]) -> None:
        """Run the command to its end."""
        self.check(self.finish(self.start(out, words)), out)

    def check(self, status: int | None, out: str) -> None:
        """Stop where a run ended otherwise than well."""
        if status != 0:
            raise RuntimeError(f"{out} ended with status {status}:\n{self.said(out)[-1500:]}")

    def said(self, out: str) -> str:
        """What the commands of a run have printed so far."""
        return self.log(out).read_text(encoding="utf-8", errors="replace")

    def log(self, out: str) -> Path:
        """Where they print to."""
        return self.folder / f"{out.replace('/', '-')}.log"


# --- kills ------------------------------------------------------------------------------------------------------


def killed_at_random(place: Place, out: str, words: Sequence[str], draw: random.Random, longest: float) -> None:
    """Start the command until it ends by itself, killing it at random moments."""
    while True:
        workers = f"data.workers={draw.choice((0, 0, 1, 2))}"
        child = place.start(out, [*words, workers])
        status = place.finish(child, draw.uniform(0, longest))
        if status is not None:
            place.check(status, out)
            return


class Counted:
    """Kills this process before its k-th file operation, or half-way in it where it is a write.

    Operations are counted in the process that `arm` is called in and not in those that it forks.
    """

    def __init__(self, k: int) -> None:
        self.k, self.seen, self.process = k, 0, 0

    def arm(self) -> None:
        """Put the counter around the functions through which files change."""
        self.process = os.getpid()
        for name in ("replace", "fsync", "mkdir", "unlink", "rmdir", "ftruncate"):
            setattr(os, name, self._around(getattr(os, name)))
        safetensors.torch.save_file = self._half(safetensors.torch.save_file)
        Path.write_bytes = self._half_bytes(Path.write_bytes)  # type: ignore[method-assign]
        aced.runs.lines.append_line = self._half_line  # type: ignore[attr-defined]

    def point(self) -> bool:
        """Count one moment at which a kill could come; whether it is the one."""
        if os.getpid() != self.process:
            return False
        self.seen += 1
        return self.seen == self.k + 1

    def _around(self, inner: Callable) -> Callable:
        def call(*args: object, **kwargs: object) -> object:
            if self.point():
                die()
            return inner(*args, **kwargs)

        return call

    def _half(self, inner: Callable) -> Callable:
        def save(tensors: object, path: Path, **kwargs: object) -> None:
            if self.point():
                die()
            inner(tensors, path, **kwargs)
            if self.point():
                os.truncate(path, Path(path).stat().st_size // 2)
                die()

        return save

    def _half_bytes(self, inner: Callable) -> Callable:
        def write(path: Path, content: bytes) -> int:
            if self.point():
                inner(path, content[: len(content) // 2])
                die()
            return inner(path, content)

        return write

    def _half_line(self, path: Path, line: str) -> None:
        if self.point():
            with path.open("a", encoding="utf-8") as file:
                file.write(line[: len(line) // 2])
                file.flush()
                die()
        with path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
        if self.point():
            die()


def die() -> None:
    """SIGKILL, from within."""
    os.kill(os.getpid(), signal.SIGKILL)


# --- the comparison ---------------------------------------------------------------------------------------------


def lines_of(path: Path) -> list[dict[str, object]]:
    """The lines of a `.jsonl` file without what the clock said."""
    return [without_clock(json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


def without_clock(value: object) -> object:
    """A JSON value without seconds and without what differs by where a run lies and how it was started."""
    if isinstance(value, dict):
        # The size of a cache has the digits of the seconds in it that it took.
        skipped = ("seconds", "clock", "embed_seconds", "bytes", "date", "run", "cache", "workers")
        return {key: without_clock(inner) for key, inner in value.items() if key not in skipped}
    return [without_clock(inner) for inner in value] if isinstance(value, list) else value


def differences(whole: Path, other: Path) -> list[str]:
    """Every file in which two runs differ, in words; empty where they are the same."""
    found = []
    names = {p.relative_to(root) for root in (whole, other) for p in root.rglob("*") if p.is_file()}
    for name in sorted(names):
        one, two = whole / name, other / name
        if name.name in ("report.html", "run.lock", "config.toml"):
            continue  # times, and the folder's name
        if not (one.is_file() and two.is_file()):
            found.append(f"{name} is only in {whole.name if one.is_file() else other.name}")
        elif name.suffix == ".jsonl":
            if lines_of(one) != lines_of(two):
                found.append(f"{name}: {[line['step'] for line in lines_of(two)]}")
        elif name.suffix == ".json" and name.name != "gallery.json":
            if without_clock(json.loads(one.read_text(encoding="utf-8"))) != without_clock(
                json.loads(two.read_text(encoding="utf-8"))
            ):
                found.append(str(name))
        elif one.read_bytes() != two.read_bytes():
            found.append(str(name))
    return found


@contextmanager
def a_place(folder: Path | None) -> Iterator[Place]:
    """A folder for it, kept where it is named."""
    import_open_clip()
    with tempfile.TemporaryDirectory() as temporary:
        root = folder or Path(temporary)
        make_place(root)
        yield Place(root)


def uninterrupted(place: Place, name: str, words: Sequence[str]) -> tuple[Path, float]:
    """The run that the others are held against, and its time."""
    start = time.perf_counter()
    place.whole(name, words)
    return place.folder / name, time.perf_counter() - start


def random_kills(place: Place, kills: int, seed: int, report: Callable[[str], None]) -> int:
    """At least so many kills over the settings in turn; returns how many comparisons failed."""
    draw, bad, number = random.Random(seed), 0, 0
    wholes: dict[str, tuple[Path, float]] = {}
    while place.kills < kills or number < len(SETTINGS):
        title, words = list(SETTINGS.items())[number % len(SETTINGS)]
        if title not in wholes:
            wholes[title] = uninterrupted(place, f"whole-{number}", words)
        whole, longest = wholes[title]
        before, out = place.kills, f"killed-{number}"
        killed_at_random(place, out, words, draw, longest)
        wrong = differences(whole, place.folder / out)
        bad += bool(wrong)
        report(f"{title}: {place.kills - before} kills, {'; '.join(wrong) if wrong else 'the same'}")
        number += 1
    return bad


def operation_kills(
    place: Place, words: Sequence[str], first: int, last: int, step: int, report: Callable[[str], None]
) -> int:
    """A new run for each k, killed at its k-th operation and resumed; returns how many comparisons failed."""
    # Each with a cache of its own, so that its making is killed too.
    whole, _ = uninterrupted(place, "operations", [*words, "reference.cache=operations-cache"])
    bad = 0
    for k in range(first, last, step):
        out = f"operation-{k}"
        own = [*words, f"reference.cache={out}-cache"]
        if place.finish(place.start(out, own, Counted(k).arm)) == 0:
            report(f"operation {k}: there are no more")
            break
        place.whole(out, own)
        wrong = differences(whole, place.folder / out)
        bad += bool(wrong)
        report(f"operation {k}: {'; '.join(wrong) if wrong else 'the same'}")
    return bad


def main() -> None:
    """Kill, resume, compare, and print one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100, help="at least so many, at random moments")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--operations", action="store_true", help="kill at every file operation instead")
    parser.add_argument("--first", type=int, default=0, help="number of the first operation")
    parser.add_argument("--last", type=int, default=10**6, help="number behind the last operation")
    parser.add_argument("--step", type=int, default=1, help="from one operation to the next that is tried")
    parser.add_argument("--keep", type=Path, help="an empty folder to work in, which stays")
    args = parser.parse_args()
    torch.set_num_threads(1)
    console = Console(width=120)
    start = time.perf_counter()
    with a_place(args.keep) as place:
        if args.operations:
            bad = operation_kills(place, SHORT, args.first, args.last, args.step, console.print)
        else:
            bad = random_kills(place, args.kills, args.seed, console.print)
        result = {"kills": place.kills, "starts": place.starts, "different": bad}
    print(json.dumps({"benchmark": "kills", **result, "seconds": round(time.perf_counter() - start, 1)}))
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
