"""Pools that are known before they are read: kept and named manifests, and indexes that are opened when needed."""

from __future__ import annotations

import os
import shutil
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from data_fakes import pairs, picture
from hypothesis import given
from hypothesis import strategies as st

from aced.errors import AcedError
from aced.pool.fetch.spool import GIGABYTE, Spool
from aced.pool.shards import Shards, open_shards
from aced.pool.tars import indexfolder, indexing, keysample, tarindex, tarindexes
from aced.pool.tars.losttars import KnownTars
from aced.pool.tars.manifest import HeaderFault, Manifest, Repeated, TarFacts, dump, parse, trimmed
from aced.pool.tars.manifestfile import kept_path, write_named
from aced.pool.views import View

VIEW = View(8)
WriteTar = Callable[..., Path]


@pytest.fixture
def pool(tmp_path: Path, write_tar: WriteTar) -> Path:
    """Five tars of three pairs; two have a key of the one before, one lacks captions, one has a strange member."""
    for number in range(5):
        members = pairs(3, start=10 * number)
        if number in (2, 4):
            members += [("00010.jpg", picture(1)), ("00010.txt", b"again")]
        if number == 3:
            members += [(f"{name}.jpg", picture(2)) for name in "abc"] + [("README", b"")]
        write_tar(f"d/{number}.tar", members)
    return tmp_path / "d"


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the tars whose index was asked for, whether it was kept or not."""
    found: list[str] = []
    real = tarindex.index_tar

    def index_tar(path: Path, index_dir: Path | None = None) -> Any:
        found.append(Path(path).name)
        return real(path, index_dir)

    for module in (indexing, tarindexes):
        monkeypatch.setattr(module, "index_tar", index_tar)
    return found


def everything(source: Shards) -> dict[str, Any]:
    """All that a source says, with the captions and pixels of all its samples."""
    found = source.read(range(len(source)), [VIEW])
    facts = ("name", "fingerprint", "parts", "part_sizes", "sources", "mixture", "faults")
    said = {name: getattr(source, name) for name in facts}
    return said | {"keys": list(source.keys), "texts": found.texts, "pixels": found.images[VIEW].tolist()}


def test_a_pool_that_was_indexed_opens_no_tar_until_it_is_read(pool: Path, tmp_path: Path, opened: list[str]) -> None:
    plain = everything(open_shards([str(pool)]))
    open_shards([str(pool)], index_dir=tmp_path / "index")
    opened.clear()
    source = open_shards([str(pool)], index_dir=tmp_path / "index")
    assert (len(source), source.part_sizes) == (17, [3, 3, 4, 3, 4])
    assert not opened
    assert source.read([4, 5, 3], [VIEW]).texts == ["caption 11", "caption 12", "caption 10"]
    assert opened == ["1.tar"]
    assert everything(source) == plain
    assert sorted(opened) == [f"{number}.tar" for number in range(5)]


def touch(pool: Path, write_tar: WriteTar) -> None:
    for tar in sorted(pool.iterdir()):
        os.utime(tar, ns=(1, 1))  # a clock may go backwards: times are only compared


def change(pool: Path, write_tar: WriteTar) -> None:
    write_tar("d/1.tar", pairs(4, start=40))


def add(pool: Path, write_tar: WriteTar) -> None:
    write_tar("d/25.tar", pairs(2, start=10))
    write_tar("d/9.tar", pairs(2))


def remove(pool: Path, write_tar: WriteTar) -> None:
    (pool / "2.tar").unlink()


def all_at_once(pool: Path, write_tar: WriteTar) -> None:
    for way in (change, add, remove):
        way(pool, write_tar)


@pytest.mark.parametrize(
    ("way", "read", "counts"),
    [
        (touch, 5, []),
        (change, 1, ["1 has changed"]),
        (add, 2, ["2 are new"]),
        (remove, 0, ["1 is gone"]),
        (all_at_once, 3, ["2 are new", "1 has changed", "1 is gone"]),
    ],
)
def test_what_changed_is_read_again_and_told(
    way: Callable[[Path, WriteTar], None],
    read: int,
    counts: list[str],
    pool: Path,
    tmp_path: Path,
    write_tar: WriteTar,
    walks: list[str],
) -> None:
    index = tmp_path / "index"
    open_shards([str(pool)], index_dir=index)
    way(pool, write_tar)
    walks.clear()
    told: list[str] = []
    source = open_shards([str(pool)], index_dir=index, tell=told.append)
    assert len(walks) == read
    changes = [sentence for sentence in told if "indexed" in sentence]
    assert len(changes) == bool(counts)
    assert all(count.partition(" ")[0] in changes[0] and count.rpartition(" ")[2] in changes[0] for count in counts)
    assert everything(source) == everything(open_shards([str(pool)]))
    walks.clear()
    told.clear()
    open_shards([str(pool)], index_dir=index, tell=told.append)
    assert (walks, told) == ([], [])


def test_no_damage_of_a_kept_manifest_is_used_or_stops_anything(pool: Path, tmp_path: Path) -> None:
    index = tmp_path / "index"
    right = open_shards([str(pool)], index_dir=index)
    kept = kept_path(index, [str(pool)])
    whole = kept.read_bytes()
    told: list[str] = []
    spoilt = [whole[:place] + bytes([whole[place] ^ 0x41]) + whole[place + 1 :] for place in range(0, len(whole), 41)]
    spoilt += [b"", whole[:-30], whole + b"[]"]
    for content in spoilt:
        kept.write_bytes(content)
        source = open_shards([str(pool)], index_dir=index, tell=told.append)
        assert (source.parts, source.faults, list(source.keys)) == (right.parts, right.faults, list(right.keys))
        assert kept.read_bytes() == whole
    assert len(told) == len(spoilt)


@pytest.mark.parametrize("how", ["in the pool", "elsewhere"])
def test_a_manifest_is_named_and_copied(how: str, pool: Path, tmp_path: Path, opened: list[str]) -> None:
    expected = everything(open_shards([str(pool)], bad_tars="skip"))
    path = (pool if how == "in the pool" else tmp_path) / "my.manifest"
    write_named(path, made_of(pool))
    moved = tmp_path / "elsewhere"
    if how == "in the pool":
        pool.rename(moved)
        path = moved / "my.manifest"
    opened.clear()
    source = open_shards([str(path)], bad_tars="skip", index_dir=tmp_path / "index")
    assert not opened
    found = everything(source)
    for name, value in expected.items():
        if name not in ("name", "sources"):  # which say where
            assert found[name] == value, name
    assert set(opened) == {f"{number}.tar" for number in range(5)}
    assert (tmp_path / "index").is_dir()


def made_of(pool: Path) -> Manifest:
    """The manifest of a pool, as one that was kept tells it."""
    index = pool.with_name("made")
    open_shards([str(pool)], bad_tars="skip", index_dir=index)
    manifest = parse(kept_path(index, [str(pool)]).read_text())
    shutil.rmtree(index)
    return manifest


def test_of_a_named_manifest_only_what_is_read_need_be_there(pool: Path, tmp_path: Path) -> None:
    write_named(tmp_path / "my.manifest", made_of(pool))
    for number in (1, 2, 4):
        (pool / f"{number}.tar").unlink()
    source = open_shards([str(tmp_path / "my.manifest")], bad_tars="skip")
    assert len(source) == 17
    assert source.read([0, 2], [VIEW]).texts == ["caption 0", "caption 2"]
    found = source.read([0, 3, 12, 16], [VIEW])
    assert [(fault.key, fault.name) for fault in found.faults] == [("1.tar/#0", "tar_gone"), ("4.tar/#3", "tar_gone")]
    assert source.keys[3] == "1.tar/#0"
    with pytest.raises(AcedError, match=r"1\.tar"):
        open_shards([str(tmp_path / "my.manifest")]).read([3], [VIEW])


def test_a_tar_that_is_not_what_the_manifest_says_is_lost(pool: Path, tmp_path: Path, write_tar: WriteTar) -> None:
    write_named(tmp_path / "my.manifest", made_of(pool))
    write_tar("d/1.tar", pairs(3, start=40))
    source = open_shards([str(tmp_path / "my.manifest")], bad_tars="skip")
    assert [fault.name for fault in source.read([3, 4, 0], [VIEW]).faults] == ["tar_changed"] * 2
    touch(pool, write_tar)
    assert len(open_shards([str(tmp_path / "my.manifest")], bad_tars="skip").read([0, 12], [VIEW])) == 2


def test_a_run_goes_on_without_tars_of_a_manifest_that_are_lost(pool: Path, tmp_path: Path) -> None:
    path = tmp_path / "my.manifest"
    write_named(path, made_of(pool))
    known = KnownTars.of(open_shards([str(path)]))
    (pool / "1.tar").unlink()
    (pool / "3.tar").write_bytes(b"another")
    source = open_shards([str(path)], known=known)
    assert sorted(source.lost) == ["1.tar", "3.tar"]
    assert KnownTars.of(source) == known
    assert source.read([0, 6, 16], [VIEW]).texts == ["caption 0", "caption 20", "again"]


def test_manifests_that_are_of_no_use(pool: Path, tmp_path: Path) -> None:
    path = tmp_path / "my.manifest"
    with pytest.raises(AcedError, match=r"my\.manifest.*No such file"):
        open_shards([str(path)])
    write_named(path, made_of(pool))
    whole = path.read_text()
    for content in (whole.replace("2.tar", "3.tar"), whole[:-50], "", whole.replace('"version": 1', '"version": 99')):
        path.write_text(content)
        with pytest.raises(AcedError, match=r"my\.manifest.*'aced index'"):
            open_shards([str(path)])
    path.write_text(dump(Manifest(())))
    with pytest.raises(AcedError, match="tars"):
        open_shards([str(path)])
    path.write_text(whole)
    pool.rename(tmp_path / "elsewhere")
    with pytest.raises(AcedError, match=r"manifest .*0\.tar"):
        open_shards([str(path)])


def test_a_damaged_tar_stops_a_run_from_a_manifest_too(pool: Path, tmp_path: Path) -> None:
    whole = (pool / "1.tar").read_bytes()
    (pool / "1.tar").write_bytes(whole[: len(whole) // 2])
    index, words = tmp_path / "index", r"1\.tar .*cut"
    assert len(open_shards([str(pool)], bad_tars="skip", index_dir=index)) == 16
    for _ in range(2):
        with pytest.raises(AcedError, match=words):
            open_shards([str(pool)], index_dir=index)
    (pool / "1.tar").write_bytes(whole)
    assert len(open_shards([str(pool)], index_dir=index)) == 17


def test_other_captions_are_told_of_from_one_manifest(pool: Path, tmp_path: Path) -> None:
    index = tmp_path / "index"
    for caption in ("json:caption", "txt", "json:kind"):
        kept = open_shards([str(pool)], caption=caption, index_dir=index)
        plain = open_shards([str(pool)], caption=caption)
        assert everything(kept) == everything(plain)
    assert Counter(fault.name for fault in kept.faults)["no_caption"] == 5
    assert "json:kind" in next(fault.detail for fault in kept.faults if fault.name == "no_caption")


# -- indexes within a bound --------------------------------------------------------------------------------------------


def test_open_indexes_stay_within_the_bound(pool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = everything(open_shards([str(pool)]))
    open_shards([str(pool)], index_dir=tmp_path / "index")
    source = open_shards([str(pool)], index_dir=tmp_path / "index")
    most = source.nbytes
    assert most == 0
    source._indexes._bound = 500
    for index in [*range(len(source))] * 2:
        source.read([index], [VIEW])
        most = max(most, source.nbytes)
    assert 0 < most <= 500
    assert everything(source) == expected


def test_threads_share_indexes_that_do_not_all_fit(pool: Path, tmp_path: Path) -> None:
    expected = open_shards([str(pool)]).read(range(17), []).texts
    source = open_shards([str(pool)], index_dir=tmp_path / "index")
    source = open_shards([str(pool)], index_dir=tmp_path / "index")
    source._indexes._bound = 500
    found: list[list[str]] = []
    threads = [
        threading.Thread(target=lambda: found.extend(source.read(range(17), []).texts for _ in range(20)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected] * 80


# -- through the spool -------------------------------------------------------------------------------------------------


def test_a_pool_at_addresses_is_fetched_when_it_is_read(pool: Path, tmp_path: Path) -> None:
    import fsspec

    system = fsspec.filesystem("memory")
    for tar in pool.iterdir():
        system.pipe(f"/far/{tar.name}", tar.read_bytes())
    try:
        spools = [Spool(tmp_path / name, GIGABYTE) for name in ("first", "second")]
        first, second = (open_shards(["memory://far"], spool=one, index_dir=tmp_path / "index") for one in spools)
        assert not spools[1].folder.exists() or not list(spools[1].folder.glob("*.tar"))
        assert list(second.read([4], []).texts) == ["caption 11"]
        assert [path.name.rpartition("-")[2] for path in spools[1].folder.glob("*.tar")] == ["1.tar"]
        assert everything(second) == everything(first)
    finally:
        system.store.clear()


# -- keys that several tars have ---------------------------------------------------------------------------------------


def test_keys_of_two_tars_are_found_once_and_carried_on(
    pool: Path, tmp_path: Path, write_tar: WriteTar, opened: list[str]
) -> None:
    def again(source: Shards) -> list[tuple[str, int]]:
        return [(fault.key, fault.count) for fault in source.faults if fault.name == "key_in_two_tars"]

    index = tmp_path / "index"
    for _ in range(2):
        assert again(open_shards([str(pool)], index_dir=index)) == [("2.tar/00010", 2)]
    (pool / "1.tar").unlink()
    assert again(open_shards([str(pool)], index_dir=index)) == [("4.tar/00010", 1)]
    write_tar("d/00.tar", pairs(1, start=30))
    opened.clear()
    assert again(open_shards([str(pool)], index_dir=index)) == [("3.tar/00030", 2)]
    assert set(opened) == {"00.tar"}
    index.joinpath(f"{kept_path(index, [str(pool)]).name}.keys.npz").write_bytes(b"damaged")
    write_tar("d/5.tar", pairs(1, start=42))
    (fault,) = [one for one in open_shards([str(pool)], index_dir=index).faults if one.name == "key_in_two_tars"]
    assert "estimate" in fault.detail


@given(st.lists(st.sets(st.integers(0, 40), max_size=30), max_size=6), st.sampled_from([1000, 16]))
def test_repeated_keys_against_counting(tars: list[set[int]], most: int) -> None:
    sample = keysample.KeySample(most)
    hashes = {key: keysample.hash_key(str(key).encode()) for key in range(41)}
    for number, keys in enumerate(tars):
        sample.add(number, keysample.np.array([hashes[key] for key in keys], dtype="uint64"))
    kept = [{key for key in keys if hashes[key] % (1 << sample.bits) == 0} for keys in tars]
    assert sum(map(len, kept)) <= most
    if most == 1000:
        assert kept == tars
    count, first, found = sample.repeated()
    later = [{key for key in keys if any(key in one for one in kept[:number])} for number, keys in enumerate(kept)]
    assert count == sum(map(len, later)) << sample.bits
    assert first == next((number for number, keys in enumerate(later) if keys), -1)
    assert found == ({hashes[key] for key in later[first]} if count else set())


# -- the file ----------------------------------------------------------------------------------------------------------

TOLD = st.builds(
    HeaderFault,
    st.sampled_from(["a", "b"]),
    st.sampled_from(["", "txt"]),
    st.text(),
    st.text(min_size=1),
    st.integers(1, 9),
)
FACTS = st.builds(
    TarFacts,
    st.text(min_size=1).map(lambda name: f"/pool/{name}"),
    st.integers(-1, 2**50),
    st.text(),
    st.text(),
    st.integers(0, 10**6),
    st.integers(0, 10**6),
    st.booleans(),
    st.lists(TOLD, max_size=3).map(tuple),
)


@given(st.lists(FACTS, max_size=5).map(tuple), st.sampled_from(["", "/pool", "/poo"]))
def test_a_manifest_is_what_was_written(tars: tuple[TarFacts, ...], folder: str) -> None:
    manifest = Manifest(tars, Repeated(3, "/pool/a", "k", exact=False))
    assert parse(dump(manifest, folder), folder) == manifest


@given(st.lists(FACTS, max_size=6), st.integers(0, 4))
def test_faults_that_are_not_told_one_by_one_are_counted(tars: list[TarFacts], most: int) -> None:
    found = trimmed(tars, most)
    for before, after in zip(tars, found, strict=True):
        assert before._replace(faults=()) == after._replace(faults=())
        for facts in (before, after):
            assert all(fault.times > 0 for fault in facts.faults)
        counts = [Counter({(f.name, f.part): 0 for f in one.faults}) for one in (before, after)]
        for count, one in zip(counts, (before, after), strict=True):
            for fault in one.faults:
                count[fault.name, fault.part] += fault.times
        assert counts[0] == counts[1]
    shown = Counter((fault.name, fault.part) for facts in found for fault in facts.faults if fault.detail)
    assert all(count <= most for count in shown.values())
    assert trimmed(found, most) == found


# -- where it is kept --------------------------------------------------------------------------------------------------


def test_the_folder_that_is_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setenv("HOME", str(tmp_path))
    for value, expected in (("", tmp_path / ".cache"), ("relative", tmp_path / ".cache"), (f"{tmp_path}/x", None)):
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        whole = (expected or tmp_path / "x") / "aced/index"
        assert indexfolder.index_folder("auto", told.append) == whole
        assert whole.is_dir()
    assert len(told) == 2
    assert str(tmp_path / "x/aced/index") in told[1]
    assert indexfolder.index_folder("", told.append) is None
    assert indexfolder.index_folder("mine", told.append) == Path("mine")
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("XDG_CACHE_HOME", f"{tmp_path}/file")
    assert indexfolder.index_folder("auto", told.append) == tmp_path / "file/aced/index"
    assert len(told) == 2
