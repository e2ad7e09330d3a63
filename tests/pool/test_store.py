"""Side-cars and stores: what is looked up is what was computed, and what does not belong is refused by name."""

from __future__ import annotations

import json
import re
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data_fakes import ListSource, WordTower
from safetensors import safe_open
from safetensors.torch import load_file

from aced.cache.costs import check_space, size_text
from aced.cache.making import EmbedSettings
from aced.cache.sidecar import Part, open_sidecar, overhead_bytes, parts_of, sample_bytes, sidecar_path
from aced.cache.sidecarlist import LIST
from aced.cache.store import Store, build_store, open_store
from aced.core.embeddings import Embeddings
from aced.errors import AcedError
from aced.files.tensorfile import RowFile, RowFileWriter

KEYS = [f"{tar}.tar/w{i}{'bad' if i % 7 == 3 else ''}" for tar, n in (("a", 25), ("b", 1), ("c", 34)) for i in range(n)]
EXACT = EmbedSettings("float32", micro_batch=8)


def tars(keys: list[str] = KEYS, marks: str = "", fingerprint: str = "tars") -> ListSource:
    """A source of words in tars."""
    source: Any = ListSource(keys, fingerprint)
    names = [key.partition("/")[0] for key in keys]
    source.parts = {name: f"mark {name}{marks}" for name in dict.fromkeys(names)}
    source.part_sizes = [names.count(name) for name in source.parts]
    return source


def expected(keys: list[str]) -> Embeddings:
    source = ListSource(keys)
    return WordTower().score(source.read(range(len(keys)), []), 8)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return build_store(tmp_path, tars(), WordTower(), EXACT)


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name != LIST)


def test_nothing_can_be_looked_up(store: Store) -> None:
    """A process may have no candidate that is left."""
    nothing = torch.empty(0, dtype=torch.int64)
    assert store.lookup(nothing).image.shape == (0, 8)
    assert len(store.valid(nothing)) == 0


def test_the_model_is_hashed_as_often_for_many_tars_as_for_one(tmp_path: Path) -> None:
    """A hash of every weight, which takes seconds of a large model, must not be taken for each of 100,000 tars."""

    class Counting(WordTower):
        hashed = 0

        def identity(self) -> dict[str, str]:
            self.hashed += 1
            return super().identity()

    one, many = Counting(), Counting()
    build_store(tmp_path / "one", tars(["a.tar/w0"]), one, EXACT)
    build_store(tmp_path / "many", tars([f"{tar}.tar/w0" for tar in range(9)]), many, EXACT)
    assert many.hashed == one.hashed > 0


def test_cached_equals_computed(store: Store) -> None:
    good = [i for i, key in enumerate(KEYS) if not key.endswith("bad")]
    assert store.valid(torch.arange(60)).tolist() == [not key.endswith("bad") for key in KEYS]
    mixed = torch.tensor(good)[torch.randperm(len(good), generator=torch.Generator().manual_seed(0))]
    found, direct = store.lookup(mixed), expected([KEYS[i] for i in mixed.tolist()])
    assert torch.equal(found.image, direct.image)
    assert torch.equal(found.text, direct.text)
    assert (found.scale, found.bias, found.image.dtype) == (12.5, -4.0, torch.float32)
    info = store.info
    assert (info.n, info.d, info.views, info.usable, len(store)) == (60, 8, 1, 51, 60)
    assert info.faults == {"bad_word": 9}
    assert info.flops == 51 * 1000
    assert info.seconds > 0
    assert info.bytes == sum(path.stat().st_size for path in files(Path(store.name)))


def test_every_tar_has_a_file_of_its_own_that_other_tools_can_read(store: Store) -> None:
    assert [re.sub(r"-[0-9a-f]{12}", "", path.name) for path in files(Path(store.name))] == [
        f"{name}.safetensors" for name in "abc"
    ]
    path = files(Path(store.name))[0]
    tensors = load_file(path)
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items() if name != "keys"}
    assert shapes == {"image": (25, 1, 8), "text": (25, 8), "valid": (25,)}
    assert torch.equal(tensors["text"][5], store.lookup(torch.tensor([5])).text[0])
    assert json.loads(bytes(tensors["keys"].tolist()))[4] == "w4"
    with safe_open(path, "pt") as file:
        info = json.loads(file.metadata()["info"])
    assert (info["tower"], info["part"], info["n"], info["dtype"]) == ("words-8", "a.tar", 25, "float32")


def test_a_second_build_computes_nothing_and_a_new_tar_is_embedded_alone(tmp_path: Path, store: Store) -> None:
    before = {path: path.stat().st_mtime_ns for path in files(Path(store.name))}
    tower = WordTower()
    build_store(tmp_path, tars(), tower, EXACT)
    assert tower.calls == 0
    more = [*KEYS, "d.tar/new"]
    grown = build_store(tmp_path, tars(more), tower, EXACT)
    assert tower.calls == 1
    assert torch.equal(grown.lookup(torch.tensor([60, 0])).text, expected(["d.tar/new", KEYS[0]]).text)
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_tars_are_found_in_another_order_under_another_folder_and_alone(tmp_path: Path, store: Store) -> None:
    keys = [f"pool/{key}" for key in (*KEYS[26:], *KEYS[:25])]
    source = tars(keys)
    source.parts = {f"pool/{name}.tar": f"mark {name}.tar" for name in "ca"}
    source.part_sizes = [34, 25]
    other = open_store(tmp_path, WordTower().identity(), source, EXACT)
    rows = torch.tensor([34, 0, 57, 32])
    plain = [keys[i].removeprefix("pool/") for i in rows.tolist()]
    assert torch.equal(other.lookup(rows).image, expected(plain).image)


def test_rows_are_found_by_key_where_a_reader_gives_another_choice_of_samples(tmp_path: Path, store: Store) -> None:
    keys = [KEYS[i] for i in (20, 4, 11)]
    part = open_store(tmp_path, WordTower().identity(), tars(keys), EXACT)
    assert torch.equal(part.lookup(torch.arange(3)).text, expected(keys).text)
    with pytest.raises(AcedError, match=r"1 of 2 samples.*newcomer"):
        open_store(tmp_path, WordTower().identity(), tars(["a.tar/w1", "a.tar/newcomer"]), EXACT)


def test_a_sample_without_embedding_is_never_looked_up_as_zeros(store: Store) -> None:
    with pytest.raises(AcedError, match="1 of 2 samples"):
        store.lookup(torch.tensor([0, 3]))


def test_workers_give_the_same_store(tmp_path: Path, store: Store) -> None:
    other = build_store(tmp_path / "w", tars(), WordTower(), EXACT._replace(workers=1))
    hashes = [[open_sidecar(path).info.sha256 for path in files(Path(one.name))] for one in (other, store)]
    assert hashes[0] == hashes[1]
    assert other.mark == store.mark


class Interrupting(WordTower):
    def score(self, candidates: Any, micro_batch: int) -> Embeddings:
        if self.calls == 2:
            raise KeyboardInterrupt
        return super().score(candidates, micro_batch)


def test_an_interrupted_build_keeps_whole_tars_and_goes_on(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        build_store(tmp_path, tars(), Interrupting(), EXACT)
    assert [path.name[0] for path in files(tmp_path)] == ["a", "b"]
    done: list[tuple[int, int]] = []
    tower = WordTower()
    store = build_store(tmp_path, tars(), tower, EXACT, lambda *counts: done.append(counts))
    assert done == [(34, 34)]
    assert tower.calls == 1
    assert torch.equal(store.lookup(torch.tensor([0, 59])).text, expected([KEYS[0], KEYS[59]]).text)


@pytest.mark.parametrize(
    ("tower", "words"),
    [
        (WordTower(weights="new"), "other weights"),
        (WordTower(preprocessing="new"), "another preprocessing"),
        (WordTower(tokenizer="new"), "another tokenizer"),
        (WordTower(architecture="new"), "another architecture"),
        (WordTower(weights="new", tokenizer="new"), "other weights and another tokenizer"),
    ],
)
def test_it_refuses_what_another_tower_made_and_says_in_what_it_differs(
    tmp_path: Path, store: Store, tower: WordTower, words: str
) -> None:
    with pytest.raises(AcedError, match=rf"a\.tar .*\b{words}\b.*words-8"):
        open_store(tmp_path, tower.identity(), tars(), EXACT)
    Path(store.name).rename(Path(store.name).parent / tower.identity()["tower"])
    for build in (open_store, build_store):
        by: Any = tower if build is build_store else tower.identity()
        args = (tmp_path, tars(), by, EXACT) if build is build_store else (tmp_path, by, tars(), EXACT)
        with pytest.raises(AcedError, match=rf"\b{words}\b.*words-8"):
            build(*args)  # type: ignore[arg-type]


class OldTower(WordTower):
    """Side-cars of before the architecture was noted."""

    def identity(self) -> dict[str, str]:
        return self.marks | {"tower": "-".join(self.marks.values())}


def test_side_cars_without_an_architecture_are_used_once_they_are_renamed(tmp_path: Path) -> None:
    old = build_store(tmp_path, tars(), OldTower(), EXACT)
    new = WordTower().identity()
    with pytest.raises(AcedError, match=rf"{old.name} .*{new['tower']}"):
        open_store(tmp_path, new, tars(), EXACT)
    Path(old.name).rename(Path(old.name).parent / new["tower"])
    store = open_store(tmp_path, new, tars(), EXACT)
    assert torch.equal(store.lookup(torch.tensor([0])).text, expected([KEYS[0]]).text)
    with pytest.raises(AcedError, match="weights"):
        open_store(tmp_path, WordTower(weights="new").identity() | {"tower": new["tower"]}, tars(), EXACT)


def test_it_refuses_a_tar_that_changed_under_the_same_keys(tmp_path: Path, store: Store) -> None:
    changed = tars(marks=" new")
    with pytest.raises(AcedError, match=r"a\.tar .*side-car .*another tar"):
        open_store(tmp_path, WordTower().identity(), changed, EXACT)
    tower = WordTower()
    old, new = (sidecar_path(tmp_path, tower.identity()["tower"], parts_of(one)[0]) for one in (tars(), changed))
    old.rename(new)
    with pytest.raises(AcedError, match=r"a\.tar.*changed"):
        build_store(tmp_path, changed, tower, EXACT)


def test_it_refuses_another_type_and_fewer_views(tmp_path: Path, store: Store) -> None:
    with pytest.raises(AcedError, match=r"float32.*int8"):
        build_store(tmp_path, tars(), WordTower(), EXACT._replace(dtype="int8"))
    with pytest.raises(AcedError, match=r"views: 1.* 3"):
        open_store(tmp_path, WordTower().identity(), tars(), EXACT._replace(views=3))
    with pytest.raises(AcedError, match=r"float32, float16.*int8.*bfloat16"):
        build_store(tmp_path, tars(), WordTower(), EXACT._replace(dtype="bfloat16"))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)


def edit(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b'\\"usable\\"', b'\\"usabel\\"'))


def beginning(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:5])


def zeros(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


@pytest.mark.parametrize("damage", [cut, flip, edit, beginning, zeros])
def test_it_refuses_damage(tmp_path: Path, store: Store, damage: Callable[[Path], None]) -> None:
    path = files(Path(store.name))[2]
    damage(path)
    sentence = rf"{path} .*damaged .*'aced embed'"
    with pytest.raises(AcedError, match=sentence):
        open_store(tmp_path, WordTower().identity(), tars(), EXACT)
    with pytest.raises(AcedError, match=sentence):
        build_store(tmp_path, tars(), WordTower(), EXACT)


@pytest.mark.parametrize("damage", [cut, beginning, zeros])
def test_a_cut_file_is_seen_by_its_header_alone(store: Store, damage: Callable[[Path], None]) -> None:
    """Large stores are not hashed when they are opened."""
    damage(files(Path(store.name))[2])
    with pytest.raises(AcedError, match="damaged"):
        open_sidecar(files(Path(store.name))[2])


def test_it_refuses_another_version(store: Store) -> None:
    path = files(Path(store.name))[0]
    path.write_bytes(path.read_bytes().replace(b'\\"version\\": 2', b'\\"version\\": 9'))
    with pytest.raises(AcedError, match="version"):
        open_sidecar(path)


def test_nothing_usable_and_numbers_that_are_not_finite(tmp_path: Path) -> None:
    class Broken(WordTower):
        def score(self, candidates: Any, micro_batch: int) -> Embeddings:
            found = super().score(candidates, micro_batch)
            found.text[1, 2] = float("nan")
            return found

    with pytest.raises(AcedError, match="finite"):
        build_store(tmp_path, ListSource(["a", "b"]), Broken(), EXACT)
    assert not files(tmp_path)
    for _ in range(2):  # also when the side-car, which says so, is there already
        with pytest.raises(AcedError, match=r"words .*bad_word 2"):
            build_store(tmp_path, ListSource(["bad", "xbad"]), WordTower(), EXACT)


@pytest.mark.parametrize(("dtype", "worst"), [("float16", 1e-3), ("int8", 0.02)])
def test_smaller_types_keep_unit_length_and_direction(tmp_path: Path, dtype: str, worst: float) -> None:
    keys = [f"w{i}" for i in range(20)]
    store = build_store(tmp_path, ListSource(keys), WordTower(), EmbedSettings(dtype))
    found, direct = store.lookup(torch.arange(20)), expected(keys)
    assert found.image.dtype == torch.float32
    assert torch.allclose(found.image.norm(dim=1), torch.ones(20), atol=1e-6)
    assert 0 < (found.image - direct.image).abs().max() < worst
    assert str(load_file(files(tmp_path)[0])["image"].dtype) == f"torch.{dtype}"


@pytest.mark.parametrize("settings", [EmbedSettings("float32"), EmbedSettings("float16", 3), EmbedSettings("int8", 2)])
def test_the_size_that_is_told_is_the_size_of_the_file(tmp_path: Path, settings: EmbedSettings) -> None:
    class Pictures(WordTower):
        def score_images(self, images: torch.Tensor, micro_batch: int) -> torch.Tensor:
            return torch.eye(8)[torch.arange(len(images)) % 8]

    n = 3000
    keys = [f"{i:06d}" for i in range(n)]
    store = build_store(tmp_path, ListSource(keys), Pictures(), settings)
    told = sample_bytes(8, settings.dtype, settings.views) * n
    assert told + n * len('"000000", ') <= store.info.bytes + 2 < told + n * len('"000000", ') + 10_000


@pytest.mark.parametrize("n", [1, 20, 3000])
@pytest.mark.parametrize("key", ["w{}", "日本/{:060d}"])
def test_the_room_that_is_planned_is_what_the_files_take(tmp_path: Path, n: int, key: str) -> None:
    """Also where a tar holds so few samples that its side-car is mostly header."""
    source: Any = ListSource([f"{tar}.tar/{key.format(i)}" for tar in "abc" for i in range(n)], "tars")
    source.parts, source.part_sizes = {f"{tar}.tar": f"mark {tar}" for tar in "abc"}, [n] * 3
    planned = sum(overhead_bytes(part, source) for part in parts_of(source)) + 3 * n * sample_bytes(8, "float16", 1)
    store = build_store(tmp_path, source, WordTower(), EmbedSettings("float16"))
    taken = sum(-(-path.stat().st_size // 4096) * 4096 for path in files(Path(store.name)))
    assert planned == pytest.approx(taken, rel=0.02, abs=3 * 2500)


def test_too_little_room_is_told_before_anything_is_computed(tmp_path: Path) -> None:
    with pytest.raises(AcedError, match=r"1,000,000,000,000,000 .*TB"):
        check_space(tmp_path / "not/there", 10**15, 512, EmbedSettings())
    assert check_space(tmp_path, 10, 512, EmbedSettings()) > 0
    assert [size_text(size) for size in (12, 1234, 98_765, 5.1e8, 1.54e11, 3e12)] == [
        "12 bytes", "1.23 kB", "98.8 kB", "510 MB", "154 GB", "3 TB",
    ]  # fmt: skip


def test_looking_up_does_not_copy_the_file_into_memory(tmp_path: Path) -> None:
    path = tmp_path / "big.safetensors"
    writer = RowFileWriter(path, {"image": ("float32", (40_000, 256))})
    for start in range(0, 40_000, 4000):
        writer.put("image", np.arange(start, start + 4000), np.full((4000, 256), start, dtype=np.float32))
    writer.finish()

    def private() -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))

    before = private()
    file = RowFile(path)
    assert file.rows("image")[::1000].sum() == sum(range(0, 40_000, 4000)) * 4 * 256
    assert private() - before < 8_000  # kB; the tensor has 40,000


def test_a_file_that_was_not_finished_is_no_file(tmp_path: Path) -> None:
    path = tmp_path / "half"
    writer = RowFileWriter(path, {"image": ("float32", (10, 4))}, 100)
    writer.put("image", np.arange(10), np.zeros((10, 4), dtype=np.float32))
    with pytest.raises(ValueError, match="header"):
        RowFile(path)
    with pytest.raises(ValueError, match=r"301.*176"):
        writer.finish({"long": "x" * 200})
    writer.finish({"short": "x"})
    assert RowFile(path).metadata == {"short": "x"}


def test_two_processes_that_make_the_same_side_car_end_with_one(tmp_path: Path) -> None:
    other = build_store(tmp_path / "other", tars(), WordTower(), EXACT)

    def another_finishes_first(done: int, total: int) -> None:
        target = tmp_path / "s/embeddings" / Path(other.name).name
        for path in files(Path(other.name)):
            (target / path.name).write_bytes(path.read_bytes())

    store = build_store(tmp_path / "s", tars(), WordTower(), EXACT, another_finishes_first)
    assert len(files(tmp_path / "s")) == 3
    assert bool(store.valid(torch.tensor([0, 25, 59])).all())


def test_parts_without_samples_need_no_side_car() -> None:
    source = tars()
    source.parts = {"none.tar": "x", **source.parts, "last.tar": "y"}
    source.part_sizes = [0, *source.part_sizes, 0]
    found = parts_of(source)
    assert [(part.name, part.start, part.stop) for part in found] == [
        ("a.tar", 0, 25), ("b.tar", 25, 26), ("c.tar", 26, 60),
    ]  # fmt: skip
    assert list(found[1].keys(source)) == ["w0"]
    assert parts_of(ListSource(["x"])) == [Part("words", "words", 0, 1)]


def test_a_full_disk_leaves_the_tars_that_were_whole(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # Room for the first two tars' side-cars with their headers, but not for the third, which is larger.
    keys = [f"{tar}.tar/w{i}" for tar, n in (("a", 5), ("b", 5), ("c", 2000)) for i in range(n)]
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(AcedError, match=r"^Disk full.*/c-.*\.safetensors"):
            build_store(tmp_path, tars(keys), WordTower(), EXACT)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name[0] for path in files(tmp_path)] == ["a", "b"]
    tower = WordTower()
    build_store(tmp_path, tars(keys), tower, EXACT)
    assert len(files(tmp_path)) == 3
