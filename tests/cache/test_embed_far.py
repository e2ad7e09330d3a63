"""Side-cars in a store: made there as in a folder, read from there by a run, with faults on the way."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from rich.console import Console
from safetensors.torch import load_file

from aced.cache.farhome import FarHome
from aced.cache.sidecar import open_sidecar
from aced.cache.sidecarlist import LIST
from aced.config import Config
from aced.errors import AcedError
from aced.programs.train import train_program
from cli_fakes import Cli, Ended
from run_fakes import run_config, write_pairs
from s3_fakes import BUCKET, Store, s3_store
from wording import tells


@pytest.fixture(scope="module")
def s3() -> Iterator[Store]:
    with s3_store() as store:
        yield store


@pytest.fixture(params=["memory", "s3"])
def address(request: pytest.FixtureRequest) -> Iterator[str]:
    """Where a cache is to be, in an empty store."""
    if request.param == "memory":
        fsspec.filesystem("memory").store.clear()
        yield "memory://far/cache"
        return
    request.getfixturevalue("s3").reset()
    yield f"s3://{BUCKET}/far/cache"
    system = fsspec.filesystem("s3")
    system.rm(f"{BUCKET}/far", recursive=True)
    system.invalidate_cache()


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    for number in range(4):
        write_pairs(tmp_path / f"pool/{number}.tar", range(30 * number, 30 * number + 30), bad=[75])
    return tmp_path / "pool"


@pytest.fixture
def embed(cli: Cli, pool: Path, tmp_path: Path, trained: dict[str, Path]) -> Callable[..., Ended]:
    def run(out: object, *more: object) -> Ended:
        words = ("--spool-dir", tmp_path / "spool", "--threads", 1, "--micro-batch", 16)
        return cli("embed", trained["peer"], pool, "--out", out, *words, *more)

    return run


def there(address: str) -> dict[str, bytes]:
    """The side-cars at an address by name."""
    system, path = fsspec.core.url_to_fs(address)
    system.invalidate_cache()
    return {
        name.rpartition("/")[2]: system.cat_file(name) for name in system.glob(f"{path}/embeddings/*/*.safetensors")
    }


def change(address: str, name: str, content: bytes | None) -> str:
    """Replace a side-car there, or remove it; gives its address."""
    system, path = fsspec.core.url_to_fs(address)
    (found,) = system.glob(f"{path}/embeddings/*/{name}")
    system.rm_file(found)
    if content is not None:
        system.pipe_file(found, content)
    system.invalidate_cache()
    return found.removeprefix("/")


def hashes(files: dict[str, bytes], folder: Path) -> dict[str, str]:
    """What `SideCarInfo.sha256` is of each, with the bytes looked at."""
    found = {}
    for name, content in files.items():
        (folder / name).write_bytes(content)
        sidecar = open_sidecar(folder / name)
        assert sidecar.intact()
        found[name] = sidecar.info.sha256
        (folder / name).unlink()
    return found


def local(cache: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in cache.rglob("*.safetensors")}


def test_side_cars_are_put_whole_and_the_next_time_nothing_is_made(
    embed: Callable[..., Ended], address: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    assert embed(tmp_path / "near").status == 0
    first = embed(address)
    assert first.status == 0, first.err
    assert hashes(there(address), tmp_path) == hashes(local(tmp_path / "near"), tmp_path)
    assert not list((tmp_path / "spool").rglob("*.safetensors"))
    before = there(address)
    if address.startswith("s3"):
        request.getfixturevalue("s3").reset()
    again = embed(address)
    assert again.status == 0, again.err
    assert tells(again.out, "120 samples … 120 … 0")
    assert there(address) == before
    if address.startswith("s3"):  # beside what this test has read just now
        gets = request.getfixturevalue("s3").gets
        assert all(times <= 1 for path, times in gets.items() if path.endswith(".safetensors"))
    # Without the list headers are read, and it is made anew.
    change(address, LIST, None)
    third = embed(address)
    assert third.status == 0, third.err
    assert there(address) == before
    assert fsspec.core.url_to_fs(address)[0].glob(f"{address}/embeddings/*/{LIST}")
    fourth = embed(address, "--dtype", "int8")
    assert fourth.status == 2
    assert "float16" in fourth.err


def test_a_pool_larger_than_the_spool_is_embedded_tar_by_tar(
    cli: Cli, address: str, pool: Path, tmp_path: Path, trained: dict[str, Path]
) -> None:
    system, place = fsspec.core.url_to_fs(address.replace("/far/cache", "/far/pool"))
    for tar in sorted(pool.glob("*.tar")):
        system.pipe_file(f"{place}/{tar.name}", tar.read_bytes())
    system.invalidate_cache()
    shards, largest = system.unstrip_protocol(place), max(tar.stat().st_size for tar in pool.glob("*.tar"))
    spool = tmp_path / "narrow"

    def run(gigabytes: float) -> Ended:
        words = ("--spool-dir", spool, "--threads", 1, "--micro-batch", 16, "--spool-gb", gigabytes)
        return cli("embed", trained["peer"], shards, "--out", tmp_path / "passed", *words)

    ended = run(1.2 * largest / 1e9)
    assert ended.status == 0
    assert not list(spool.glob("*.tar"))
    assert (
        cli("embed", trained["peer"], pool, "--out", tmp_path / "whole", "--threads", 1, "--micro-batch", 16).status
        == 0
    )
    assert hashes(local(tmp_path / "passed"), tmp_path) == hashes(local(tmp_path / "whole"), tmp_path)
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "passed").rglob("*.safetensors")}
    assert run(1.2 * largest / 1e9).status == 0
    assert {path: path.stat().st_mtime_ns for path in made} == made
    small = run(0.5 * largest / 1e9)
    assert (small.status, "spool_gb" in small.err) == (2, True)


def config_of(tmp_path: Path, trained: dict[str, Path], pool: Path, cache: object, name: str, **keys: Any) -> Config:
    keys |= {"data__shards": [str(pool)], "data__spool_dir": str(tmp_path / "spool"), "data__max_bad_share": 0.5}
    keys |= {"reference__model": str(trained["peer"])}
    return run_config(tmp_path / name, "i-aced", trained, **keys, reference__cache=str(cache), data__in_memory=False)


def train(config: Config) -> dict[str, Any]:
    train_program(config, Console(quiet=True, file=io.StringIO()), resume=False)
    return load_file(Path(config.run.out) / "model" / "model.safetensors")


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(bool((one[name] == other[name]).all()) for name in one)


def test_a_run_reads_its_side_cars_from_there_and_makes_what_is_missing(
    embed: Callable[..., Ended], address: str, pool: Path, tmp_path: Path, trained: dict[str, Path]
) -> None:
    near = train(config_of(tmp_path, trained, pool, tmp_path / "near", "a"))
    made = train(config_of(tmp_path, trained, pool, address, "b"))
    assert same(near, made)
    whole = hashes(there(address), tmp_path)
    assert whole == hashes(local(tmp_path / "near"), tmp_path)
    (second,) = (name for name in whole if name.startswith("1-"))
    change(address, second, None)
    refused = config_of(tmp_path, trained, pool, address, "c", reference__cache_missing="refuse")
    with pytest.raises(AcedError, match=r"1\.tar.*side-car"):
        train(refused)
    assert same(near, train(config_of(tmp_path, trained, pool, address, "d")))
    assert hashes(there(address), tmp_path) == whole


def test_damage_there_is_told_with_the_address_and_mended_by_embedding_again(
    embed: Callable[..., Ended], address: str, pool: Path, tmp_path: Path, trained: dict[str, Path]
) -> None:
    assert embed(address).status == 0
    good = there(address)
    (second,) = (name for name in good if name.startswith("1-"))
    damaged = change(address, second, good[second][:-7])
    with pytest.raises(AcedError, match=rf"^[^\n]*{damaged} .*damaged"):
        train(config_of(tmp_path, trained, pool, address, "run"))
    mended = embed(address)
    assert mended.status == 0, mended.err
    assert tells(mended.out, "1 … repaired")
    assert hashes(there(address), tmp_path) == hashes(good, tmp_path)


def test_what_was_made_and_not_put_there_is_put_the_next_time(
    embed: Callable[..., Ended], address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put, calls = FarHome.put, list[str]()

    def breaks(self: FarHome, path: Path) -> None:
        calls.append(path.name)
        if len(calls) == 2:
            raise AcedError(f"{self.address} is down.")
        put(self, path)

    monkeypatch.setattr(FarHome, "put", breaks)
    failed = embed(address)
    assert failed.status == 2
    assert "is down" in failed.err
    assert len(there(address)) == 1
    again = embed(address)
    assert again.status == 0, again.err
    assert tells(again.out, "60 … 60")
    assert len(there(address)) == 4
    assert calls.count(calls[1]) == 2
    assert not list((tmp_path / "spool").rglob("*.safetensors"))


def test_a_pool_in_a_store_gets_the_side_cars_that_it_has_on_a_disk(
    cli: Cli, embed: Callable[..., Ended], address: str, pool: Path, tmp_path: Path, trained: dict[str, Path]
) -> None:
    """Also where a file beside the tars tells how many samples they hold, so that a run need not read them."""
    assert embed(tmp_path / "near").status == 0
    place = address.replace("cache", "pool")
    system, path = fsspec.core.url_to_fs(place)
    for tar in sorted(pool.iterdir()):
        system.pipe_file(f"{path}/{tar.name}", tar.read_bytes())
    system.pipe_file(f"{path}/sizes.json", json.dumps({f"{tar}.tar": 30 for tar in range(4)}).encode())
    words = ("--out", address, "--spool-dir", tmp_path / "spool", "--threads", 1, "--micro-batch", 16)
    far = cli("embed", trained["peer"], place + "/{0..3}.tar", *words)
    assert far.status == 0, far.err
    assert hashes(there(address), tmp_path) == hashes(local(tmp_path / "near"), tmp_path)


def test_an_address_that_cannot_be_used_is_one_sentence(
    cli: Cli, embed: Callable[..., Ended], pool: Path, tmp_path: Path, trained: dict[str, Path], s3: Store
) -> None:
    far = f"s3://{BUCKET}/far"
    without = cli("embed", trained["peer"], pool, "--out", far, "--threads", 1)
    assert (without.status, without.err.count("\n")) == (2, 1)
    assert "--spool-dir" in without.err
    nowhere = embed("s3://nobody-has-this/cache")
    assert (nowhere.status, nowhere.err.count("\n")) == (2, 1)
    assert "nobody-has-this" in nowhere.err
    config = run_config(tmp_path / "run", "i-aced", trained, data__shards=[str(pool)], reference__cache=far)
    with pytest.raises(AcedError, match=r"^s3://[^\n]*data\.spool_dir[^\n]*$"):
        train_program(config, Console(quiet=True), resume=False)
    small = config_of(tmp_path, trained, pool, far, "small", data__spool_gb=1e-6)
    with pytest.raises(AcedError, match=r"data\.spool_gb"):
        train_program(small, Console(quiet=True), resume=False)
