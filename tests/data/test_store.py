import json
from pathlib import Path

import numpy as np
import pytest
import torch
from data_fakes import ListSource, WordTower
from safetensors.torch import load_file

from aced.core.embeddings import Embeddings
from aced.data.store import Store, build_store, open_store, store_folder
from aced.data.tensorfile import RowFile, RowFileWriter
from aced.errors import AcedError

KEYS = [f"w{i}{'bad' if i % 7 == 3 else ''}" for i in range(60)]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return build_store(tmp_path / "store", ListSource(KEYS), WordTower(), micro_batch=8)


def expected(keys: list[str]) -> Embeddings:
    source = ListSource(keys)
    return WordTower().score(source.read(range(len(keys)), []), 8)


def test_cached_equals_computed(store: Store):
    good = [i for i, key in enumerate(KEYS) if not key.endswith("bad")]
    assert store.valid(torch.arange(60)).tolist() == [not key.endswith("bad") for key in KEYS]
    found = store.lookup(torch.tensor(good[::-1]))
    direct = expected([KEYS[i] for i in good[::-1]])
    assert torch.equal(found.image, direct.image)
    assert torch.equal(found.text, direct.text)
    assert (found.scale, found.bias) == (12.5, -4.0)
    assert found.image.dtype == torch.float32
    assert store.info.faults == {"bad_word": 9}
    assert (store.info.n, store.info.d, len(store)) == (60, 8, 60)


def test_rows_are_found_by_key_in_another_order_and_a_part(tmp_path: Path, store: Store):
    keys = [KEYS[i] for i in (50, 4, 4 * 7 + 3, 12)]
    other = open_store(store.folder, tower_fingerprint="tower", source=ListSource(keys, "part"))
    assert other.valid(torch.arange(4)).tolist() == [True, True, False, True]
    rows = torch.tensor([3, 0, 1])
    assert torch.equal(other.lookup(rows).text, expected([keys[i] for i in rows.tolist()]).text)


def test_a_sample_without_embedding_is_never_looked_up_as_zeros(store: Store):
    with pytest.raises(AcedError, match="1 of 2 samples have no embedding"):
        store.lookup(torch.tensor([0, 3]))


def test_half_precision_keeps_unit_length(tmp_path: Path):
    keys = [f"w{i}" for i in range(20)]
    store = build_store(tmp_path / "s", ListSource(keys), WordTower(), micro_batch=8, dtype="float16")
    found, direct = store.lookup(torch.arange(20)), expected(keys)
    assert found.image.dtype == torch.float32
    assert torch.allclose(found.image.norm(dim=1), torch.ones(20), atol=1e-6)
    assert (found.image - direct.image).abs().max() < 1e-3
    assert load_file(store.folder / "embeddings.safetensors")["image"].dtype == torch.float16
    with pytest.raises(AcedError, match="holds float16 embeddings and float32 is asked for"):
        build_store(store.folder, ListSource(keys), WordTower(), micro_batch=8)


def test_a_second_build_computes_nothing(store: Store):
    tower = WordTower()
    again = build_store(store.folder, ListSource(KEYS), tower, micro_batch=8)
    assert tower.calls == 0
    assert torch.equal(again.lookup(torch.tensor([1])).image, store.lookup(torch.tensor([1])).image)


def test_the_file_is_an_ordinary_safetensors_file(store: Store):
    tensors = load_file(store.folder / "embeddings.safetensors")
    assert {name: tuple(tensor.shape) for name, tensor in tensors.items()} == {
        "image": (60, 8),
        "text": (60, 8),
        "valid": (60,),
    }
    assert torch.equal(tensors["image"][5], store.lookup(torch.tensor([5])).image[0])


class Interrupting(WordTower):
    def score(self, candidates, micro_batch):
        if self.calls == 1:
            raise KeyboardInterrupt
        return super().score(candidates, micro_batch)


def test_an_interrupted_build_leaves_nothing_and_can_be_repeated(tmp_path: Path):
    source = ListSource([f"w{i}" for i in range(3000)])
    with pytest.raises(KeyboardInterrupt):
        build_store(tmp_path / "s", source, Interrupting(), micro_batch=8)
    assert not list(tmp_path.iterdir())
    done: list[tuple[int, int]] = []
    store = build_store(
        tmp_path / "s", source, WordTower(), micro_batch=8, progress=lambda *counts: done.append(counts)
    )
    assert done[-1] == (3000, 3000)
    assert len(done) == 3
    assert bool(store.valid(torch.arange(3000)).all())
    ends = torch.tensor([0, 1023, 1024, 2999])
    assert torch.equal(store.lookup(ends).image, expected([source.keys[i] for i in ends.tolist()]).image)


def test_workers_give_the_same_store(tmp_path: Path, store: Store):
    other = build_store(tmp_path / "w", ListSource(KEYS), WordTower(), micro_batch=8, workers=1)
    assert other.info.sha256 == store.info.sha256


def test_it_refuses_another_tower_and_other_data(store: Store):
    with pytest.raises(AcedError, match=r"another tower .*made by words-8.* delete the folder"):
        open_store(store.folder, tower_fingerprint="new weights", source=ListSource(KEYS))
    with pytest.raises(AcedError, match=r"other data \(words\): 1 of 2 samples of words are not in it.* new1;"):
        open_store(store.folder, tower_fingerprint="tower", source=ListSource(["w1", "new1"], "new"))


def test_it_refuses_a_tar_that_changed_under_the_same_keys(tmp_path: Path):
    source = ListSource(["a.tar/1", "b.tar/1"])
    source.parts = {"a.tar": "1", "b.tar": "1"}
    store = build_store(tmp_path / "s", source, WordTower(), micro_batch=8)
    part = ListSource(["b.tar/1"], "part")
    part.parts = {"b.tar": "1"}
    assert len(open_store(store.folder, tower_fingerprint="tower", source=part)) == 1
    part.parts = {"b.tar": "2"}
    with pytest.raises(AcedError, match=r"1 tars have changed since they were embedded, for example b\.tar"):
        open_store(store.folder, tower_fingerprint="tower", source=part)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        ("embeddings.safetensors", cut),
        ("embeddings.safetensors", flip),
        ("embeddings.safetensors", Path.unlink),
        ("keys.json", cut),
        ("keys.json", Path.unlink),
        ("keys.json", lambda path: path.write_text("[]")),
        ("store.json", cut),
        ("store.json", lambda path: path.write_text("{}")),
    ],
)
def test_it_refuses_damage(store: Store, file: str, damage):
    damage(store.folder / file)
    with pytest.raises(AcedError, match=f"is damaged at .*{file}.*: delete the folder"):
        open_store(store.folder, tower_fingerprint="tower", source=ListSource(KEYS))
    with pytest.raises(AcedError, match="is damaged"):
        build_store(store.folder, ListSource(KEYS), WordTower(), micro_batch=8)


def test_it_refuses_what_is_no_store_or_of_another_version(tmp_path: Path, store: Store):
    with pytest.raises(AcedError, match="is not a store of embeddings"):
        open_store(tmp_path / "nowhere", tower_fingerprint="tower", source=ListSource(KEYS))
    path = store.folder / "store.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "version": 99}))
    with pytest.raises(AcedError, match="another version of aced"):
        open_store(store.folder, tower_fingerprint="tower", source=ListSource(KEYS))


def test_nothing_usable_and_numbers_that_are_not_finite(tmp_path: Path):
    class Broken(WordTower):
        def score(self, candidates, micro_batch):
            found = super().score(candidates, micro_batch)
            found.text[1, 2] = float("nan")
            return found

    with pytest.raises(AcedError, match="not finite"):
        build_store(tmp_path / "s", ListSource(["a", "b"]), Broken(), micro_batch=8)
    with pytest.raises(AcedError, match="No sample of words is usable"):
        build_store(tmp_path / "s", ListSource(["bad", "xbad"]), WordTower(), micro_batch=8)
    assert not list(tmp_path.iterdir())


def test_looking_up_does_not_copy_the_file_into_memory(tmp_path: Path):
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


def test_store_folders_differ_by_tower_and_data(tmp_path: Path):
    folders = {store_folder(tmp_path, tower, data) for tower in ("a", "b") for data in ("a", "../x")}
    assert len(folders) == 4
    assert all(folder.parent == tmp_path / "embeddings" for folder in folders)


def test_two_processes_that_build_the_same_store_end_with_one(tmp_path: Path):
    folder, other = tmp_path / "s", tmp_path / "other"
    build_store(other, ListSource(KEYS), WordTower(), micro_batch=8)

    def another_finishes_first(done: int, total: int) -> None:
        if done == total:
            other.rename(folder)

    store = build_store(folder, ListSource(KEYS), WordTower(), micro_batch=8, progress=another_finishes_first)
    assert len(store) == 60
    assert [p.name for p in tmp_path.iterdir()] == ["s"]
