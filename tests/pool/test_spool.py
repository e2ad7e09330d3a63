"""Tars at addresses and in gzip: fetched and unpacked once, whole or not at all, within a bound."""

from __future__ import annotations

import errno
import gzip
import itertools
import multiprocessing
import os
import shutil
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec
import pytest
from data_fakes import pairs, tar_bytes

from aced.errors import AcedError
from aced.files import download, spoolroom
from aced.files import remote as remote_module
from aced.files.remote import find
from aced.files.spoolroom import exclusive
from aced.pool.fetch import spool as spool_module
from aced.pool.fetch.spool import GIGABYTE, Spool
from aced.pool.shards import Shards, open_shards
from aced.pool.tars.located import name_tars
from aced.pool.views import View

WHOLE = [tar_bytes(pairs(3, start=3 * number)) for number in range(3)]
VIEW = View(8)


@pytest.fixture
def store() -> Iterator[fsspec.AbstractFileSystem]:
    """A file system in memory with three tars in `/pool`."""
    system = fsspec.filesystem("memory")
    system.store.clear()
    for number, content in enumerate(WHOLE):
        system.pipe(f"/pool/{number}.tar", content)
    yield system
    system.store.clear()


def opened(tmp_path: Path, *patterns: str, limit: int = GIGABYTE) -> Shards:
    return open_shards(patterns, spool=Spool(tmp_path / "spool", limit, patience=0.3))


def kept(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "spool").iterdir() if not path.name.startswith("."))


@pytest.mark.parametrize(
    ("pattern", "tars"),
    [
        ("memory://pool", [0, 1, 2]),
        ("memory://pool/", [0, 1, 2]),
        ("memory://pool/*.tar", [0, 1, 2]),
        ("memory://pool/{1..2}.tar", [1, 2]),
        ("memory://pool/0.tar", [0]),
    ],
)
def test_addresses_are_read_as_files_are(store, tmp_path: Path, pattern: str, tars: list[int]):
    source = opened(tmp_path, pattern)
    assert list(source.keys) == [f"{tar}.tar/{number:05d}" for tar in tars for number in range(3 * tar, 3 * tar + 3)]
    assert source.read(range(len(source)), [VIEW]).texts == [
        f"caption {number}" for tar in tars for number in range(3 * tar, 3 * tar + 3)
    ]
    assert len(kept(tmp_path)) == len(tars)
    assert all(path.read_bytes() in WHOLE for path in source.paths)


def test_what_is_there_is_not_fetched_again_and_what_changed_is(store, tmp_path: Path, monkeypatch):
    fetched: list[str] = []
    real = spool_module.fetch
    monkeypatch.setattr(spool_module, "fetch", lambda r, *rest: (fetched.append(r.address), real(r, *rest)))
    first = opened(tmp_path, "memory://pool")
    assert len(fetched) == 3
    again = opened(tmp_path, "memory://pool")
    assert len(fetched) == 3
    assert (again.fingerprint, again.paths) == (first.fingerprint, first.paths)
    elsewhere = opened(tmp_path / "other", "memory://pool")
    assert elsewhere.fingerprint == first.fingerprint  # the time of the copy is no part of it
    store.pipe("/pool/1.tar", tar_bytes(pairs(5)))
    changed = opened(tmp_path, "memory://pool")
    assert fetched[6:] == ["memory:///pool/1.tar"]
    assert len(changed) == 11
    assert len(kept(tmp_path)) == 3  # the older state is gone


@pytest.fixture
def down(monkeypatch) -> Callable[[], None]:
    """Lets the server go down, as fsspec's file system for http tells it."""

    def refuse(*_: object, **__: object) -> None:
        raise FileNotFoundError("memory://pool") from ConnectionRefusedError(111, "Connect call failed")

    def stop() -> None:
        for name in ("info", "glob", "isdir", "get_file"):
            monkeypatch.setattr(fsspec.get_filesystem_class("memory"), name, refuse)

    return stop


PATTERNS = ["memory://pool", "memory://pool/{0..2}.tar", "memory://pool/*.tar", "memory://pool/1.tar"]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_what_is_whole_in_the_spool_needs_no_server(store, tmp_path: Path, pattern: str, down):
    first = opened(tmp_path, pattern)
    down()
    told: list[str] = []
    again = open_shards([pattern], spool=Spool(tmp_path / "spool", GIGABYTE), tell=told.append)
    assert (again.fingerprint, again.paths, list(again.keys)) == (first.fingerprint, first.paths, list(first.keys))
    assert again.read(range(len(again)), [VIEW]).texts == first.read(range(len(first)), [VIEW]).texts
    assert len(told) == 1
    assert pattern.partition("{")[0] in told[0]
    groups, far = name_tars([pattern], Spool(tmp_path / "spool", GIGABYTE))
    assert groups == [[str(tar) for tar in addresses(pattern)]]
    assert far == sum(remote.size or 0 for remote in Spool(tmp_path / "spool", GIGABYTE).recall(pattern) or ())
    assert far > 0


def addresses(pattern: str) -> list[str]:
    return [f"memory:///pool/{number}.tar" for number in ((1,) if "1.tar" in pattern else range(3))]


@pytest.mark.parametrize("gone", ["a tar", "the list", "everything", "another pattern"])
def test_what_is_not_whole_in_the_spool_needs_its_server(store, tmp_path: Path, gone: str, down):
    source = opened(tmp_path, "memory://pool")
    down()
    if gone == "a tar":
        source.paths[1].unlink()
    elif gone == "the list":
        for path in (tmp_path / "spool/.found").iterdir():
            path.write_text("{")
    elif gone == "everything":
        shutil.rmtree(tmp_path / "spool")
    pattern = "memory://pool/{0..1}.tar" if gone == "another pattern" else "memory://pool"
    with pytest.raises(AcedError, match=r"^memory://pool.*Connect call failed"):
        opened(tmp_path, pattern)


def test_overlapping_addresses_are_remembered_whole(store, tmp_path: Path, down):
    opened(tmp_path, "memory://pool/0.tar", "memory://pool")
    down()
    assert len(opened(tmp_path, "memory://pool")) == 9


def test_a_changed_original_is_remembered_as_it_is_now(store, tmp_path: Path, down):
    opened(tmp_path, "memory://pool")
    store.pipe("/pool/1.tar", tar_bytes(pairs(5)))
    store.pipe("/pool/3.tar", tar_bytes(pairs(1)))
    opened(tmp_path, "memory://pool")
    down()
    assert len(opened(tmp_path, "memory://pool")) == 3 + 5 + 3 + 1


def test_a_spool_that_cannot_be_written_says_so_and_is_used(store, tmp_path: Path):
    opened(tmp_path, "memory://pool")
    shutil.rmtree(tmp_path / "spool/.found")
    (tmp_path / "spool/.found").write_text("in the way")
    told: list[str] = []
    assert len(open_shards(["memory://pool"], spool=Spool(tmp_path / "spool", GIGABYTE), tell=told.append)) == 9
    assert len(told) == 1
    assert str(tmp_path / "spool/.found") in told[0]


def test_addresses_and_paths_together_and_each_once(store, tmp_path: Path):
    (tmp_path / "local.tar").write_bytes(tar_bytes(pairs(2, start=90)))
    source = opened(tmp_path, "memory://pool/0.tar", f"file://{tmp_path}/local.tar", "memory://pool/{0..1}.tar")
    assert [key.split("/")[0] for key in source.keys] == ["0.tar"] * 3 + ["local.tar"] * 2 + ["1.tar"] * 3
    assert source.paths[1] == tmp_path / "local.tar"  # read where it lies


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("memory://pool/7.tar", r"memory://pool/7\.tar"),
        ("memory://pool/*.zip", r"memory://pool/\*\.zip"),
        ("memory://nowhere", "memory://nowhere"),
        ("nonsense://pool/0.tar", r"nonsense://pool/0\.tar.*Protocol not known: nonsense"),
    ],
)
def test_what_is_not_there_is_named(store, tmp_path: Path, pattern: str, words: str):
    with pytest.raises(AcedError, match=words):
        opened(tmp_path, pattern)
    assert not (tmp_path / "spool").exists()


def test_a_package_that_is_missing_is_named(tmp_path: Path, monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "s3", raising=False)
    with pytest.raises(AcedError, match=r"^s3://bucket/0\.tar .*pip install s3fs"):
        opened(tmp_path, "s3://bucket/0.tar")


def test_without_a_spool_an_address_is_refused(store):
    with pytest.raises(AcedError, match=r"data\.spool_dir"):
        open_shards(["memory://pool"])


def test_too_much_is_refused_before_anything_is_fetched(store, tmp_path: Path, monkeypatch):
    size = sum(map(len, WHOLE))
    with pytest.raises(AcedError, match=r"^3 tars.* GB .*data\.spool_gb"):
        opened(tmp_path, "memory://pool", limit=size - 1)
    assert not (tmp_path / "spool").exists()
    opened(tmp_path, "memory://pool", limit=size)
    store.pipe("/pool/3.tar", WHOLE[0])
    with pytest.raises(AcedError, match=r" GB .* GB .*data\.spool_gb"):
        opened(tmp_path, "memory://pool/3.tar", limit=size)
    monkeypatch.setattr(spoolroom.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 100}))
    with pytest.raises(AcedError, match=r"disk.*1e-07 GB"):
        opened(tmp_path, "memory://pool")


def test_a_broken_connection_is_tried_again_and_then_told(store, tmp_path: Path, monkeypatch):
    calls = []
    real = type(store).get_file

    def cut(self, path, local, **_):
        calls.append(path)
        real(self, path, local)
        if len(calls) < 2:
            Path(local).write_bytes(Path(local).read_bytes()[:100])

    monkeypatch.setattr(type(store), "get_file", cut)
    assert len(opened(tmp_path, "memory://pool/0.tar")) == 3
    assert len(calls) == 2
    monkeypatch.setattr(type(store), "get_file", lambda self, path, local, **_: Path(local).write_bytes(b"x"))
    with pytest.raises(AcedError, match=r"^memory:///pool/1\.tar .*OSError: 1 of \d+ bytes"):
        opened(tmp_path, "memory://pool/1.tar")
    assert len(kept(tmp_path)) == 1  # nothing half-written


def test_what_a_killed_process_left_is_no_tar_and_is_removed(store, tmp_path: Path):
    source = opened(tmp_path, "memory://pool/0.tar")
    whole = source.paths[0].name
    source.paths[0].rename(tmp_path / "spool" / f".{whole}.tmp")  # written, and never given its name
    (tmp_path / "spool/.other.tar.tmp").write_bytes(b"half")
    assert len(opened(tmp_path, "memory://pool/0.tar")) == 3
    assert sorted(path.name for path in (tmp_path / "spool").iterdir()) == [".found", whole]


def test_what_another_process_is_writing_is_left_alone(tmp_path: Path):
    target = tmp_path / "spool/a.tar"
    with exclusive(target) as temporary:
        Spool(target.parent, GIGABYTE).fetch([])
        assert temporary is not None
        assert temporary.exists()


def test_many_files_are_listed_once_and_fetched_several_at_a_time(store, tmp_path: Path, monkeypatch):
    for number in range(30):
        store.pipe(f"/many/{number:05d}.tar", WHOLE[0])
    asked = Counter[str]()
    together = threading.Barrier(4, timeout=300)  # broken unless four files are on their way at a time
    for name in ("info", "ls"):
        real = getattr(type(store), name)
        counting = lambda self, *a, name=name, real=real, **k: (asked.update([name]), real(self, *a, **k))[1]  # noqa: E731
        monkeypatch.setattr(type(store), name, counting)
    real_get = type(store).get_file
    first = itertools.count()

    def get(self, path, local, **words):
        if next(first) < 4:
            together.wait()
        real_get(self, path, local, **words)

    monkeypatch.setattr(type(store), "get_file", get)
    looks = []
    real_scan = os.scandir
    monkeypatch.setattr(spoolroom.os, "scandir", lambda folder: (looks.append(folder), real_scan(folder))[1])
    spool = Spool(tmp_path / "spool", GIGABYTE)
    found = find("memory://many/{00000..00029}.tar")
    assert asked["ls"] == 1
    counts: list[tuple[int, int]] = []
    paths = spool.fetch(found, lambda *count: counts.append(count))
    assert counts == [(number, 30) for number in range(1, 31)]
    assert [path.read_bytes() for path in paths] == [WHOLE[0]] * 30
    assert sorted(path.name for path in (tmp_path / "spool").iterdir()) == sorted(path.name for path in paths)
    assert len(looks) == 1


def test_a_store_that_is_too_busy_is_asked_again(store, tmp_path: Path, monkeypatch):
    real, calls = type(store).get_file, []

    def busy(self, path, local, **words):
        calls.append(path)
        if len(calls) == 1:
            raise OSError(errno.EBUSY, "Please reduce your request rate.")  # what s3fs makes of a 503
        real(self, path, local, **words)

    monkeypatch.setattr(type(store), "get_file", busy)
    assert len(opened(tmp_path, "memory://pool/0.tar")) == 3
    assert len(calls) == 2


def test_a_disk_that_is_full_is_told_at_once(store, tmp_path: Path, monkeypatch):
    def full(self, path, local, **_):
        Path(local).write_bytes(b"a part")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(type(store), "get_file", full)
    monkeypatch.setattr(download, "_PAUSES", (1000.0, 1000.0))
    with pytest.raises(AcedError, match=f"{tmp_path}/spool/"):
        open_shards(["memory://pool/0.tar"], spool=Spool(tmp_path / "spool", GIGABYTE))
    assert os.listdir(tmp_path / "spool") == []


def test_gzip_is_unpacked_once(tmp_path: Path):
    path = tmp_path / "0.tar.gz"
    path.write_bytes(gzip.compress(WHOLE[0]))
    source = opened(tmp_path, str(tmp_path / "*.gz"))
    assert next(iter(source.keys)) == "0.tar.gz/00000"
    assert source.paths[0].read_bytes() == WHOLE[0]
    before = source.paths[0].stat().st_ino
    assert opened(tmp_path, str(path)).paths[0].stat().st_ino == before
    path.write_bytes(gzip.compress(WHOLE[1]))
    os.utime(path, ns=(5, 5))
    assert opened(tmp_path, str(path)).paths[0].read_bytes() == WHOLE[1]
    assert len(kept(tmp_path)) == 1
    with pytest.raises(AcedError, match=r"unpack.*data\.spool_dir"):
        open_shards([str(path)])


def test_gzip_at_an_address(store, tmp_path: Path):
    store.pipe("/pool/9.tar.gz", gzip.compress(WHOLE[2]))
    assert opened(tmp_path, "memory://pool/9.tar.gz").read([0], [VIEW]).texts == ["caption 6"]


def test_gzip_that_grows_too_large_is_refused(tmp_path: Path):
    path = tmp_path / "0.tar.gz"
    path.write_bytes(gzip.compress(bytes(1_000_000)))
    with pytest.raises(AcedError, match=r"0\.tar\.gz.* 0\.001 GB .*data\.spool_gb"):
        opened(tmp_path, str(path), limit=100_000)
    lying = path.read_bytes()[:-4] + bytes(4)
    path.write_bytes(lying)
    with pytest.raises(AcedError, match="unpacked"):
        opened(tmp_path, str(path), limit=100_000)
    assert kept(tmp_path) == []


def _slow(folder: Path, marks: Path) -> None:
    real = spool_module.fetch

    def slow(*arguments):
        (marks / f"{os.getpid()}").touch()
        time.sleep(0.3)
        real(*arguments)

    spool_module.fetch = slow
    Spool(folder, GIGABYTE).fetch(find("memory://pool/0.tar"))


def test_of_two_processes_one_fetches(store, tmp_path: Path):
    context = multiprocessing.get_context("fork")
    (tmp_path / "marks").mkdir()
    workers = [context.Process(target=_slow, args=(tmp_path / "spool", tmp_path / "marks")) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert len(list((tmp_path / "marks").iterdir())) == 1
    assert len(kept(tmp_path)) == 1


def test_sources_apart_have_sizes_of_their_own(store, tmp_path: Path):
    spool = Spool(tmp_path / "spool", GIGABYTE)
    patterns = ["memory://pool/{0..1}.tar", "memory://pool/2.tar"]
    source = open_shards(patterns, spool=spool, apart=True)
    assert source.mixture == (6, 3)
    assert open_shards(patterns, spool=spool).mixture == ()
    with pytest.raises(AcedError, match=r"memory:///pool/0\.tar .*data\.shards"):
        open_shards(["memory://pool", "memory://pool/0.tar"], spool=spool, apart=True)


def test_a_server_that_accepts_and_stays_silent_is_told(tmp_path: Path, monkeypatch):
    pytest.importorskip("aiohttp")
    monkeypatch.setattr(remote_module, "_SILENCE", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}/a.tar"
        with pytest.raises(AcedError, match=rf"{address} .*Timeout"):
            open_shards([address], spool=Spool(tmp_path, 10**9))


def test_a_pipe_is_no_tar(tmp_path: Path):
    os.mkfifo(tmp_path / "a.tar")
    for place in (None, Spool(tmp_path / "spool", 10**9)):
        with pytest.raises(AcedError, match=r"a\.tar .*pipe"):
            open_shards([str(tmp_path / "a.tar")], spool=place)
