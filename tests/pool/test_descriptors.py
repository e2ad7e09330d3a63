"""More tars and side-cars than a process may have open files: read all the same, or refused by the limit's name."""

from __future__ import annotations

import contextlib
import functools
import os
import resource
import signal
import traceback
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
import torch
from data_fakes import ListSource, WordTower, pairs, tar_bytes

from aced.cache.making import EmbedSettings
from aced.cache.store import Store, build_store, open_store
from aced.errors import AcedError
from aced.pool.loader.loading import method_of
from aced.pool.shards import Shards, open_shards
from aced.pool.views import View
from aced.runtime import descriptors

TARS = 90
KEYS = [f"{tar:03d}.tar/w{i}" for tar in range(TARS) for i in range(2)]
EXACT = EmbedSettings("float32", micro_batch=8)


def words() -> ListSource:
    source: Any = ListSource(KEYS, "tars")
    source.parts = {f"{tar:03d}.tar": f"mark {tar}" for tar in range(TARS)}
    source.part_sizes = [2] * TARS
    return source


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def by_itself(test: Callable[..., None]) -> Callable[..., None]:
    """Run a test in a process that has opened nothing before.

    Not in a copy of this one, where what other tests have left may be closed at any moment, which leaves room.
    """

    @functools.wraps(test)
    def run(**places: Path) -> None:
        context = method_of("forkserver")  # which has torch imported, for all of them
        told, telling = context.Pipe(duplex=False)
        process = context.Process(target=_alone, args=(test.__name__, places, telling))
        with told, telling:
            process.start()
            telling.close()
            try:
                failure = told.recv()
            except EOFError:
                failure = "It died."
            process.join()
        assert not failure, failure
        assert process.exitcode == 0

    return run


def _alone(test: str, places: dict[str, Path], telling: Connection) -> None:
    signal.alarm(300)
    torch.set_num_threads(1)
    WordTower().score(words().read([0], []), 8)  # torch's first product reads files, and may be another without them
    try:
        globals()[test].__wrapped__(**places)
        failure = ""
    except BaseException:
        failure = traceback.format_exc()
    telling.send(failure)


@contextlib.contextmanager
def room_for(files: int) -> Iterator[int]:
    """Let this process open so many files more; gives its limit."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = set(map(int, os.listdir("/proc/self/fd")))  # of which some have high numbers
    soft = [number for number in range(files + len(taken) + 1) if number not in taken][files]
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, limits[1]))
    try:
        yield soft
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@contextlib.contextmanager
def all_taken(but: int) -> Iterator[None]:
    """Hold all files that this process may open, but so many."""
    held = []
    try:
        while True:
            held.append(os.open("/dev/null", os.O_RDONLY))
    except OSError:
        for _ in range(but):
            os.close(held.pop())
    try:
        yield
    finally:
        for one in held:
            os.close(one)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    build_store(folder, words(), WordTower(), EXACT)
    return folder


def opened(cache: Path) -> Store:
    return open_store(cache, WordTower().identity(), words(), EXACT)


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pool")
    for number in range(TARS):
        (folder / f"{number:03d}.tar").write_bytes(tar_bytes(pairs(1, start=number)))
    return folder


def check(store: Store) -> None:
    order = torch.randperm(len(KEYS), generator=torch.Generator().manual_seed(0))
    found = store.lookup(order)
    right = WordTower().score(words().read(order.tolist(), []), 8)
    assert torch.equal(found.text, right.text)
    assert torch.equal(found.image, right.image)


@by_itself
def test_side_cars_are_looked_up_within_the_limit(cache: Path) -> None:
    before = open_files()
    with room_for(60) as limit:
        store = opened(cache)
        for _ in range(3):
            check(store)
        assert open_files() - before <= limit // 2
    check(store)  # with all of them mapped
    check(store)


@by_itself
def test_maps_make_room_for_what_else_is_open(cache: Path) -> None:
    store = opened(cache)
    with room_for(60):
        check(store)
        with all_taken(but=3):
            check(store)


@by_itself
def test_maps_of_stores_that_are_gone_make_room(cache: Path) -> None:
    with room_for(60) as limit:
        for _ in range(4):
            check(opened(cache))
        assert open_files() <= limit


@by_itself
def test_without_room_for_one_file_the_limit_is_named(cache: Path, pool: Path) -> None:
    store, shards = opened(cache), open_shards([str(pool)])
    refused = pytest.raises(AcedError, match=r"\d+\. .*ulimit -n")
    # A file that cannot be opened for that reason is neither damaged nor a tar to skip.
    with room_for(20), all_taken(but=0):
        with refused:
            store.lookup(torch.arange(180))
        with refused:
            opened(cache)
        with refused:
            shards.read(range(TARS), [View(8)])
        with refused:
            open_shards([str(path) for path in shards.paths], bad_tars="skip")
    check(store)


def read_all(shards: Shards) -> list[str]:
    return shards.read(range(TARS), [View(8)]).texts


@by_itself
def test_tars_are_read_within_the_limit(pool: Path) -> None:
    captions = [f"caption {number}" for number in range(TARS)]
    with room_for(14):
        shards = open_shards([str(pool)])
        assert read_all(shards) == captions
        assert read_all(shards) == captions
        fresh = open_shards([str(pool)])
        with all_taken(but=1):  # the tar that was read last makes room for the next
            assert read_all(fresh) == captions


@pytest.mark.parametrize("hard", [200, resource.RLIM_INFINITY])
def test_a_program_takes_what_it_may_have(hard: int, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []
    monkeypatch.setattr(descriptors.resource, "getrlimit", lambda _: (100, hard))
    monkeypatch.setattr(descriptors.resource, "setrlimit", lambda _, limits: taken.append(limits))
    descriptors.raise_file_limit()
    assert taken == [(200 if hard == 200 else 1 << 20, hard)]
    monkeypatch.setattr(descriptors.resource, "getrlimit", lambda _: (hard, hard))
    descriptors.raise_file_limit()
    assert len(taken) == 1
