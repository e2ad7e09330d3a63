"""A pool in a store that is many times the spool: runs that are killed, processes that share it, and what each costs.

    python benchmarks/streaming.py                    # 20 kills at random moments, against a run on a disk
    python benchmarks/streaming.py --kills 100 --seed 3
    python benchmarks/streaming.py --ranks 2          # by torchrun, without kills
    python benchmarks/streaming.py --slow 0.1         # every object takes so many seconds

It needs `moto[s3]` and `flask` (`pip install -e .[dev]`): the store is an S3 server on the loopback address that this
script starts and ends. Told are, for each setting, whether weights and lines are those of the same pool on a disk, how
many objects were fetched, the most bytes that lay in the spool, and the share of the time that was spent waiting.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from safetensors.torch import load_file

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from run_fakes import write_pairs
from s3_fakes import BUCKET, Store, put, s3_store

TARS, PAIRS, STEPS = 192, 12, 72
WORDS = [
    *("train", "scenes", "method.name=iid", "student.model=aced-demo-s", "eval.tasks=[]", "run.threads=1"),
    *(f"train.steps={STEPS}", "train.batch=32", "data.streams=2", "data.locality=1", "data.in_memory=false"),
    *("run.log_every=1", "run.checkpoint_every=4", "data.workers=2", "--resume"),
]
SMALLER = 25
"""The pool is so many times the spool."""


class Spool(threading.Thread):
    """Watches the most bytes that lie in a folder."""

    def __init__(self, folder: Path) -> None:
        super().__init__(daemon=True)
        self.folder, self.most, self.over = folder, 0, False

    def run(self) -> None:
        """Look again and again."""
        while not self.over:
            taken = 0
            for path in self.folder.rglob("*"):
                with contextlib.suppress(FileNotFoundError):
                    taken += path.stat().st_size if path.is_file() and path.name != ".state" else 0
            self.most = max(self.most, taken)
            time.sleep(0.002)


@contextlib.contextmanager
def watched(folder: Path) -> Iterator[Spool]:
    """Watch a folder for as long as the block runs."""
    spool = Spool(folder)
    spool.start()
    yield spool
    spool.over = True
    spool.join()


def started(words: list[str], ranks: int) -> subprocess.Popen[bytes]:
    """`aced` in a process group of its own."""
    program = ["-c", "import sys; from aced.cli import main; sys.argv[0] = 'aced'; main()"]
    if ranks > 1:
        launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", "--no-python"]
        program = [*launch, sys.executable, *program]
    return subprocess.Popen([sys.executable, *program, *words], stdout=subprocess.DEVNULL, start_new_session=True)


def killed(words: list[str], kills: int, dice: random.Random, store: Store) -> int:
    """Run until the end, with some kills on the way, most of them while tars are fetched; how many there were."""
    done = 0
    while True:
        run, before = started(words, 1), sum(store.gets.values())
        early = dice.random() < 0.2  # also before anything is fetched
        while done < kills and run.poll() is None and not early and sum(store.gets.values()) == before:
            time.sleep(0.01)
        try:
            run.wait(dice.uniform(0, 3.0) if done < kills else None)
        except subprocess.TimeoutExpired:
            os.killpg(run.pid, signal.SIGKILL)
            run.wait()
            done += 1
            continue
        if run.returncode:
            raise SystemExit(f"the run ended with {run.returncode}")
        return done


def told(name: str, out: Path, disk: Path, store: Store, spool: Spool, limit: float, seconds: float) -> bool:
    """Print a line about a run; whether it is equal to the one on a disk."""
    mine, other = (load_file(folder / "model/model.safetensors") for folder in (out, disk))
    equal = all(mine[key].equal(other[key]) for key in other)
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    whole = [line["step"] for line in lines] == list(range(1, STEPS + 1))
    spent = lines[-1]["seconds"]
    waited = spent.get("fetch", 0.0) / sum(spent.values())
    print(
        f"{name:24} weights {'equal' if equal else 'DIFFER':7} lines {'whole' if whole else 'BROKEN':7} "
        f"objects sent {sum(store.gets.values()):5} of {TARS}, spool at most {spool.most / limit:6.1%} of its limit, "
        f"waiting {waited:5.1%} of the steps, {seconds:.1f} s",
        flush=True,
    )
    return equal and whole and spool.most <= limit


def main() -> None:
    """Run what the words ask for; ends with 1 where anything differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--slow", type=float, default=0.02)
    asked = parser.parse_args()
    good = True
    with tempfile.TemporaryDirectory() as folder, s3_store() as store:
        place = Path(folder)
        os.environ["XDG_CACHE_HOME"] = folder
        for tar in range(TARS):
            path = write_pairs(place / f"pool/{tar:05d}.tar", range(PAIRS * tar, PAIRS * (tar + 1)))
            put(f"pool/{path.name}", path.read_bytes())
        put("pool/sizes.json", json.dumps({f"{tar:05d}.tar": PAIRS for tar in range(TARS)}).encode())
        limit = sum(path.stat().st_size for path in (place / "pool").iterdir()) / SMALLER * asked.ranks
        if started([*WORDS, f"data.shards={place / 'pool'}", f"run.out={place / 'disk'}"], asked.ranks).wait():
            raise SystemExit("the run on a disk failed")
        pool = f"s3://{BUCKET}/pool/{{00000..{TARS - 1:05d}}}.tar"
        for name, kills in [("uninterrupted", 0)] + [("killed", asked.kills)] * (asked.ranks == 1):
            store.reset()
            store.slow = asked.slow
            out, spool = place / name, place / f"spool-{name}"
            words = [*WORDS, f"data.shards={pool}", f"run.out={out}", f"data.spool_dir={spool}"]
            words.append(f"data.spool_gb={limit / 1e9}")
            begun = time.monotonic()
            with watched(spool) as watch:
                if asked.ranks > 1 and started(words, asked.ranks).wait():
                    raise SystemExit("the run failed")
                done = killed(words, kills, random.Random(asked.seed), store) if asked.ranks == 1 else 0
            name = f"{done} kills" if kills else f"{name}, {asked.ranks} rank{'s' * (asked.ranks > 1)}"
            good &= told(name, out, place / "disk", store, watch, limit, time.monotonic() - begun)
    raise SystemExit(not good)


if __name__ == "__main__":
    main()
