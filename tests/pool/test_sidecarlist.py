"""The list of side-cars: with it nothing is opened at the start, and whatever it says, what is looked up is right."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from data_fakes import ListSource, WordTower

from aced.cache import home as home_module
from aced.cache import store as store_module
from aced.cache.home import LocalHome, file_state
from aced.cache.making import EmbedSettings
from aced.cache.sidecar import open_sidecar
from aced.cache.sidecarlist import LIST, SideCarList
from aced.cache.store import Store, build_store, open_store
from aced.core.embeddings import Embeddings
from aced.errors import AcedError

KEYS = [f"{tar}.tar/w{i}{'bad' if i % 5 == 4 else ''}" for tar, n in (("a", 9), ("b", 1), ("日", 12)) for i in range(n)]
EXACT = EmbedSettings("float32", micro_batch=8)
GOOD = torch.tensor([i for i, key in enumerate(KEYS) if not key.endswith("bad")])


def tars() -> ListSource:
    source: Any = ListSource(KEYS, "tars")
    names = [key.partition("/")[0] for key in KEYS]
    source.parts = {name: f"mark {name}" for name in dict.fromkeys(names)}
    source.part_sizes = [names.count(name) for name in source.parts]
    return source


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """That of the side-cars of a cache in `tmp_path`."""
    return Path(build_store(tmp_path, tars(), WordTower(), EXACT).name)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The side-cars whose headers were read to open stores, which are too large to be hashed."""
    found: list[str] = []

    def note(path: Path, *args: Any) -> Any:
        found.append(path.name[0])
        return open_sidecar(path, *args)

    monkeypatch.setattr(home_module, "open_sidecar", note)
    monkeypatch.setattr(store_module, "_HASHED_BYTES", 0)
    return found


def opened_store(tmp_path: Path) -> Store:
    return open_store(tmp_path, WordTower().identity(), tars(), EXACT)


def check(store: Store) -> None:
    mixed = GOOD[torch.randperm(len(GOOD), generator=torch.Generator().manual_seed(0))].repeat(2)
    found, right = store.lookup(mixed), expected(mixed)
    assert torch.equal(found.image, right.image)
    assert torch.equal(found.text, right.text)
    assert store.valid(torch.arange(len(KEYS))).nonzero().flatten().tolist() == GOOD.tolist()


def expected(positions: torch.Tensor) -> Embeddings:
    return WordTower().score(tars().read(positions.tolist(), []), 8)


def test_a_complete_cache_is_opened_without_its_side_cars(tmp_path: Path, folder: Path, opened: list[str]) -> None:
    (folder / LIST).unlink()
    first = opened_store(tmp_path)
    assert opened == ["a", "b", "日"]
    again = opened_store(tmp_path)
    assert len(opened) == 3
    assert again.info == first.info
    assert again.mark == first.mark
    check(first)
    check(again)


def touch(folder: Path) -> None:
    os.utime(next(folder.glob("b-*")))


def renew(folder: Path) -> None:
    path = next(folder.glob("b-*"))
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content)


def forget(folder: Path) -> None:
    lines = (folder / LIST).read_bytes().splitlines(keepends=True)
    (folder / LIST).write_bytes(b"".join(line for line in lines if not line.startswith(b'["b-')))


def cut(folder: Path) -> None:
    content = (folder / LIST).read_bytes()
    (folder / LIST).write_bytes(content[: content.index(b'["b-') + 60])


@pytest.mark.parametrize("change", [touch, renew, forget, cut])
def test_what_the_list_does_not_know_is_read_once(
    change: Callable[[Path], None], tmp_path: Path, folder: Path, opened: list[str]
) -> None:
    change(folder)
    after = [*"b", *"日" * (change is cut)]
    for _ in range(2):
        check(opened_store(tmp_path))
        assert opened == after


@pytest.mark.parametrize("content", [b"", b"{}\n", b"\x00\xff", b'{"version":9,"fields":[],"identities":[]}\n', None])
def test_a_list_that_is_none_is_made_anew(
    content: bytes | None, tmp_path: Path, folder: Path, opened: list[str]
) -> None:
    """None: a folder of that name, where none can be written; the headers are then read at each start."""
    (folder / LIST).unlink()
    if content is None:
        (folder / LIST).mkdir()
    else:
        (folder / LIST).write_bytes(content)
    check(opened_store(tmp_path))
    check(opened_store(tmp_path))
    assert len(opened) == (3 if content is not None else 6)
    assert not list(folder.glob(".*"))


def test_processes_that_write_the_list_keep_each_others_lines(folder: Path) -> None:
    files = sorted(folder.glob("*.safetensors"))
    states = {path.name: file_state(path) for path in files}
    (folder / LIST).unlink()
    one, other = SideCarList(LocalHome(folder)), SideCarList(LocalHome(folder))
    for listed, of in ((one, files[:2]), (other, files[1:])):
        for path in of:
            listed.add(path.name, states[path.name], open_sidecar(path).info)  # type: ignore[arg-type]
    one.save()
    other.save()
    whole = SideCarList(LocalHome(folder))
    for path in files:
        known = whole.get(path.name, states[path.name])  # type: ignore[arg-type]
        assert known is not None
        assert known.sha256 == open_sidecar(path).info.sha256
    files[0].unlink()
    other.add(files[1].name, states[files[1].name], open_sidecar(files[1]).info)  # type: ignore[arg-type]
    other.save()
    assert files[0].name.encode() not in (folder / LIST).read_bytes()  # what is gone goes from the list


def swap(folder: Path) -> Path:
    """Other embeddings in the file of `b.tar`, of the same size and time."""
    path = next(folder.glob("b-*"))
    state, content = path.stat(), path.read_bytes()
    build_store(folder.parents[1] / "other", one_tar("b"), Other(), EXACT)
    (new,) = (folder.parents[1] / "other").rglob("b-*.safetensors")
    assert len(new.read_bytes()) == len(content)
    path.write_bytes(new.read_bytes())
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    return path


class Other(WordTower):
    """Gives other embeddings than its identity says."""

    def score(self, candidates: Any, micro_batch: int) -> Embeddings:
        found = super().score(candidates, micro_batch)
        return Embeddings(found.text, found.image, found.scale, found.bias)


def one_tar(tar: str) -> ListSource:
    source: Any = ListSource([key for key in KEYS if key.startswith(tar)], "tars")
    source.parts, source.part_sizes = {f"{tar}.tar": f"mark {tar}.tar"}, [len(source.keys)]
    return source


def test_a_side_car_that_is_another_one_than_the_list_says_is_refused_when_it_is_read(
    tmp_path: Path, folder: Path, opened: list[str]
) -> None:
    path = swap(folder)
    opened.clear()
    store = opened_store(tmp_path)
    assert opened == []
    store.lookup(torch.tensor([0]))
    with pytest.raises(AcedError, match=rf"{path}.*{LIST}"):
        store.lookup(torch.tensor([0, 9]))
    (folder / LIST).unlink()
    assert not torch.equal(opened_store(tmp_path).lookup(torch.tensor([9])).text, expected(torch.tensor([9])).text)


@pytest.mark.parametrize("damage", ["cut", "gone", "zeros"])
def test_a_side_car_that_is_damaged_under_a_run_is_named_when_it_is_read(
    damage: str, tmp_path: Path, folder: Path
) -> None:
    store = opened_store(tmp_path)
    path = next(folder.glob("b-*"))
    content = path.read_bytes()
    path.unlink()
    if damage != "gone":
        path.write_bytes(content[:-1] if damage == "cut" else bytes(len(content)))
    with pytest.raises(AcedError, match=rf"^[^\n]*{path}[^\n]*$"):
        store.lookup(torch.tensor([0, 9]))


def test_small_caches_are_hashed_whatever_the_list_says(tmp_path: Path, folder: Path) -> None:
    path = next(folder.glob("b-*"))
    state, content = path.stat(), bytearray(path.read_bytes())
    content[-30] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    with pytest.raises(AcedError, match=rf"{path} .*damaged"):
        opened_store(tmp_path)


def test_a_store_travels_without_what_it_has_open(tmp_path: Path, folder: Path) -> None:
    store = opened_store(tmp_path)
    before = len(pickle.dumps(store))
    check(store)
    assert len(pickle.dumps(store)) == before
    check(pickle.loads(pickle.dumps(store)))


def test_tars_of_one_name_and_content_share_a_side_car(tmp_path: Path) -> None:
    source: Any = ListSource(["x/a.tar/w0", "x/a.tar/w1", "y/a.tar/w0", "y/a.tar/w1"], "tars")
    source.parts, source.part_sizes = {"x/a.tar": "same", "y/a.tar": "same"}, [2, 2]
    store = build_store(tmp_path, source, WordTower(), EXACT)
    assert len(list(Path(store.name).glob("*.safetensors"))) == 1
    found = store.lookup(torch.tensor([3, 0, 2, 1])).text
    assert torch.equal(found[[1, 3]], found[[2, 0]])
