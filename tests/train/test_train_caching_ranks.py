"""A missing cache is made by all ranks of a job together, and is what one process makes."""

from __future__ import annotations

from pathlib import Path

import pytest
from launch import Job, torchrun

from aced.cache.sidecar import open_sidecar
from aced.cache.sidecarlist import LIST
from aced.config import dump_config
from aced.models import load_tower
from aced.train.run.inputs import make_cached, make_source
from run_fakes import quiet, run_config, write_pairs

pytestmark = pytest.mark.slow

TARS, RANKS = 9, 2


def hashes(cache: Path) -> dict[str, str]:
    return {path.name: open_sidecar(path).info.sha256 for path in cache.rglob("*.safetensors")}


def test_ranks_embed_each_its_tars_and_a_failure_of_one_ends_all(tmp_path: Path, trained: dict[str, Path]) -> None:
    for number in range(TARS):
        write_pairs(tmp_path / f"pool/{number}.tar", range(10 * number, 10 * number + 10), bad=[10 * number + 3])
    keys = {"data__shards": [str(tmp_path / "pool")], "data__max_bad_share": 0.5, "reference__cache_dtype": "float32"}
    config = run_config(tmp_path / "run", "i-aced", trained, **keys, reference__cache=str(tmp_path / "cache"))
    file, log = tmp_path / "run.toml", tmp_path / "log"
    file.write_text(dump_config(config))

    def run(failing: int) -> tuple[Job, list[tuple[str, str]]]:
        log.write_text("")
        job = torchrun("caching_program.py", RANKS, log, failing, "train", file)
        lines = log.read_text().splitlines()
        return job, [(line.split()[0], line.split()[1]) for line in lines]

    failed, begun = run(1)
    assert failed.status != 0
    assert failed.output.count("has melted") == 1
    before = hashes(tmp_path / "cache")
    assert 1 <= len(before) < TARS
    assert {rank for rank, _ in begun} == {"0", "1"}

    whole, begun = run(-1)
    assert whole.status == 0, whole.output
    names = [tar for _, tar in begun]
    assert len(names) == len(set(names)) == TARS - len(before)
    assert {rank for rank, _ in begun} == {"0", "1"}

    tower = load_tower(config.reference.model).eval()
    source = make_source(config, quiet())
    make_cached(tower, source, tmp_path / "alone", config, tower.device, quiet())
    assert hashes(tmp_path / "cache") == hashes(tmp_path / "alone")
    assert before.items() <= hashes(tmp_path / "alone").items()
    left = [path.name for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert sorted(left) == sorted([*hashes(tmp_path / "cache"), LIST])
