"""Tars of a pool that is larger than its folder, fetched as visits need them: from a store that has its moods."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import fsspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aced.errors import AcedError
from aced.files.remote import Remote, find
from aced.pool.fetch.fetching import Fetcher, Visit, most_at_once, one_by_one
from aced.pool.fetch.streamed import Further, Streamed
from aced.pool.tars.losttars import TarLost
from s3_fakes import BUCKET, Store, put, s3_store

TARS, SIZE = 40, 1000
POOL = f"s3://{BUCKET}/pool/{{00000..{TARS - 1:05d}}}.tar"


def content(tar: int) -> bytes:
    return bytes([tar]) * SIZE


@pytest.fixture(scope="module")
def server() -> Iterator[Store]:
    with s3_store() as store:
        for tar in range(TARS):
            put(f"pool/{tar:05d}.tar", content(tar))
            put(f"cache/{tar:05d}.safetensors", content(tar)[: SIZE // 10])
        yield store


@pytest.fixture
def store(server: Store) -> Iterator[Store]:
    server.reset()
    yield server
    server.reset()


def streamed(folder: Path, limit: int, **more: object) -> Streamed:
    pool = Streamed(folder, find(POOL), limit, patience=1.0, **more)  # type: ignore[arg-type]
    pool.open()
    return pool


def bytes_below(folder: Path) -> int:
    """What lies in a folder, half files too, though files come and go meanwhile."""
    taken = 0
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):
            taken += path.stat().st_size if path.is_file() and path.name != ".state" else 0
    return taken


class Watching(threading.Thread):
    """Notes the most bytes that lie in a folder while the block runs."""

    def __init__(self, folder: Path) -> None:
        super().__init__(daemon=True)
        self.folder, self.most, self.over = folder, 0, False

    def run(self) -> None:
        while not self.over:
            self.most = max(self.most, bytes_below(self.folder))

    def __enter__(self) -> Watching:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over = True
        self.join()


def walked(pool: Streamed, visits: list[Visit], at: int = 0) -> Iterator[int]:
    """Steps, each once its tars have been read and found to be right; the fetcher ends with the iterator."""
    stop = max(visit.last for visit in visits) + 1
    with Fetcher(pool, iter(visits), first=at, stop=stop) as fetcher:
        for step in range(at, stop):
            for visit in visits:
                if visit.first <= step <= visit.last:
                    assert pool.path(visit.tar).read_bytes() == content(visit.tar)
            fetcher.done(step)
            yield step


BLOCKS = [Visit(tar, 2 * (tar // 2), 2 * (tar // 2) + 1) for tar in range(TARS)]
"""Two tars for two steps, then the next two."""


def test_a_pool_twenty_times_the_folder_is_walked_each_tar_once(store: Store, tmp_path: Path) -> None:
    pool = streamed(tmp_path, 2 * SIZE)
    with Watching(tmp_path) as watch:
        assert list(walked(pool, BLOCKS)) == list(range(TARS))
    assert watch.most <= 2 * SIZE
    assert set(store.gets.values()) == {1}
    assert len(store.gets) == TARS


def test_several_are_fetched_at_a_time_and_ahead(store: Store, tmp_path: Path) -> None:
    store.slow = 0.2
    pool = streamed(tmp_path, 16 * SIZE)
    steps = walked(pool, BLOCKS)
    next(steps)
    deadline = time.monotonic() + 300
    while len(store.gets) < 16 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(store.gets) == 16  # as many as there is room for, though no step needs them yet
    assert store.most > 2
    steps.close()


def test_what_fits_is_fetched_once_for_all_passes(store: Store, tmp_path: Path) -> None:
    visits = [Visit(tar, step, step) for step, tar in enumerate([3, 1, 2, 1, 3, 2, 2, 1, 3])]
    assert len(list(walked(streamed(tmp_path, 3 * SIZE), visits))) == 9
    assert sorted(store.gets.values()) == [1, 1, 1]
    store.reset()
    assert len(list(walked(streamed(tmp_path, 3 * SIZE), visits))) == 9
    assert not store.gets  # nor for the next run


@pytest.mark.parametrize("mood", ["busy", "cut"])
def test_a_store_in_a_mood_is_asked_again(store: Store, tmp_path: Path, mood: str) -> None:
    store.trouble = lambda path, times: mood if times == 1 and int(path[-9:-4]) % 3 == 0 else ""
    visits = BLOCKS[:10]
    assert len(list(walked(streamed(tmp_path, 2 * SIZE), visits))) == 10
    assert sorted(store.gets) == [f"/{BUCKET}/pool/{tar:05d}.tar" for tar in range(10)]


def test_a_store_that_stays_busy_ends_it_with_its_address(store: Store, tmp_path: Path) -> None:
    store.trouble = lambda path, times: "busy" if path.endswith("4.tar") else ""
    pool = streamed(tmp_path, 2 * SIZE)
    with pytest.raises(AcedError, match=r"^s3://bucket/pool/00004\.tar .*SlowDown"):
        list(walked(pool, BLOCKS))


def test_a_tar_that_is_gone_and_one_that_changed_are_lost_and_the_others_come(store: Store, tmp_path: Path) -> None:
    pool = streamed(tmp_path, 2 * SIZE)
    put("pool/00003.tar", b"x" * SIZE)
    store.trouble = lambda path, times: "gone" if path.endswith("00005.tar") else ""
    try:
        found: dict[int, str] = {}
        with Fetcher(pool, one_by_one(range(TARS)), first=0, stop=TARS) as fetcher:
            for tar in range(TARS):
                try:
                    assert pool.path(tar).read_bytes() == content(tar)
                except TarLost as lost:
                    found[tar] = f"{lost.name} {f'pool/{tar:05d}.tar' in str(lost)}"
                fetcher.done(tar)
        assert found == {3: "tar_changed True", 5: "tar_gone True"}
    finally:
        put("pool/00003.tar", content(3))


def test_what_travels_with_a_tar_is_there_before_it_and_goes_with_it(store: Store, tmp_path: Path) -> None:
    caches = find(f"s3://{BUCKET}/cache/{{00000..{TARS - 1:05d}}}.safetensors")
    pool = streamed(tmp_path, 3 * SIZE, further=lambda tar: [Further(caches[tar], f"tower/{tar}.safetensors")])
    limit = 3 * SIZE
    with (
        Watching(tmp_path) as watch,
        Fetcher(pool, one_by_one(range(TARS)), first=0, stop=TARS) as fetcher,
    ):
        for tar in range(TARS):
            pool.path(tar)
            assert (tmp_path / f"tower/{tar}.safetensors").read_bytes() == content(tar)[: SIZE // 10]
            fetcher.done(tar)
    assert watch.most <= limit
    assert len(list((tmp_path / "tower").iterdir())) <= 2
    assert set(store.gets.values()) == {1}


def test_a_folder_too_small_is_refused_with_the_size_that_does(store: Store, tmp_path: Path) -> None:
    pool = streamed(tmp_path, 2 * SIZE - 1)
    with pytest.raises(AcedError, match=r"2e-06 GB.*data\.spool_gb.*2e-06 GB"):
        Fetcher(pool, iter(BLOCKS), first=0, stop=TARS)
    assert not store.gets


def test_what_a_killed_run_left_is_used_if_it_is_whole_and_wanted(store: Store, tmp_path: Path) -> None:
    limit = 6 * SIZE
    steps = walked(streamed(tmp_path, limit), BLOCKS)
    while next(steps) < 4:
        pass
    steps.close()
    left = {path.read_bytes()[0]: path for path in tmp_path.iterdir() if path.name[0] != "."}
    assert {4, 5} <= set(left)  # needed by the step that comes next
    shorter, older = left[4], left[5]
    when = older.stat().st_mtime_ns
    shorter.write_bytes(content(4)[:10])
    older.write_bytes(b"y" * SIZE)  # as large, and of another time
    assert older.stat().st_mtime_ns != when
    (tmp_path / ".half.tar.tmp").write_bytes(b"half")
    (tmp_path / "0-0-another.tar").write_bytes(b"of another pool")
    whole = set(left) - {4, 5}
    store.reset()
    pool = streamed(tmp_path, limit)
    fetcher = Fetcher(pool, (visit for visit in BLOCKS if visit.last >= 4), first=4, stop=TARS)
    assert {path.name for path in tmp_path.iterdir()} >= {".state", ".lock"}
    assert {path.read_bytes()[0] for path in tmp_path.iterdir() if path.name[0] != "."} == whole & set(range(4, 10))
    fetcher.start()
    assert pool.path(4).read_bytes() == content(4)
    assert pool.path(5).read_bytes() == content(5)
    fetcher.close()
    assert not {int(path[-9:-4]) for path in store.gets} & whole


def _reads(pool: Streamed, tars: list[int], answers: multiprocessing.Queue) -> None:  # type: ignore[type-arg]
    for tar in tars:
        answers.put((tar, pool.path(tar).read_bytes()[:1]))


def test_processes_wait_for_what_another_one_fetches(store: Store, tmp_path: Path) -> None:
    store.slow = 0.05
    limit = 8 * SIZE
    pool = streamed(tmp_path, limit)
    fetcher = Fetcher(pool, one_by_one(range(8)), first=0, stop=8)
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    readers = [context.Process(target=_reads, args=(pool, list(range(8))[part::2], answers)) for part in range(2)]
    for reader in readers:
        reader.start()
    fetcher.start()
    got = [answers.get(timeout=300) for _ in range(8)]
    for reader in readers:
        reader.join()
    fetcher.close()
    assert sorted(got) == [(tar, content(tar)[:1]) for tar in range(8)]
    assert set(store.gets.values()) == {1}


def test_without_a_fetcher_readers_fetch_what_they_ask_for_and_the_oldest_goes(store: Store, tmp_path: Path) -> None:
    pool = streamed(tmp_path, 3 * SIZE)
    for tar in [1, 2, 3, 1, 4, 5]:
        assert pool.path(tar).read_bytes() == content(tar)
        assert bytes_below(tmp_path) <= 3 * SIZE
        time.sleep(0.02)
    assert Counter(int(path[-9:-4]) for path in store.gets.elements()) == {1: 1, 2: 1, 3: 1, 4: 1, 5: 1}


def _holds(folder: Path, ready: multiprocessing.synchronize.Event) -> None:
    pool = Streamed(folder, [], 0)
    pool.open()
    ready.set()
    signal.pause()


def test_of_two_runs_on_one_folder_the_second_is_refused_and_not_after_a_kill(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    first = context.Process(target=_holds, args=(tmp_path, ready))
    first.start()
    assert ready.wait(300)
    monkeypatch.setattr("aced.pool.fetch.streamed._HOLD", 0.2)
    with pytest.raises(AcedError, match=f"{tmp_path}"):
        streamed(tmp_path, SIZE)
    os.kill(first.pid or 0, signal.SIGKILL)
    first.join()
    streamed(tmp_path, SIZE)


def wait_until(there: Callable[[], bool]) -> None:
    until = time.monotonic() + 300
    while not there():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_seconds_are_told_that_were_spent_waiting_for_tars(store: Store, tmp_path: Path) -> None:
    store.slow = 0.3
    limit = 4 * SIZE
    pool = streamed(tmp_path, limit)
    with Fetcher(pool, one_by_one(range(4)), first=0, stop=4) as fetcher:
        begun = time.perf_counter()
        pool.path(0)
        came = time.perf_counter()
        wait_until(lambda: fetcher._ready.when(0, math.inf) < math.inf)  # a moment after its file has come
        fetcher.took(0, begun, came + 1000)
        assert 0 < fetcher.spent < 1000
        pool.path(3)
        wait_until(lambda: fetcher._ready.when(3, math.inf) < math.inf)
        late = time.perf_counter()
        before = fetcher.spent
        fetcher.took(3, late, late + 7)
        assert fetcher.spent == before


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 20), st.integers(0, 6)), max_size=20))
def test_the_most_at_once_is_what_counting_step_by_step_gives(drawn: list[tuple[int, int, int]]) -> None:
    visits = sorted((Visit(tar, first, first + more) for tar, first, more in drawn), key=lambda visit: visit.first)
    sizes = [3, 1, 4, 1, 5, 9]
    plain = max(
        (sum(sizes[tar] for tar in {v.tar for v in visits if v.first <= step <= v.last}) for step in range(30)),
        default=0,
    )
    assert most_at_once(visits, sizes.__getitem__) == plain


@settings(deadline=None)
@given(st.randoms(use_true_random=False))
def test_any_walk_is_served_within_its_bound(tmp_path_factory: pytest.TempPathFactory, dice: random.Random) -> None:
    """With files that come at once: the book-keeping alone."""
    import fsspec

    folder, system = tmp_path_factory.mktemp("walk"), fsspec.filesystem("memory")
    sizes = [dice.randint(1, 9) for _ in range(6)]
    remotes = []
    for tar, size in enumerate(sizes):
        system.pipe(f"/walk/{tar}.tar", bytes([tar]) * size)
        remotes.append(Remote(f"memory:///walk/{tar}.tar", size, ""))
    firsts = sorted(dice.randint(0, 12) for _ in range(12))
    visits = [Visit(dice.randrange(6), first, first + dice.randint(0, 3)) for first in firsts]
    limit = most_at_once(visits, sizes.__getitem__) + dice.choice([0, 0, 3])
    pool = Streamed(folder, remotes, limit)
    pool.open()
    stop = max(visit.last for visit in visits) + 1
    with Fetcher(pool, iter(visits), first=0, stop=stop) as fetcher:
        for step in range(stop):
            for visit in visits:
                if visit.first <= step <= visit.last:
                    assert pool.path(visit.tar).read_bytes() == bytes([visit.tar]) * sizes[visit.tar]
            assert bytes_below(folder) <= limit
            fetcher.done(step)


class Hub(BaseHTTPRequestHandler):
    """As much of the hub of Hugging Face as a dataset of tars needs."""

    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        self.asked.append(path)
        tars = [f"data/{tar:05d}.tar" for tar in range(TARS)]
        if path.startswith("/api/datasets/somebody/pool/tree/main"):
            files: list[dict[str, object]] = [
                {"type": "file", "path": t, "size": SIZE, "oid": f"{t:>40}"} for t in tars
            ]
            folder = [{"type": "directory", "path": "data", "size": 0, "oid": "0" * 40}]
            body = json.dumps(files if path.endswith("data") else folder).encode()
        elif path.startswith("/api/datasets/somebody/pool"):
            body = json.dumps({"id": "somebody/pool", "sha": "a" * 40, "siblings": [], "private": False}).encode()
        else:
            body = content(int(path[-9:-4]))
        self.send_response(200)
        for name, value in (("Content-Length", str(len(body))), ("ETag", "x"), ("X-Repo-Commit", "a" * 40)):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


def test_a_dataset_of_the_hub_is_fetched_as_a_bucket_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setitem(fsspec.config.conf, "hf", {"endpoint": f"http://127.0.0.1:{server.server_port}"})
        pool = Streamed(tmp_path, find(f"hf://datasets/somebody/pool/data/{{00000..{TARS - 1:05d}}}.tar"), 2 * SIZE)
        pool.open()
        assert list(walked(pool, BLOCKS)) == list(range(TARS))
        server.shutdown()
    assert Counter(Hub.asked)["/api/datasets/somebody/pool/tree/main/data"] == 1
    assert sum(path.endswith(".tar") for path in Hub.asked) == TARS
    assert len(Hub.asked) <= TARS + 4
