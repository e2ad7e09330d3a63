"""`aced index`: what it keeps, that it goes on where it was, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from aced.pool.shards import open_shards
from aced.pool.tars import indexing, tarindex
from aced.pool.tars.manifestfile import kept_path, read_named
from cli_fakes import Cli
from run_fakes import write_pairs
from wording import tells

TARS, PAIRS = 6, 4


@pytest.fixture
def pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for tar in range(TARS):
        write_pairs(tmp_path / f"pool/{tar}.tar", range(tar * PAIRS, (tar + 1) * PAIRS))
    return tmp_path / "pool"


@pytest.mark.parametrize("workers", [1, 2])
def test_what_it_keeps_is_what_a_run_starts_from(
    workers: int, cli: Cli, pool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(indexing, "_PARALLEL", 2)
    plain = open_shards(["pool"])
    ended = cli("index", "pool", "--index-dir", "index", "--workers", workers, "--out", "pool/my.manifest")
    assert ended.status == 0, ended.err
    assert all(word in ended.out for word in (f" {TARS} ", f" {TARS * PAIRS} ", "data.shards=pool/my.manifest"))
    monkeypatch.setattr(tarindex, "list_tar", None)  # nothing is read any more
    for name in ("pool", "pool/my.manifest"):
        source = open_shards([name], index_dir=tmp_path / "index")
        assert (source.parts, list(source.keys)) == (plain.parts, list(plain.keys))
    again = cli("index", "pool", "--index-dir", "index", "--workers", workers)
    assert str(kept_path(tmp_path / "index", ["pool"]).name) in again.out.replace("\n", "")


def test_one_that_was_killed_goes_on(
    cli: Cli, pool: Path, tmp_path: Path, walks: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    read = indexing._read

    def killed(tar: indexing.Unread, *arguments: Any, **words: Any) -> indexing.Reading:
        if tar.located.path.name == "4.tar":
            raise KeyboardInterrupt
        return read(tar, *arguments, **words)

    with monkeypatch.context() as patch:
        patch.setattr(indexing, "_read", killed)
        ended = cli("index", "pool", "--index-dir", "index", "--workers", 1)
    assert ended.status == 130
    assert walks == ["0.tar", "1.tar", "2.tar", "3.tar"]
    assert cli("index", "pool", "--index-dir", "index", "--workers", 1).status == 0
    assert walks[4:] == ["4.tar", "5.tar"]
    assert not list(tmp_path.glob("index/*.tmp"))


def test_damage_is_told_and_stops_nothing(cli: Cli, pool: Path) -> None:
    whole = (pool / "1.tar").read_bytes()
    (pool / "1.tar").write_bytes(whole[: len(whole) // 2])
    (pool / "2.tar").write_bytes(b"")
    ended = cli("index", "pool", "--out", "x.manifest", "--index-dir", "")
    assert ended.status == 0, ended.err
    assert all(name in ended.out for name in ("tar_truncated", "tar_empty_file"))
    assert [tar.txt for tar in read_named("x.manifest").tars][2] == 0


def test_what_is_refused(cli: Cli, pool: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    write = cli("index", "pool", "--out", "x.manifest")
    assert write.status == 0, write.err
    for words, sentence in (
        (("x.manifest",), "x.manifest"),
        (("pool", "--index-dir", ""), "--out"),
        (("pool", "--index-dir", "file"), "file"),
        (("nothing",), "nothing"),
        (("s3://bucket/pool",), "--spool-dir"),
        (("pool", "--spool-gb", "0"), "--spool-gb … 0"),
        (("pool", "--out", "file/x.manifest"), "file/x.manifest"),
    ):
        ended = cli("index", *words)
        assert ended.status == 2, words
        assert tells(ended.err, sentence)
        assert "Traceback" not in ended.err
