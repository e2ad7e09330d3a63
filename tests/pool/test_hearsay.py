"""Pools at addresses whose pairs are counted by files beside the tars, right or wrong."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from data_fakes import pairs, tar_bytes

from aced.errors import AcedError
from aced.pool.fetch.spool import GIGABYTE, Spool
from aced.pool.shards import Shards, open_shards
from aced.pool.tars.hearsay import counts_beside
from aced.pool.tars.losttars import KnownTars
from aced.pool.tars.manifestfile import kept_path, read_kept
from aced.pool.views import View
from cli_fakes import Cli

TARS = {f"{number}.tar": tar_bytes(pairs(3, start=3 * number)) for number in range(4)}
WHOLE = dict.fromkeys(TARS, 3)


@pytest.fixture
def store() -> Iterator[fsspec.AbstractFileSystem]:
    system = fsspec.filesystem("memory")
    system.store.clear()
    for name, content in TARS.items():
        system.pipe(f"/far/{name}", content)
    yield system
    system.store.clear()


def tell_sizes(store: Any, sizes: Any) -> None:
    store.pipe("/far/sizes.json", sizes if isinstance(sizes, bytes) else json.dumps(sizes).encode())


def opened(tmp_path: Path, **keys: Any) -> Shards:
    return open_shards(["memory://far"], spool=Spool(tmp_path / "spool", GIGABYTE), **keys)


def fetched(tmp_path: Path) -> list[str]:
    return sorted(path.name.rpartition("-")[2] for path in (tmp_path / "spool").glob("*.tar"))


@pytest.mark.parametrize("caption", ["txt", "json:caption"])
def test_counts_that_are_right_spare_the_fetching(store: Any, tmp_path: Path, caption: str) -> None:
    read = opened(tmp_path / "read", caption=caption)
    tell_sizes(store, WHOLE)
    told: list[str] = []
    source = opened(tmp_path, caption=caption, tell=told.append)
    assert (len(source), source.part_sizes) == (12, [3] * 4)
    assert fetched(tmp_path) == []
    assert any(" 4 tars" in f" {sentence}" for sentence in told)
    found, expected = (one.read([7, 0, 6], [View(8)]) for one in (source, read))
    assert (found.texts, found.faults, found.notes) == (expected.texts, (), ())
    assert fetched(tmp_path) == ["0.tar", "2.tar"]
    assert list(source.keys) == list(read.keys)


def test_fewer_pairs_than_told_are_faults_and_more_are_left(store: Any, tmp_path: Path) -> None:
    tell_sizes(store, WHOLE | {"1.tar": 5, "2.tar": 2})
    source = opened(tmp_path, bad_tars="skip")
    assert source.part_sizes == [3, 5, 2, 3]
    for _ in range(2):
        found = source.read(range(13), [])
        assert found.texts == [f"caption {number}" for number in range(12) if number != 8]
        assert [(fault.key, fault.name) for fault in found.faults] == [
            ("1.tar/#3", "count_wrong"),
            ("1.tar/#4", "count_wrong"),
        ]
        assert [(note.key, note.name, note.count) for note in found.notes] == [("2.tar", "count_more", 1)]
    assert source.keys[6:9] == ["1.tar/#3", "1.tar/#4", "2.tar/00006"]
    assert len(list(source.fields("caption"))) == 13
    assert source.read([9], []).notes == ()  # told with the first sample of its tar


def test_what_img2dataset_writes_is_taken_too(store: Any) -> None:
    addresses = [f"memory://far/{name}" for name in TARS]
    assert counts_beside(addresses) == {}
    for number in (0, 2, 3):
        content = {"count": 10, "successes": 7 + number, "failed_to_download": 1}
        store.pipe(f"/far/{number}_stats.json", json.dumps(content).encode())
    store.pipe("/far/3_stats.json", b"[]")
    assert counts_beside(addresses) == {"memory://far/0.tar": 7, "memory://far/2.tar": 9}
    tell_sizes(store, {"2.tar": 3})
    assert counts_beside(addresses) == {"memory://far/0.tar": 7, "memory://far/2.tar": 3}


@pytest.mark.parametrize(
    "sizes", [b"", b"{", b"[3]", b"\xff", {"0.tar": "3", "1.tar": -1, "2.tar": True, "3.tar": 1.5}, {"x.tar": 3}]
)
def test_files_that_say_nothing_of_use_are_done_without(store: Any, tmp_path: Path, sizes: Any) -> None:
    tell_sizes(store, sizes)
    assert len(opened(tmp_path)) == 12
    assert fetched(tmp_path) == list(TARS)


def test_a_tar_of_which_nothing_is_told_is_counted(store: Any, tmp_path: Path) -> None:
    tell_sizes(store, {name: 3 for name in TARS if name != "1.tar"})
    assert len(opened(tmp_path)) == 12
    assert fetched(tmp_path) == ["1.tar"]


def test_damage_comes_out_when_the_tar_is_read(store: Any, tmp_path: Path) -> None:
    tell_sizes(store, WHOLE)
    store.pipe("/far/1.tar", TARS["1.tar"][: len(TARS["1.tar"]) // 2])
    with pytest.raises(AcedError, match=r"1\.tar.*cut"):
        opened(tmp_path).read([3], [])
    found = opened(tmp_path, bad_tars="skip").read(range(12), [])
    there = len(found)
    assert there < 12
    assert Counter(fault.name for fault in found.faults) == {"count_wrong": 12 - there}
    assert [note.name for note in found.notes] == ["tar_truncated"]


def test_hearsay_is_kept_and_told_from_knowledge(
    store: Any, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tell_sizes(store, WHOLE | {"1.tar": 4})
    index = tmp_path / "index"
    first = opened(tmp_path, index_dir=index)
    first.read(range(13), [])
    tell_sizes(store, {})  # what was told is not asked again
    again = opened(tmp_path, index_dir=index)
    assert (again.parts, again.part_sizes, KnownTars.of(again)) == (first.parts, [3, 4, 3, 3], KnownTars.of(first))
    ended = cli("index", "memory://far", "--spool-dir", "spool", "--index-dir", "index")
    assert ended.status == 0, ended.err
    manifest, _ = read_kept(kept_path(index, ["memory://far"]))
    assert manifest is not None
    assert [(tar.txt, tar.told) for tar in manifest.tars] == [(3, False)] * 4
    assert opened(tmp_path, index_dir=index).part_sizes == [3] * 4


def test_a_run_on_counts_that_are_wrong_ends_by_the_limit_alone(
    store: Any, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    from run_fakes import write_pairs

    monkeypatch.chdir(tmp_path)
    store.pipe("/far/0.tar", write_pairs(tmp_path / "0.tar", range(64)).read_bytes())
    for name in list(TARS)[1:]:
        store.rm(f"/far/{name}")
    tell_sizes(store, {"0.tar": 80})
    words = ["train", "scenes", "data.shards=memory://far", "data.spool_dir=spool", "train.steps=8", "train.batch=16"]
    words += ["run.threads=1", "student.model=aced-demo-s", "data.bad_tars=skip", "eval.tasks=[]"]
    ended = cli(*words, "run.out=within", "data.max_bad_share=0.5")
    assert ended.status == 0, ended.err
    last = json.loads(io.StringIO((tmp_path / "within/metrics.jsonl").read_text()).readlines()[-1])
    assert last["faults"] == {"count_wrong": 16}
    assert last["samples"] == {"total": 80, "read": 80, "unreadable": 16}
    ended = cli(*words, "run.out=beyond", "data.max_bad_share=0.01")
    assert ended.status == 2
    assert "count_wrong" in ended.err
