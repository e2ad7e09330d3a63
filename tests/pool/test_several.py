"""Several sources in one string: taken where it is clear, and what is there under a name is that one thing."""

from __future__ import annotations

from pathlib import Path

import pytest

from aced.config import make_config
from aced.errors import AcedError
from aced.files.several import pieces, several
from aced.pool.source import Fault
from aced.pool.summary import Found, found_text, tars_text
from wording import tells

IID = {"method": {"name": "iid"}}


@pytest.mark.parametrize(
    ("text", "entries"),
    [
        ("", []),
        ("a", ["a"]),
        ("a::b", ["a", "b"]),
        ("a/{0..1}.tar::b/*.tar::c", ["a/{0..1}.tar", "b/*.tar", "c"]),
        ("a :: b", ["a", "b"]),
        ("s3://x/{0..1}.tar::s3://y/0.tar", ["s3://x/{0..1}.tar", "s3://y/0.tar"]),
        ("pool::s3://y/0.tar", ["pool", "s3://y/0.tar"]),
        ("simplecache::s3://y/0.tar", ["simplecache::s3://y/0.tar"]),
        ("simplecache::s3://y/0.tar::b", ["simplecache::s3://y/0.tar", "b"]),
        ("a::zip://*.tar::simplecache::https://y/x.zip", ["a", "zip://*.tar::simplecache::https://y/x.zip"]),
        ("[a,b]", ["a", "b"]),
        ("[a, 'b c', \"d,e\"]", ["a", "b c", "d,e"]),
        ("[a,b,]", ["a", "b"]),
        ("[pool/{a,b}.tar,c]", ["pool/{a,b}.tar", "c"]),
        ("[pool/[0-9]*.tar, c::d]", ["pool/[0-9]*.tar", "c", "d"]),
        ("[pool/a]", ["pool/a"]),
        ("[ab]", ["[ab]"]),
        ("[a]*[b,c]", ["[a]*[b,c]"]),
        ("[ab]*.tar", ["[ab]*.tar"]),
        ("[]", ["[]"]),
        ("a,b c", ["a,b c"]),
    ],
)
def test_a_string_stands_for_these(text: str, entries: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert several(text) == entries


@pytest.mark.parametrize("name", ["a::b", "[a,b]", "a,b", "[a]", "a b"])
def test_what_is_there_is_what_is_meant(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).mkdir()
    assert several(name) == [name]
    assert make_config(IID | {"data": {"shards": [name]}}).data.shards == [name]
    monkeypatch.setenv("HOME", str(tmp_path))
    assert several(f"~/{name}") == [f"~/{name}"]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("a b", ["a", "b"]),
        ("a/{0,1}.tar, b", ["a/{0,1}.tar", "b"]),
        ("a/{0..1}.tar\tb[1, 2]", ["a/{0..1}.tar", "b[1, 2]"]),
        ("a", ["a"]),
        ("it's b", ["it's", "b"]),
    ],
)
def test_the_pieces_of_a_text(text: str, parts: list[str]):
    assert pieces(text) == parts


def test_weights_go_with_the_parts():
    config = make_config(IID | {"data": {"shards": "a::b", "weights": [3, 1]}})
    assert config.data.shards == ["a", "b"]
    assert make_config(IID | {"data": {"shards": ["a::b", "c"], "weights": [3, 1, 1]}}).data.shards == ["a", "b", "c"]
    with pytest.raises(AcedError, match=r"data\.weights.* 2 .*data\.shards.* 3 "):
        make_config(IID | {"data": {"shards": ["a::b", "c"], "weights": [3, 1]}})
    assert make_config(IID | {"eval": {"tasks": "[a, b]"}}).eval.tasks == ["a", "b"]
    with pytest.raises(AcedError, match=r"data\.shards"):
        make_config(IID | {"data": {"shards": [1]}})


def test_what_was_found_is_said_in_one_sentence():
    sources = [Found(name, 2, 1500) for name in "abcdef"]
    text = found_text(sources, [Fault("k", "no_caption", "k: x.", 7), Fault("k", "tar_truncated", "k: x."), FOLDER])
    assert tells(text, "9,000 samples … 12 tars … a: 1,500 in 2")
    assert "2 more sources" in text
    assert tells(text, "7 … incomplete")
    assert "incomplete" not in found_text(sources, [FOLDER])
    assert tars_text("abcdef", [1] * 6).startswith("Tars: 6 (a: 1;")


FOLDER = Fault("k", "folder", "k: x.")
