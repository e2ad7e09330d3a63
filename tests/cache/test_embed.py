"""`aced embed` from outside: what it makes, what it says, and what it survives."""

from __future__ import annotations

import gzip
import json
import multiprocessing
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from aced.cache.embed_options import EmbedOptions
from aced.cache.job import TarEmbedder
from aced.cache.making import EmbedSettings
from aced.cache.shared_out import own_share, with_ray
from aced.cache.sidecar import SideCarWriter, open_sidecar
from aced.cache.sidecarlist import LIST
from aced.cache.store import open_store
from aced.errors import AcedError
from aced.models import load_tower, save_tower
from aced.pool.shards import open_shards
from aced.pool.tars import tarindex
from aced.programs.embed import embed_program
from cli_fakes import Cli
from run_fakes import write_pairs
from wording import tells

PAIRS = {"0.tar": range(40), "1.tar": range(40, 70), "2.tar": range(70, 120)}


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    for name, numbers in PAIRS.items():
        write_pairs(tmp_path / "pool" / name, numbers, bad=[75])
    return tmp_path / "pool"


def files(folder: Path) -> list[Path]:
    """All files but the list of the side-cars, hidden ones too."""
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name != LIST)


def job_of(model: Path | str, cache: Path, **settings: Any) -> EmbedOptions:
    how = {"shards": [], "micro_batch": 16, "precision": "fp32", "index_dir": ""} | settings
    return EmbedOptions(str(model), out=str(cache), device="cpu", threads=1, **how)


def words_of(model: Path | str, pool: Path, cache: Path, *more: object) -> tuple[object, ...]:
    return ("embed", model, pool, "--out", cache, "--threads", 1, "--micro-batch", 16, *more)


def in_a_child(act: Callable[[], object]) -> int:
    """Run something in a forked process; its exit status, negative for a signal."""
    child = os.fork()
    if child == 0:
        try:
            act()
        except BaseException:
            os._exit(3)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


# -- what it makes and says --------------------------------------------------------------------------------------------


def test_a_pool_is_embedded_once_and_a_run_looks_it_up(
    cli: Cli, pool: Path, tmp_path: Path, trained: dict[str, Path]
) -> None:
    cache, model = tmp_path / "cache", trained["large"]
    first = cli(*words_of(model, pool, cache))
    assert first.status == 0, first.err
    told = " ".join(first.out.split())
    # float16, d 96: an image and a text of 192 bytes, and a mark.
    assert tells(told, "3 tars, 120 samples … 0 … 120 … 385 bytes … float16, d 96")
    planned = re.search(r"([\d.]+) kB .*38\.5 GB.*100 M", told)
    assert planned is not None
    assert "image_unreadable" in told
    assert told.index("38.5 GB") < told.index("Samples")
    made = files(cache)
    assert [path.name[:2] for path in made] == ["0-", "1-", "2-"]
    taken = sum(-(-path.stat().st_size // 4096) * 4096 for path in made)
    assert 1000 * float(planned[1]) == pytest.approx(taken, rel=0.1)
    assert open_sidecar(made[2]).info.faults == {"image_unreadable": 1}

    source, tower = open_shards([str(pool)]), load_tower(model)
    store = open_store(cache, tower.identity(), source, EmbedSettings())
    rows = torch.tensor([119, 0, 41])
    live = tower.score(source.read(rows.tolist(), [tower.view]), 8)
    assert torch.allclose(store.lookup(rows).image, live.image, atol=1e-3)

    again = cli(*words_of(model, pool, cache))
    assert again.status == 0
    assert tells(again.out, "120 … 0")
    assert {path: path.stat().st_mtime_ns for path in made} == {path: path.stat().st_mtime_ns for path in files(cache)}

    train = ("train", "scenes", f"data.shards={pool}", "data.max_bad_share=0.1", "student.model=aced-demo-s",
             "train.batch=8", "train.steps=2", "run.threads=1", f"run.out={tmp_path / 'run'}", "method.name=i-acid",
             f"reference.model={model}", f"reference.cache={cache}", "reference.cache_missing=refuse")  # fmt: skip
    ended = cli(*train)
    assert ended.status == 0, ended.err
    assert "No side-car" not in ended.out
    results = json.loads((tmp_path / "run/results.json").read_text())
    assert results["rows"][0]["embedding"]["samples"] == 119
    assert results["rows"][0]["embedding"]["flops"] == pytest.approx(store.info.flops)
    assert results["reference"] == {"tasks": {}, "embed_seconds": store.info.seconds, "embed_flops": store.info.flops}

    # Another model, and the same tar with other content.
    save_tower(load_tower("aced-demo-m", seed=8), tmp_path / "other")
    refused = cli(*train, f"reference.model={tmp_path / 'other'}", f"run.out={tmp_path / 'no'}")
    assert refused.status == 2
    assert "side-car" in refused.err
    assert "aced-demo-m" in refused.err
    write_pairs(pool / "1.tar", range(41, 71))
    refused = cli(*train, f"run.out={tmp_path / 'no'}")
    assert refused.status == 2
    assert tells(refused.err, "1.tar … side-car")
    assert "changed" in refused.err
    assert not (tmp_path / "no").exists()


def test_side_cars_of_one_caption_choice_or_decoding_are_refused_by_a_run_with_another(
    cli: Cli, tmp_path: Path, trained: dict[str, Path]
) -> None:
    pool, cache, model = tmp_path / "pool", tmp_path / "cache", trained["peer"]
    write_pairs(pool / "0.tar", range(30), captions=[f"picture {n}\nanother caption of it" for n in range(30)])
    embedded = cli(*words_of(model, pool, cache, "--caption-choice", "first", "--decoding", "exact"))
    assert embedded.status == 0, embedded.err
    (made,) = files(cache)

    source, tower = open_shards([str(pool)], caption_choice="first", decoding="exact"), load_tower(model)
    store = open_store(cache, tower.identity(), source, EmbedSettings())
    live = tower.score(source.read([3, 17], [tower.view]), 8)
    assert torch.allclose(store.lookup(torch.tensor([3, 17])).text, live.text, atol=1e-3)
    whole = open_shards([str(pool)], decoding="exact").read([3], [])
    assert whole.texts == ["picture 3\nanother caption of it"]

    train = ("train", "scenes", f"data.shards={pool}", "student.model=aced-demo-s", "train.batch=4", "train.steps=1",
             "run.threads=1", "method.name=i-acid", f"reference.model={model}", f"reference.cache={cache}",
             "reference.cache_missing=refuse")  # fmt: skip
    for out, words, there, asked in (
        ("a", ("data.decoding=exact",), "txt first", "txt"),
        ("b", ("data.caption_choice=first",), "txt first", "txt first [fast]"),
        ("c", ("data.caption_choice=first", "data.decoding=scaled"), "txt first", "txt first [scaled]"),
    ):
        refused = cli(*train, *words, f"run.out={tmp_path / out}")
        assert refused.status == 2
        told = " ".join(refused.err.split())
        assert tells(told, f"{made} … '{there}' … '{asked}'")
        assert not (tmp_path / out).exists()
    ended = cli(*train, "data.caption_choice=first", "data.decoding=exact", f"run.out={tmp_path / 'd'}")
    assert ended.status == 0, ended.err
    assert files(cache) == [made]


def test_tars_at_addresses_are_fetched_and_their_side_cars_are_those_of_the_files(
    cli: Cli, pool: Path, tmp_path: Path, trained: dict[str, Path]
) -> None:
    import fsspec

    system = fsspec.filesystem("memory")
    system.store.clear()
    for tar in sorted(pool.iterdir()):
        system.pipe(f"/far/{tar.name}", tar.read_bytes() if tar.name != "2.tar" else gzip.compress(tar.read_bytes()))
    cache, spool = tmp_path / "cache", tmp_path / "spool"
    words = words_of(trained["peer"], "memory://far/{0..2}.tar", cache)
    refused = cli(*words)
    assert refused.status == 2
    assert tells(refused.err, "memory://far/{0..2}.tar … --spool-dir")
    refused = cli(*words, "--spool-dir", spool, "--spool-gb", "1e-6")
    assert (refused.status, "data.spool_gb = 1e-06" in refused.err) == (2, True)
    # Of two processes each fetches its own share.
    assert cli(*words, "--spool-dir", spool, "--share", "0/2").status == 0
    assert [path.name[:2] for path in files(cache)] == ["0-", "2-"]
    fetched = " ".join(path.name for path in files(spool))
    assert ("-0.tar" in fetched, "-1.tar" in fetched, "-2.tar" in fetched) == (True, False, True)
    ended = cli(*words, "--spool-dir", spool)
    assert ended.status == 0, ended.err
    assert tells(ended.out, "90 … 30")

    again = cli(*words_of(trained["peer"], pool, cache))
    assert tells(again.out, "120 … 0")
    alone = TarEmbedder(job_of(trained["peer"], tmp_path / "alone"))
    alone(sorted(pool.iterdir()))
    hashes = [[open_sidecar(path).info.sha256 for path in files(tmp_path / name)] for name in ("cache", "alone")]
    assert hashes[0] == hashes[1]


def test_shares_are_disjoint_and_whole(pool: Path, tmp_path: Path, trained: dict[str, Path], monkeypatch: Any) -> None:
    tars = sorted(pool.iterdir())
    assert [path.name for rank in range(2) for path in own_share(f"{rank}/2").of(tars)] == ["0.tar", "2.tar", "1.tar"]
    monkeypatch.setenv("WORLD_SIZE", "2")
    made = []
    for rank in range(2):
        monkeypatch.setenv("RANK", str(rank))
        assert (own_share("1/3").index, own_share("1/3").count) == (2 + rank, 6)
        tally = embed_program(job_of(trained["peer"], tmp_path / "cache", shards=[str(pool)]), Console(quiet=True))
        made.append((tally.tars, tally.made, tally.samples))
    assert made == [(2, 2, 90), (1, 1, 30)]
    assert len(files(tmp_path / "cache")) == 3
    monkeypatch.setenv("WORLD_SIZE", "7")
    monkeypatch.setenv("RANK", "5")
    assert embed_program(job_of(trained["peer"], tmp_path / "cache", shards=[str(pool)]), Console(quiet=True)).tars == 0


@pytest.mark.slow
def test_torchrun(pool: Path, tmp_path: Path, trained: dict[str, Path]) -> None:
    program = tmp_path / "aced.py.txt"
    program.write_text("from aced.cli import main; main()")
    words = words_of(trained["peer"], pool, tmp_path / "cache")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", program, *words]
    done = subprocess.run(
        [str(word) for word in launch], capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr
    assert tells(done.stdout, "Process 0 of 2 … 2 tars, 90 samples")
    assert tells(done.stdout, "Process 1 of 2 … 1 tars … 1 … 30 samples")
    assert len(files(tmp_path / "cache")) == 3


@pytest.mark.slow
def test_ray(pool: Path, tmp_path: Path, trained: dict[str, Path]) -> None:
    pytest.importorskip("ray")
    job = job_of(trained["peer"], tmp_path / "ray")
    tally = embed_program(replace(job, shards=[str(pool)], ray=2), Console(quiet=True))
    assert (tally.tars, tally.made, tally.samples, tally.usable) == (3, 3, 120, 119)
    embed_program(job_of(trained["peer"], tmp_path / "alone", shards=[str(pool)]), Console(quiet=True))
    hashes = [[open_sidecar(path).info.sha256 for path in files(tmp_path / name)] for name in ("ray", "alone")]
    assert hashes[0] == hashes[1]
    write_pairs(pool / "3.tar", [1])
    (pool / "3.tar").write_bytes(b"no tar" * 1000)
    with pytest.raises(AcedError, match=r"3\.tar"):
        list(with_ray(job, [pool / "3.tar"], 1))


def test_without_ray_the_sentence_says_how_to_get_it(pool: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(AcedError, match=r"--ray.*Ray.*`pip install 'aced\[ray\]'`"):
        list(with_ray(job_of("x", tmp_path), [pool / "0.tar"], 1))


# -- what it survives --------------------------------------------------------------------------------------------------


def kill_at(number: int, target: str, monkeypatch: Any) -> None:
    """SIGKILL this process when a function is called for the `number`-th time."""
    import importlib

    module, _, name = target.rpartition(":")
    owner: Any = importlib.import_module(module)
    *path, last = name.split(".")
    for part in path:
        owner = getattr(owner, part)
    inner, calls = getattr(owner, last), [0]

    def wrapped(*args: Any, **keys: Any) -> Any:
        calls[0] += 1
        if calls[0] == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return inner(*args, **keys)

    monkeypatch.setattr(owner, last, wrapped)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_leaves_whole_side_cars_and_nothing_else(
    number: int, workers: int, cli: Cli, pool: Path, tmp_path: Path, trained: dict[str, Path], monkeypatch: Any
) -> None:
    cache = tmp_path / "cache"
    add, calls = SideCarWriter.add, []

    def signalled(self: SideCarWriter, *args: Any) -> None:
        add(self, *args)
        calls.append(1)
        if len(calls) == 2:
            assert [path for path in files(cache) if path.suffix == ".tmp"]
            signal.raise_signal(number)

    with monkeypatch.context() as patch:
        patch.setattr(SideCarWriter, "add", signalled)
        ended = cli(*words_of(trained["peer"], pool, cache, "--workers", workers))
    assert ended.status == (130 if number == signal.SIGINT else 75)
    assert "the same command" in ended.err
    for child in multiprocessing.active_children():
        child.join(300)  # told to end, whatever it is at
    assert len(files(cache)) == 1
    assert not [path for path in files(cache) if path.suffix == ".tmp"]
    assert cli(*words_of(trained["peer"], pool, cache)).status == 0
    cli(*words_of(trained["peer"], pool, tmp_path / "alone"))
    hashes = [[open_sidecar(path).info.sha256 for path in files(tmp_path / name)] for name in ("cache", "alone")]
    assert hashes[0] == hashes[1]


@pytest.mark.parametrize("skip", [True, False])
def test_a_tar_that_is_lost_gets_no_side_car(
    skip: bool, pool: Path, tmp_path: Path, trained: dict[str, Path], monkeypatch: Any
) -> None:
    cache = tmp_path / "cache"
    job = replace(job_of(trained["peer"], cache), bad_tars="skip" if skip else "stop")
    embedder = TarEmbedder(job)
    content = (pool / "1.tar").read_bytes()
    opened = TarEmbedder._open

    def lose(self: TarEmbedder, *args: Any) -> Any:
        source = opened(self, *args)
        (pool / "1.tar").write_bytes(b"")
        return source

    with monkeypatch.context() as patch:
        patch.setattr(TarEmbedder, "_open", lose)
        if skip:
            tally = embedder(sorted(pool.iterdir()))
            assert (tally.made, tally.usable, dict(tally.skipped)) == (2, 89, {"tar_changed": 1, "image_unreadable": 1})
            assert "1.tar" in tally.examples["tar_changed"]
        else:
            with pytest.raises(AcedError, match=r"1\.tar.*changed"):
                embedder(sorted(pool.iterdir()))
    assert sorted(path.name[0] for path in files(cache)) == (["0", "2"] if skip else ["0"])
    (pool / "1.tar").write_bytes(content)
    assert embedder(sorted(pool.iterdir())).usable == 119


@pytest.mark.parametrize(
    ("target", "number", "whole"),
    [
        ("aced.cache.sidecar:SideCarWriter.add", 5, 1),  # in the middle of the second tar (16 of its 30 are written)
        ("aced.cache.sidecar:SideCarWriter.finish", 2, 1),  # all its rows are written, its header is not
        ("aced.files.atomic:os.replace", 2, 1),  # whole, but under the temporary name
        ("aced.cache.job:open_sidecar", 2, 2),  # between the second and the third
    ],
)
def test_killed_it_goes_on_where_it_was(
    target: str, number: int, whole: int, pool: Path, tmp_path: Path, trained: dict[str, Path], monkeypatch: Any
) -> None:
    cache, tars = tmp_path / "cache", sorted(pool.iterdir())
    monkeypatch.setattr("aced.pool.loader.reading._CHUNK_BYTES", 16 * 3 * 32 * 32)  # chunks of 16 samples
    embedder = TarEmbedder(job_of(trained["peer"], cache))

    def act() -> None:
        kill_at(number, target, monkeypatch)
        embedder(tars)

    assert in_a_child(act) == -signal.SIGKILL
    before = {path: path.stat().st_mtime_ns for path in files(cache) if not path.name.startswith(".")}
    assert len(before) == whole
    assert len(files(cache)) - whole == 2 * (target != "aced.cache.job:open_sidecar")  # a claim, and what it is for
    tally = TarEmbedder(job_of(trained["peer"], cache))(tars)
    assert (tally.tars, tally.made, tally.samples, tally.usable) == (3, 3 - whole, 120, 119)
    assert len(files(cache)) == 3
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    alone = TarEmbedder(job_of(trained["peer"], tmp_path / "alone"))
    alone(tars)
    hashes = [[open_sidecar(path).info.sha256 for path in files(tmp_path / name)] for name in ("cache", "alone")]
    assert hashes[0] == hashes[1]


def test_two_processes_on_the_same_tars(pool: Path, tmp_path: Path, trained: dict[str, Path]) -> None:
    cache, tars = tmp_path / "cache", sorted(pool.iterdir())
    embedder = TarEmbedder(job_of(trained["peer"], cache))
    children = []
    for order in (tars, tars[::-1]):
        child = os.fork()
        if child == 0:
            try:
                embedder(order)
            finally:
                os._exit(0 if len(files(cache)) >= 3 else 3)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
    assert len(files(cache)) == 3
    assert all(open_sidecar(path).intact() for path in files(cache))


@pytest.fixture
def other() -> Iterator[subprocess.Popen[bytes]]:
    """Another process, which does nothing."""
    with subprocess.Popen(["sleep", "600"]) as process:
        yield process
        process.kill()


def claimed(pool: Path, cache: Path, model: Path, other: int) -> tuple[list[Path], Path, Path]:
    """A cache whose second side-car another process is making: the tars, that side-car, and the sign of its making."""
    tars = sorted(pool.iterdir())
    TarEmbedder(job_of(model, cache))(tars)
    sidecar = files(cache)[1]
    for path in files(cache):
        path.unlink()
    claim = sidecar.with_name(f".{sidecar.name}.claim.{socket.gethostname()}.{other}.tmp")
    claim.touch()
    return tars, sidecar, claim


def test_what_another_process_makes_is_left_to_it_until_it_is_gone(
    pool: Path, tmp_path: Path, trained: dict[str, Path], other: subprocess.Popen[bytes]
) -> None:
    cache = tmp_path / "cache"
    tars, sidecar, _ = claimed(pool, cache, trained["peer"], other.pid)
    embedder = TarEmbedder(job_of(trained["peer"], cache))
    tally = embedder(tars, patient=False)
    assert (tally.tars, tally.made, tally.left, tally.samples, tally.embedded) == (2, 2, [str(tars[1])], 90, 90)
    assert not sidecar.exists()
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(embedder, tars)
        time.sleep(1)
        assert not waiting.done()
        other.kill()
        other.wait()
        tally = waiting.result(timeout=120)
    assert (tally.tars, tally.made, tally.left, tally.samples, tally.embedded) == (3, 1, [], 120, 30)
    assert len(files(cache)) == 3  # and no claim


def test_what_another_process_has_made_is_not_made_again(
    pool: Path, tmp_path: Path, trained: dict[str, Path], other: subprocess.Popen[bytes], monkeypatch: Any
) -> None:
    cache, model = tmp_path / "cache", trained["peer"]
    tars, sidecar, claim = claimed(pool, cache, model, other.pid)
    TarEmbedder(job_of(model, tmp_path / "theirs"))(tars)
    whole = next((tmp_path / "theirs").rglob(sidecar.name))

    def finish(_seconds: float) -> None:
        whole.rename(sidecar)
        claim.unlink()

    monkeypatch.setattr("aced.files.claims.time.sleep", finish)
    tally = TarEmbedder(job_of(model, cache))(tars)
    assert (tally.tars, tally.made, tally.samples, tally.embedded) == (3, 2, 120, 90)


def test_a_process_that_makes_nothing_for_long_is_not_waited_for(
    pool: Path, tmp_path: Path, trained: dict[str, Path], other: subprocess.Popen[bytes], monkeypatch: Any
) -> None:
    tars, *_ = claimed(pool, tmp_path / "cache", trained["peer"], other.pid)
    monkeypatch.setattr("aced.files.claims._STALLED", 0.5)
    assert TarEmbedder(job_of(trained["peer"], tmp_path / "cache"))(tars).made == 3


def test_a_process_that_reads_and_dies_is_one_sentence(
    cli: Cli, pool: Path, tmp_path: Path, trained: dict[str, Path], monkeypatch: Any
) -> None:
    monkeypatch.setattr("aced.pool.shards.Shards.read", lambda *_, **__: os._exit(7))
    ended = cli(*words_of(trained["peer"], pool, tmp_path / "cache", "--workers", 1))
    assert ended.status == 2
    assert ended.err.count("\n") == 1
    assert "status 7" in ended.err
    assert "--workers" in ended.err
    assert files(tmp_path / "cache") == []


def test_damaged_side_cars_are_made_again_and_that_is_told(
    cli: Cli, pool: Path, tmp_path: Path, trained: dict[str, Path]
) -> None:
    cache = tmp_path / "cache"
    assert cli(*words_of(trained["peer"], pool, cache)).status == 0
    whole = {path: open_sidecar(path).info.sha256 for path in files(cache)}
    path = files(cache)[1]
    path.write_bytes(path.read_bytes()[:-7])
    ended = cli(*words_of(trained["peer"], pool, cache))
    assert ended.status == 0, ended.err
    assert tells(ended.out, "1, 1 … repaired")
    assert {path: open_sidecar(path).info.sha256 for path in files(cache)} == whole


def test_damaged_tars_stop_it_or_are_told(cli: Cli, pool: Path, tmp_path: Path, trained: dict[str, Path]) -> None:
    (pool / "3.tar").write_bytes((pool / "0.tar").read_bytes()[:20_000])
    (pool / "4.tar").write_bytes(b"")
    words = words_of(trained["peer"], pool, tmp_path / "cache")
    ended = cli(*words)
    assert ended.status == 2
    assert "3.tar" in ended.err
    assert not files(tmp_path / "cache")
    ended = cli(*words, "--bad-tars", "skip")
    assert ended.status == 0, ended.err
    assert [path.name[:2] for path in files(tmp_path / "cache")] == ["0-", "1-", "2-", "3-"]
    for name in ("tar_truncated", "tar_without_pairs", "image_unreadable"):
        assert name in ended.out


def test_no_usable_sample(cli: Cli, tmp_path: Path, trained: dict[str, Path]) -> None:
    write_pairs(tmp_path / "pool/0.tar", range(5), bad=range(5))
    for _ in range(2):
        ended = cli(*words_of(trained["peer"], tmp_path / "pool", tmp_path / "cache"))
        assert ended.status == 2
        assert tells(ended.err, "aced: … 1 tar")
        assert "image_unreadable (5)" in ended.err


# -- what it refuses ---------------------------------------------------------------------------------------------------


def test_mistakes(cli: Cli, pool: Path, tmp_path: Path, trained: dict[str, Path]) -> None:
    cache, model = tmp_path / "cache", trained["peer"]
    for words, sentence in {
        words_of("ViT-B-33", pool, cache): "'ViT-B-32'",
        words_of("aced-demo-s", pool, cache): "aced-demo-s … --checkpoint",
        words_of(model, tmp_path / "none", cache): "none",
        words_of(model, pool, cache, "--dtype", "bf16"): "--dtype … 'bf16' … float32, float16 … int8",
        words_of(model, pool, cache, "--views", "0"): "--views … 1 … 64",
        words_of(model, pool, cache, "--share", "3/3"): "--share … '3/3' … I/N … N - 1",
        words_of(model, pool, cache, "--bad-tars", "eat"): "--bad-tars … 'eat' … stop … skip",
        words_of(model, pool, cache, "--device", "cuda:99"): "--device cuda:99",
        words_of(model, pool, cache, "--caption-choice", "random"): "--caption-choice … 'random' … whole … first",
        words_of(model, pool, cache, "--decoding", "quick"): "'quick' … exact, fast … scaled",
        words_of(model, pool, cache, "--spool-gb", "0"): "--spool-gb … 0",
        words_of(model, "s3://x/0.tar", cache): "s3://x/0.tar",
        words_of(model, pool, cache, "--caption", "tags"): '"txt" … "json:<field>" … "tags"',
    }.items():
        ended = cli(*words)
        assert ended.status == 2, words
        assert tells(ended.err, sentence), words
        assert len(ended.err.splitlines()) == 1
        assert not files(cache)
    assert cli(*words_of(model, pool, cache)).status == 0
    for more, sentence in {
        ("--dtype", "int8"): "float16 … int8",
        ("--views", "2"): "views: 1 … 2",
    }.items():
        ended = cli(*words_of(model, pool, cache, *more))
        assert (ended.status, tells(ended.err, sentence)) == (2, True)


def test_a_disk_without_room_is_told_first(
    pool: Path, tmp_path: Path, trained: dict[str, Path], monkeypatch: Any
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 46_000})())
    with pytest.raises(AcedError, match=r"120.*79.2 kB.*46 kB"):
        embed_program(job_of(trained["large"], tmp_path / "cache", shards=[str(pool)]), Console(quiet=True))
    assert not files(tmp_path / "cache")


def test_the_manifest_is_made_on_the_way(
    trained: dict[str, Path], pool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = open_shards([str(pool)])
    job = replace(job_of(trained["peer"], tmp_path / "cache"), index_dir=str(tmp_path / "index"))
    embed_program(replace(job, shards=[str(pool)]), Console(quiet=True))
    monkeypatch.setattr(tarindex, "list_tar", None)  # no header is read any more
    source = open_shards([str(pool)], index_dir=tmp_path / "index")
    assert (source.parts, list(source.keys)) == (plain.parts, list(plain.keys))
