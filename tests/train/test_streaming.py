"""Training on a pool in a store, many times the spool: the same weights as from a disk, whatever the store does."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import re
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from aced.cli import main
from cli_fakes import Cli
from run_fakes import write_pairs
from s3_fakes import BUCKET, Store, put, s3_store
from wording import tells

TARS, PAIRS, STEPS = 104, 8, 52
POOL = f"s3://{BUCKET}/pool/{{00000..{TARS - 1:05d}}}.tar"
WORDS = [
    *(
        "train",
        "scenes",
        "method.name=iid",
        "student.model=aced-demo-s",
        "eval.tasks=[]",
        "run.threads=1",
        "run.log_every=1",
    ),
    *(f"train.steps={STEPS}", "train.batch=16", "data.streams=2", "data.locality=1", "data.in_memory=false"),
]


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("disk")
    for tar in range(TARS):
        write_pairs(folder / f"pool/{tar:05d}.tar", range(PAIRS * tar, PAIRS * (tar + 1)))
    return folder


@pytest.fixture(scope="module")
def server(disk: Path) -> Iterator[Store]:
    with s3_store() as store:
        for path in sorted((disk / "pool").iterdir()):
            put(f"pool/{path.name}", path.read_bytes())
        put("pool/sizes.json", json.dumps({f"{tar:05d}.tar": PAIRS for tar in range(TARS)}).encode())
        yield store


@pytest.fixture
def store(server: Store) -> Iterator[Store]:
    server.reset()
    yield server
    server.reset()


@pytest.fixture(scope="module")
def spool_gb(disk: Path) -> float:
    """A twentieth of the pool, which is five tars."""
    return sum(path.stat().st_size for path in (disk / "pool").iterdir()) / 20 / 1e9


def ended(cli: Cli, place: Path, shards: str, *words: str, workers: int = 1) -> Any:
    return cli(*WORDS, f"data.shards={shards}", f"run.out={place}", f"data.workers={workers}", *words)


def streaming(place: Path, spool_gb: float) -> list[str]:
    return [f"data.spool_dir={place.parent / 'spool'}", f"data.spool_gb={spool_gb}"]


def weights(out: Path) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in load_file(out / "model/model.safetensors").items()}


def lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def spooled(place: Path) -> int:
    """Bytes in the spool, half files too."""
    files = [path for path in (place / "spool/stream-0").rglob("*") if path.is_file() and path.name != ".state"]
    return sum(path.stat().st_size for path in files)


EXPECTED: dict[Path, dict[str, bytes]] = {}


@pytest.fixture
def expected(cli: Cli, disk: Path, tmp_path: Path) -> dict[str, bytes]:
    """The weights of a run on a disk, made once."""
    if disk not in EXPECTED:
        done = ended(cli, tmp_path / "expected", str(disk / "pool"), workers=0)
        assert done.status == 0, done.err
        EXPECTED[disk] = weights(tmp_path / "expected")
    return EXPECTED[disk]


@pytest.mark.parametrize("moods", [False, True])
def test_a_pool_twenty_times_the_spool_gives_the_weights_that_a_disk_gives(
    cli: Cli, store: Store, tmp_path: Path, spool_gb: float, expected: dict[str, bytes], moods: bool
) -> None:
    """With a store that is slow, busy and cuts its connections too."""
    if moods:
        kinds = {0: "busy", 1: "cut", 2: "cut"}
        store.trouble = lambda path, times: kinds.get((int(path[-9:-4]) + times) % 7, "") if times < 3 else ""
        store.slow = 0.01
    out = tmp_path / "run"
    done = ended(cli, out, POOL, *streaming(out, spool_gb), workers=0 if moods else 2)
    assert done.status == 0, done.err
    assert weights(out) == expected
    assert Counter(store.gets.values()) == {1: TARS}  # one epoch
    last = lines(out)[-1]
    assert 0 <= last["seconds"]["fetch"] < sum(last["seconds"].values())
    assert last["seconds"]["fetch"] > 0 or not moods
    assert spooled(tmp_path) <= spool_gb * 1e9


def run_in_a_session(words: list[str]) -> None:
    """`aced` in a process group of its own, which is to be killed."""
    os.setsid()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.argv = ["aced", *words]
    main()


def begun(words: list[str]) -> ForkProcess:
    run = multiprocessing.get_context("fork").Process(target=run_in_a_session, args=(words,))
    run.start()
    return run


def trained(out: Path) -> bool:
    """Whether a run has written the line of a step."""
    path = out / "metrics.jsonl"
    return path.exists() and "\n" in path.read_text()


def test_a_run_that_is_killed_again_and_again_gives_the_same_weights_and_the_spool_does_not_grow(
    store: Store, tmp_path: Path, spool_gb: float, expected: dict[str, bytes]
) -> None:
    """At moments that the store decides, which holds back the further tars: no run is too fast to be killed."""
    out = tmp_path / "run"
    words = [*WORDS, f"data.shards={POOL}", f"run.out={out}", "run.checkpoint_every=4", "data.workers=1", "--resume"]
    words += streaming(out, spool_gb)
    dice = random.Random(5)
    store.slow = 0.01
    for _ in range(3):
        most = store.gets.total() + dice.randrange(12, 30)  # thrice that is less than the pool
        store.trouble = lambda path, times, most=most: "busy" if store.gets.total() >= most else ""  # type: ignore[misc]
        run = begun(words)
        # More tars than the spool holds: steps have used the first ones.
        while run.is_alive() and (store.gets.total() < most or not trained(out)):
            time.sleep(0.01)
        run.join(dice.uniform(0.0, 0.3))
        assert run.is_alive()
        os.killpg(run.pid or 0, signal.SIGKILL)
        run.join()
        assert spooled(tmp_path) <= spool_gb * 1e9
        for path in (tmp_path / "spool/stream-0").glob("*.tar"):  # what is there must not be believed for its name
            if dice.random() < 0.3:
                path.write_bytes(path.read_bytes()[: dice.randrange(1000)])
    store.trouble = lambda path, times: ""
    run = begun(words)
    run.join(300)
    assert run.exitcode == 0
    assert spooled(tmp_path) <= spool_gb * 1e9
    assert weights(out) == expected
    assert [line["step"] for line in lines(out)] == list(range(1, STEPS + 1))


@pytest.mark.parametrize("fault", ["tar_gone", "tar_changed"])
def test_a_tar_that_is_lost_ends_the_run_with_a_checkpoint_or_is_left_out(
    cli: Cli, store: Store, disk: Path, tmp_path: Path, spool_gb: float, fault: str
) -> None:
    """The twelfth that is asked for."""
    asked: list[str] = []
    other = (disk / "pool/00000.tar").read_bytes()

    def note(path: str) -> None:
        if path.endswith(".tar") and path not in asked:
            asked.append(path)
            if fault == "tar_changed" and len(asked) == 12:
                put(path.removeprefix(f"/{BUCKET}/"), other)

    store.before = note
    store.trouble = lambda path, times: "gone" if fault == "tar_gone" and asked[11:12] == [path] else ""
    words = ["train.steps=8", "run.checkpoint_every=0"]
    done = ended(cli, tmp_path / "stop", POOL, *words, *streaming(tmp_path / "stop", spool_gb))
    lost = asked[11].removeprefix(f"/{BUCKET}/")
    assert done.status == 2
    assert lost in done.err
    assert "saved" in done.err
    assert list((tmp_path / "stop/checkpoints").iterdir())
    store.before = lambda path: None
    put(lost, (disk / lost).read_bytes())
    asked.clear()
    store.before = note
    done = ended(cli, tmp_path / "skip", POOL, *words, *streaming(tmp_path / "skip", spool_gb), "data.bad_tars=skip")
    store.before = lambda path: None
    put(asked[11].removeprefix(f"/{BUCKET}/"), (disk / asked[11].removeprefix(f"/{BUCKET}/")).read_bytes())
    assert done.status == 0, done.err
    faults = lines(tmp_path / "skip")[-1]["faults"]
    assert set(faults) == {fault}
    assert 0 < faults[fault] <= PAIRS


SHORT = ["train.steps=3"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["data.locality=0"], r"data\.spool_gb = .*data\.locality"),
        (["data.locality=4"], r"data\.spool_gb .*data\.locality"),
        (["data.shards=s3://nowhere/pool/{00000..00099}.tar"], r"s3://nowhere/pool/00000\.tar"),
        (["data.shards=s3://nowhere/pool"], r"s3://nowhere/pool"),
        (["data.in_memory=true"], r"data\.in_memory"),
    ],
)
def test_what_cannot_be_is_said_in_one_sentence(
    cli: Cli, store: Store, tmp_path: Path, spool_gb: float, words: list[str], says: str
) -> None:
    out = tmp_path / "run"
    done = ended(cli, out, POOL, *SHORT, *streaming(out, spool_gb), *words)
    assert done.status == 2
    assert re.search(says, done.err), done.err
    assert len(done.err.splitlines()) == 1
    assert not out.exists()
    assert not store.gets


def test_credentials_that_do_not_suffice_are_named(cli: Cli, store: Store, tmp_path: Path, spool_gb: float) -> None:
    store.denied = True
    out = tmp_path / "run"
    done = ended(cli, out, POOL, *SHORT, *streaming(out, spool_gb))
    assert done.status == 2
    assert re.search(r"^aced: s3://bucket/pool/00000\.tar .*credentials", done.err), done.err
    assert len(done.err.splitlines()) == 1


def test_without_anything_said_the_pool_streams_if_it_does_not_fit(
    cli: Cli, store: Store, tmp_path: Path, spool_gb: float
) -> None:
    out = tmp_path / "run"
    words = [word for word in WORDS if not word.startswith(("data.locality", "data.streams"))]
    done = cli(*words, f"data.shards={POOL}", f"run.out={out}", *SHORT, *streaming(out, 2 * spool_gb), "data.workers=0")
    assert done.status == 0, done.err
    assert "data.locality=" in done.out
    assert len(store.gets) < 20
    store.reset()
    out = tmp_path / "whole"
    done = cli(*words, f"data.shards={POOL}", f"run.out={out}", *SHORT, *streaming(out, 1), "data.workers=0")
    assert done.status == 0, done.err
    assert len(store.gets) == TARS  # as much as there is, before the first step


def test_a_pool_of_which_nothing_is_told_is_counted_on_its_way_and_only_once(
    cli: Cli, store: Store, disk: Path, tmp_path: Path, spool_gb: float, trained: dict[str, Path]
) -> None:
    short = f"s3://{BUCKET}/untold/{{00000..00015}}.tar"
    for tar in range(16):
        put(f"untold/{tar:05d}.tar", (disk / f"pool/{tar:05d}.tar").read_bytes())
    out = tmp_path / "run"
    words = [*SHORT, *streaming(out, spool_gb), "data.index_dir=" + str(tmp_path / "index")]
    done = ended(cli, out, short, *words)
    assert done.status == 0, done.err
    assert "16 tars" in done.out
    assert tells(done.out, f"{16 * PAIRS} … 16 tars")
    assert len(store.gets) == 16
    store.reset()
    cached = [
        "method.name=i-aced",
        "method.filtering_ratio=0.5",
        "train.batch=8",
        f"reference.cache={tmp_path / 'cache'}",
    ]
    done = ended(cli, tmp_path / "again", short, *words, *cached, f"reference.model={trained['large']}", workers=2)
    assert done.status == 0, done.err
    assert len(list((tmp_path / "cache").rglob("*.safetensors"))) == 16
    assert len(store.gets) == 16
    assert sum(store.gets.values()) < 3 * 16  # once for the cache, and some of them to train on
    store.reset()
    words = ["--spool-dir", tmp_path / "spool", "--spool-gb", spool_gb, "--index-dir", tmp_path / "other"]
    done = cli("index", short, *words)
    assert done.status == 0, done.err
    assert set(store.gets.values()) == {1}
    assert f"{16 * PAIRS}" in done.out


class Web(SimpleHTTPRequestHandler):
    """Serves a folder, and says nothing."""

    def log_message(self, *_: object) -> None: ...


def test_a_web_server_serves_as_well(
    cli: Cli, disk: Path, tmp_path: Path, spool_gb: float, expected: dict[str, bytes]
) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Web, directory=disk)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/pool/{{00000..{TARS - 1:05d}}}.tar"
        out = tmp_path / "run"
        done = ended(cli, out, address, *streaming(out, spool_gb), workers=0)
        server.shutdown()
    assert done.status == 0, done.err
    assert weights(out) == expected
    assert f"{TARS} tars" in done.out  # nothing beside them tells how many pairs they hold
