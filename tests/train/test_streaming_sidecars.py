"""A pool that is streamed with its side-cars, which lie in a store too: the same weights as from a disk."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from rich.console import Console
from safetensors.torch import load_file

from aced.config import Config
from aced.errors import AcedError
from aced.programs.train import train_program
from cli_fakes import Cli
from run_fakes import run_config, write_pairs
from s3_fakes import BUCKET, Store, put, s3_store

TARS, PAIRS = 24, 20
POOL, CACHE = f"s3://{BUCKET}/pool/{{00000..{TARS - 1:05d}}}.tar", f"s3://{BUCKET}/cache"
WAYS: dict[str, dict[str, Any]] = {
    "i-aced, early": {"scoring__early": True},
    "columns-kd": {"method__columns": 30, "method__column_bank": 60},
    "i-aced, workers": {"data__workers": 1},
}


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("disk")
    for tar in range(TARS):
        write_pairs(folder / f"pool/{tar:05d}.tar", range(PAIRS * tar, PAIRS * (tar + 1)), bad=[PAIRS * tar + 3])
    return folder


@pytest.fixture(scope="module")
def store(disk: Path) -> Iterator[Store]:
    with s3_store() as store:
        for path in sorted((disk / "pool").iterdir()):
            put(f"pool/{path.name}", path.read_bytes())
        # By which side-cars are not found: these follow from what the tars hold.
        put("pool/sizes.json", json.dumps({f"{tar:05d}.tar": PAIRS for tar in range(TARS)}).encode())
        yield store


def config_of(
    way: str, disk: Path, place: Path, trained: dict[str, Path], shards: str, cache: str, spool_gb: float = 1.0
) -> Config:
    keys: dict[str, Any] = {"data__shards": [shards], "data__spool_dir": str(place / "spool")}
    keys |= {"data__spool_gb": spool_gb, "data__locality": 1, "data__streams": 2, "data__in_memory": False}
    keys |= {"reference__cache": cache, "data__max_bad_share": 0.5, "reference__model": str(trained["peer"])}
    keys |= {"train__steps": 6, "eval__tasks": [], "data__index_dir": str(disk / "index")}
    return run_config(place / "run", way.partition(",")[0], trained, **keys, **WAYS[way])


def train(config: Config) -> dict[str, bytes]:
    train_program(config, Console(quiet=True, file=io.StringIO()), resume=False)
    found = load_file(Path(config.run.out) / "model/model.safetensors")
    return {name: tensor.numpy().tobytes() for name, tensor in found.items()}


@pytest.mark.parametrize("way", WAYS)
def test_side_cars_travel_with_their_tars(
    way: str, cli: Cli, disk: Path, store: Store, tmp_path: Path, trained: dict[str, Path]
) -> None:
    near = train(config_of(way, disk, tmp_path / "near", trained, str(disk / "pool"), str(disk / "cache")))
    if not fsspec.filesystem("s3").exists(f"{BUCKET}/cache"):
        words = ("--out", CACHE, "--spool-dir", tmp_path / "made", "--threads", 1)
        assert cli("embed", trained["peer"], disk / "pool", *words).status == 0
    size = sum(path.stat().st_size for path in (disk / "pool").iterdir())
    # Its tars are indexed by the first run, which fetches them for that.
    train(config_of(way, disk, tmp_path / "first", trained, POOL, CACHE, size / 3e9))
    store.reset()
    far = train(config_of(way, disk, tmp_path / "far", trained, POOL, CACHE, size / 3e9))
    assert far == near

    def fetched(ending: str) -> dict[int, int]:
        """How often each tar, or its side-car, was sent."""
        sent = ((path.rpartition("/")[2], times) for path, times in store.gets.items())
        found = {int(name[:5]): times for name, times in sent if name.endswith(ending) and times}
        return {tar: times for tar, times in found.items() if PAIRS * tar >= 64}  # whose texts are looked at first

    assert fetched(".tar")
    if way != "columns-kd":  # whose bank is read besides
        assert fetched(".tar") == fetched(".safetensors")
    left = [path for path in (tmp_path / "far/spool").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in left) <= size / 3
    assert not [path for path in left if "lent" in path.parent.name]


def test_side_cars_that_stream_are_not_looked_up_ahead(
    cli: Cli, disk: Path, store: Store, tmp_path: Path, trained: dict[str, Path]
) -> None:
    """Main process and loading processes would wait for each other where the spool is tight."""
    cache = f"{CACHE}-ahead"
    assert cli("embed", trained["peer"], disk / "pool", "--out", cache, "--spool-dir", tmp_path / "made").status == 0
    config = config_of("i-aced, early", disk, tmp_path / "far", trained, POOL, cache)
    config = config.model_copy(update={"data": config.data.model_copy(update={"workers": 1})})
    with pytest.raises(AcedError, match=r"scoring\.early.*reference\.cache"):
        train(config)
