"""Arrays by model and content: what was kept comes back as long as both are the same, and nothing else ever does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from aced.cache.keyed import KeyedArrays
from aced.files.tensorfile import RowFile

IDENTITY = {"weights": "w", "preprocessing": "p", "tokenizer": "t", "architecture": "a", "tower": "all"}
ARRAYS = {"marks": np.arange(5, dtype=np.uint8), "rows": np.arange(12, dtype=np.float32).reshape(3, 4)}


def kept(folder: Path, identity: dict[str, str] = IDENTITY) -> KeyedArrays:
    return KeyedArrays(folder, "things", identity)


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


@given(
    stem=st.sampled_from(["images", "captions"]),
    mark=st.text(min_size=1),
    shape=st.lists(st.integers(0, 5), min_size=1, max_size=3),
    dtype=st.sampled_from([np.float32, np.float16, np.uint8]),
)
@settings(max_examples=40, deadline=None)
def test_what_was_put_comes_back_and_other_tools_read_it(
    stem: str, mark: str, shape: list[int], dtype: type, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("kept")
    values = np.random.default_rng(0).integers(0, 99, shape).astype(dtype)
    kept(folder).put(stem, mark, {"values": values, "more": ARRAYS["rows"]})
    found = kept(folder).get(stem, mark)
    assert found is not None
    assert np.array_equal(found.rows("values"), values)
    read = load_file(kept(folder).path(stem, mark))
    assert np.array_equal(read["values"], values)
    assert np.array_equal(read["more"], ARRAYS["rows"])


@pytest.mark.parametrize("part", list(IDENTITY))
def test_another_model_finds_nothing_even_in_the_same_place(tmp_path: Path, part: str) -> None:
    kept(tmp_path).put("images", "one", ARRAYS)
    other = kept(tmp_path, IDENTITY | {part: "x"})
    place = other.path("images", "one")
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(kept(tmp_path).path("images", "one").read_bytes())
    assert other.get("images", "one") is None


def test_a_model_without_parts_is_the_same_as_itself(tmp_path: Path) -> None:
    """As exported models are, which have one hash."""
    whole = {"tower": "all", "contents": ""}
    kept(tmp_path, whole).put("images", "one", ARRAYS)
    assert kept(tmp_path, whole).get("images", "one") is not None


def test_another_content_and_another_kind_find_nothing(tmp_path: Path) -> None:
    kept(tmp_path).put("images", "one", ARRAYS)
    path = kept(tmp_path).path("images", "one")
    path.rename(kept(tmp_path).path("images", "two"))
    assert kept(tmp_path).get("images", "two") is None
    other = KeyedArrays(tmp_path, "others", IDENTITY).path("images", "two")
    other.parent.mkdir(parents=True)
    kept(tmp_path).path("images", "two").rename(other)
    assert KeyedArrays(tmp_path, "others", IDENTITY).get("images", "two") is None


def cut(content: bytes) -> bytes:
    return content[:-1]


def flip(content: bytes) -> bytes:
    return content[:-3] + bytes([content[-3] ^ 1]) + content[-2:]


def empty(content: bytes) -> bytes:
    return b""


def zeros(content: bytes) -> bytes:
    return bytes(len(content))


def unsealed(content: bytes) -> bytes:
    return content.replace(b"sha256", b"sha257")


def no_object(content: bytes) -> bytes:
    return content.replace(b'identity\\": {', b'identity\\": 7,{')


@pytest.mark.parametrize("damage", [cut, flip, empty, zeros, unsealed, no_object])
def test_what_is_damaged_is_absent_and_can_be_made_again(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    kept(tmp_path).put("images", "one", ARRAYS)
    path = kept(tmp_path).path("images", "one")
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    assert path.read_bytes() != whole
    assert kept(tmp_path).get("images", "one") is None
    kept(tmp_path).put("images", "one", ARRAYS)
    assert path.read_bytes() == whole


def test_a_file_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    def begun() -> None:
        with kept(tmp_path).making("images", "one", {"rows": ("float32", (9, 4))}) as file:
            file.put("rows", ARRAYS["rows"], np.array([1, 2, 8]))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        begun()
    assert not files(tmp_path)
    assert kept(tmp_path).get("images", "one") is None


def test_rows_may_be_put_where_they_belong(tmp_path: Path) -> None:
    with kept(tmp_path).making("images", "one", {"rows": ("float32", (9, 4))}) as file:
        file.put("rows", ARRAYS["rows"], np.array([1, 2, 8]))
    found = kept(tmp_path).get("images", "one")
    assert isinstance(found, RowFile)
    assert np.array_equal(found.rows("rows")[[1, 2, 8]], ARRAYS["rows"])
    assert not found.rows("rows")[[0, 3, 4, 5, 6, 7]].any()
