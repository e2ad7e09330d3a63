"""A run on far more tars and side-cars than it may have open files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import torch

from aced.cache.sidecar import Part, SideCarWriter, parts_of, sidecar_path
from aced.models import Tower, load_tower
from aced.pool.shards import open_shards
from run_fakes import write_pairs

TARS, FILES = 5_000, 256
LIMITED = (
    "import resource, sys; resource.setrlimit(resource.RLIMIT_NOFILE, ({0}, {0})); from aced.cli import main; main()"
)


def write_pool(pool: Path) -> None:
    """One pair in each tar; the tars are copies of each other."""
    whole = write_pairs(pool / "00000.tar", [0]).read_bytes()
    for number in range(1, TARS):
        (pool / f"{number:05d}.tar").write_bytes(whole)


def write_cache(cache: Path, pool: Path, tower: Tower) -> None:
    """A side-car for each tar, as the tars copies of the first one but for the name in it."""
    source, identity = open_shards([str(pool / "00000.tar")]), tower.identity()
    (part,) = parts_of(source)
    path = sidecar_path(cache, identity["tower"], part)
    path.parent.mkdir(parents=True)
    image, text = torch.nn.functional.normalize(torch.randn(2, 1, tower.width), dim=-1)
    writer = SideCarWriter(path, path, part.keys(source), tower.width, 1, "float16")
    writer.add(torch.arange(1), image[None], text)
    facts = {"tower": tower.name, "identity": identity, "d": tower.width, "views": 1, "scale": 10.0, "bias": -10.0}
    writer.finish(part=part.name, mark=part.mark, faults={}, seconds=0.0, flops=0.0, **facts)
    whole = path.read_bytes()
    for number in range(1, TARS):
        name = f"{number:05d}.tar"
        other = sidecar_path(cache, identity["tower"], Part(name, part.mark, 0, 1))
        other.write_bytes(whole.replace(part.name.encode(), name.encode()))


def test_a_run_on_5000_tars_needs_no_more_than_256_files(tmp_path: Path, trained: dict[str, Path]) -> None:
    write_pool(tmp_path / "pool")
    write_cache(tmp_path / "cache", tmp_path / "pool", load_tower(trained["peer"]))
    words = [f"data.shards={tmp_path / 'pool'}", f"reference.cache={tmp_path / 'cache'}", f"run.out={tmp_path / 'run'}"]
    words += [f"reference.model={trained['peer']}", "reference.cache_missing=refuse", "method.name=i-aced"]
    words += ["data.in_memory=false", "train.batch=320", "train.steps=2", "run.threads=1", "eval.every=0"]
    words += ["run.log_every=1"]
    config = tmp_path / "run.toml"
    config.write_text("")
    command = [sys.executable, "-c", LIMITED.format(FILES), "train", str(config), *words]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=240, env=os.environ, check=False)
    assert ended.returncode == 0, ended.stderr + ended.stdout
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["step"] == 2
    assert lines[-1]["budgets"]["samples_loaded"] >= 3_000  # as many side-cars, at one pair each
