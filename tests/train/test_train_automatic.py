"""What `auto` comes to: workers and images in memory by the machine, with faults of the machine injected."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from aced.config import Config, make_config
from aced.errors import AcedError
from aced.lab.scenes import make_pool
from aced.pool import inmemory as memory
from aced.pool.inmemory import InMemory, free_memory
from aced.pool.loader import shared_memory
from aced.pool.loader.shared_memory import MemoryRoom
from aced.pool.shards import Shards
from aced.pool.views import View
from aced.train.providers import Cached
from aced.train.run import automatic, loop
from aced.train.run.automatic import keeps_decoded, workers_of
from aced.train.run.inputs import make_inputs
from aced.train.run.student import make_student
from run_fakes import POOL, quiet, run_config, trainer_of, write_pairs

VIEWS, GB = [View(32)], 10**9
EACH = 3 * 32 * 32


def config_of(steps: int = 100, **data: Any) -> Config:
    return make_config({"method": {"name": "iid"}, "data": {"shards": ["pool"], **data}, "train": {"steps": steps}})


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Pretends a device, cores, ranks and room in /dev/shm."""

    def pretend(device: str = "cuda", cores: int = 16, ranks: int = 1, room: int = 8 * GB) -> None:
        monkeypatch.setattr(automatic, "device_of", lambda config: torch.device(device))
        monkeypatch.setattr(automatic, "available_cores", lambda: cores)
        monkeypatch.setattr(shared_memory, "measure", lambda: MemoryRoom(room, room))
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(ranks))

    return pretend


def test_processes_have_as_many_workers_as_the_one_with_the_fewest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An order that exchanges is asked for as far ahead as there are workers: in all processes alike."""
    config, pool, given = run_config(tmp_path, data__workers=3), make_pool(POOL, 1), dict[str, Any]()
    trainer = trainer_of(config, pool)
    monkeypatch.setattr(trainer.world, "counts", lambda own: [4, own, 2])
    monkeypatch.setattr(loop, "feed", lambda fill, order, steps, loading, **_: given.update(workers=loading.workers))
    loop.batches_of(trainer, pool, config, range(2))
    assert given["workers"] == 2


@pytest.mark.parametrize(
    ("cores", "ranks", "workers"), [(16, 1, 8), (6, 1, 5), (16, 4, 3), (64, 8, 7), (2, 1, 1), (1, 1, 1), (8, 8, 1)]
)
def test_a_gpu_is_fed_by_its_share_of_the_cores(machine: Any, cores: int, ranks: int, workers: int) -> None:
    machine(cores=cores, ranks=ranks)
    assert workers_of(config_of()) == workers
    assert workers_of(config_of(), in_memory=True) == 0
    assert workers_of(config_of(workers=3), in_memory=True) == 3
    assert workers_of(config_of(shards=[])) == 0


def test_a_cpu_trains_with_its_cores(machine: Any) -> None:
    machine(device="cpu", cores=64)
    assert workers_of(config_of()) == 0
    assert workers_of(config_of(workers=2)) == 2


def test_a_small_shared_memory_has_fewer_workers_and_ends_no_run(machine: Any) -> None:
    machine(room=64 << 20)
    for item, workers in ((1 << 20, 8), (10 << 20, 5), (40 << 20, 0)):
        found = workers_of(config_of(), item=item)
        assert found == workers_of(config_of(steps=1), item=item) == workers  # a step may have many chunks
        if found:
            shared_memory.check_room(item, found, 100)
        if found < 8:
            with pytest.raises(AcedError):
                shared_memory.check_room(item, found + 1, 100)


@pytest.mark.parametrize("in_memory", [True, False])
def test_neither_decoding_nor_a_cache_ends_a_run_for_lack_of_room(
    in_memory: bool, machine: Any, tmp_path: Path, trained: dict[str, Path]
) -> None:
    write_pairs(tmp_path / "pool/0.tar", range(90))
    keys = {"data__shards": [str(tmp_path / "pool")], "data__in_memory": in_memory, "train__precision": "fp32"}
    config = run_config(tmp_path / "run", "i-acid", trained, reference__cache=str(tmp_path / "cache"), **keys)
    machine(room=1000)
    inputs = make_inputs(config, make_student(config), quiet())
    assert isinstance(inputs.reference, Cached)


@pytest.mark.parametrize(
    ("in_memory", "samples", "ranks", "kept", "says"),
    [
        (False, 1, 1, False, False),
        (True, 10**9, 1, True, False),  # asked for: it is tried, and refused where the machine is too small
        ("auto", GB // EACH, 1, True, False),
        ("auto", GB // EACH + 1, 1, False, True),
        ("auto", GB // EACH, 2, False, True),  # each process keeps its own
    ],
)
def test_a_pool_is_kept_where_it_takes_a_quarter_of_the_free_memory(
    in_memory: Any, samples: int, ranks: int, kept: bool, says: bool, machine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(ranks=ranks)
    monkeypatch.setattr(automatic, "free_memory", lambda: 4 * GB)
    keeps, why = keeps_decoded(config_of(in_memory=in_memory), samples, [*VIEWS, *VIEWS])
    assert (keeps, "data.in_memory" in why) == (kept, says)


def test_captions_that_change_are_read_from_the_tars() -> None:
    assert keeps_decoded(config_of(in_memory="auto", caption_choice="random"), 1, VIEWS) == (False, "")


def test_a_run_keeps_what_fits_and_reads_what_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_pairs(tmp_path / "pool/0.tar", range(40))
    values = {"data": {"shards": [str(tmp_path / "pool")], "in_memory": "auto"}, "run": {"out": str(tmp_path / "run")}}
    config = make_config({"method": {"name": "iid"}, "train": {"batch": 8}} | values)
    for free, kind in ((4 * GB, InMemory), (10_000, Shards), (None, InMemory)):
        monkeypatch.setattr(automatic, "free_memory", lambda free=free: free)
        bars = quiet()
        said: list[str] = []
        monkeypatch.setattr(bars, "say", said.append)
        assert type(make_inputs(config, make_student(config), bars).source) is kind
        assert sum("data.in_memory" in line for line in said) == (kind is Shards)


@pytest.mark.parametrize(
    ("files", "free"),
    [
        ({"meminfo": "MemTotal: 9 kB\nMemAvailable:   2000 kB\n"}, 2_048_000),
        ({"meminfo": "MemAvailable: 2000 kB", "memory.max": "max", "memory.current": "5"}, 2_048_000),
        (
            {"meminfo": "MemAvailable: 2000 kB", "memory.max": "9000", "memory.current": "5000",
             "memory.stat": "anon 3\ninactive_file 1000\n"},
            5000,
        ),
        ({"meminfo": "MemAvailable: 2000 kB", "memory.max": "9000", "memory.current": "5000"}, 2_048_000),
        ({"meminfo": "no such line"}, None),
        ({}, None),
    ],
)  # fmt: skip
def test_free_memory_is_what_machine_and_container_leave(
    files: dict[str, str], free: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    assert free_memory() == free
