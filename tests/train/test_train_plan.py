"""Runs that read few tars at a time: the same with any number of processes, and resumed to the bit."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from early_ends import STEPS, BeforeStep, same_run
from launch import torchrun
from rich.console import Console

from aced.config import Config, dump_config
from aced.errors import AcedError
from aced.pool.loader.filling import Fill
from aced.pool.loader.loading import Loading
from aced.pool.orders.plan import Plan
from aced.pool.shards import open_shards
from aced.pool.source import Candidates, Column, Source
from aced.pool.views import View
from aced.programs.train import train_program
from aced.runtime.stopping import Stopped
from aced.train.feed import feed
from aced.train.run import ordering
from aced.train.run.fit import fit
from aced.train.run.inputs import make_inputs
from aced.train.run.student import make_student
from aced.train.scoring.early import SievedOrder
from run_fakes import quiet, run_config, write_pairs

TARS, PAIRS = 12, 16


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("plan") / "pool"
    for tar in range(TARS):
        write_pairs(place / f"{tar:02d}.tar", range(tar * PAIRS, (tar + 1) * PAIRS))
    return place


def config_of(out: Path, pool: Path, method: str, trained: dict[str, Path] | None = None, **keys: Any) -> Config:
    data = {"data__shards": [str(pool)], "data__locality": 2, "data__streams": 4}
    keys = {"train__steps": STEPS, "run__log_every": 1, "train__batch": 8, **data, **keys}
    keys["run__threads"] = torch.get_num_threads()
    return run_config(out, method, trained, **keys)


class Watched(Source):
    """A source that notes the positions it is asked for."""

    def __init__(self, source: Source) -> None:
        self.within: Source = source
        self.asked: list[int] = []

    def __len__(self) -> int:
        return len(self.within)

    def read(self, indices: Sequence[int], views: Sequence[View]) -> Candidates:
        self.asked += indices
        return self.within.read(indices, views)


@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_load_the_super_batches_of_one_process_from_tars_of_their_own(pool: Path, ranks: int) -> None:
    source = open_shards([str(pool)])
    order, steps = Plan(source.part_sizes, 32, 0, 2, 4), range(2, 6)
    alone = [batch.indices for batch in feed(Fill(source, [View(8)]), order, steps)]
    sources = [Watched(source) for _ in range(ranks)]
    parts = [
        [batch.indices for batch in feed(Fill(one, [View(8)]), order, steps, part=(rank, ranks))]
        for rank, one in enumerate(sources)
    ]
    for step, whole in enumerate(alone):
        assert torch.equal(torch.cat([part[step] for part in parts]), whole)
    tars = [set(np.array(one.asked) // PAIRS) for one in sources]
    assert sum(map(len, tars)) == len(set().union(*tars)) == TARS


WAYS: list[tuple[str, dict[str, Any]]] = [
    ("aced", {"scoring__cascade": 0.5, "scoring__early": True, "data__workers": 1}),
    ("i-aced", {"data__views": 3}),
    ("iid", {"data__weights": [1, 2], "data__caption_choice": "random"}),
]


def run(config: Config) -> None:
    student = make_student(config)
    fit(config, make_inputs(config, student, quiet()), student, quiet())


def resume(config: Config) -> None:
    with open(os.devnull, "w") as nowhere:
        train_program(config, Console(file=nowhere), resume=True)


@pytest.mark.parametrize(("method", "keys"), WAYS)
def test_a_resumed_run_is_the_one_that_was_not_interrupted(
    method: str, keys: dict[str, Any], pool: Path, tmp_path: Path, trained: dict[str, Path], before_step: BeforeStep
) -> None:
    if method != "iid":
        keys = {**keys, "reference__cache": str(tmp_path / "cache"), "method__filtering_ratio": 0.5}
    if "data__weights" in keys:
        keys = {**keys, "data__shards": [f"{pool}/{{00..04}}.tar", f"{pool}/{{05..11}}.tar"]}
    configs = [config_of(tmp_path / name, pool, method, trained, **keys) for name in ("whole", "halves")]
    run(configs[0])
    before_step(3, lambda: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(Stopped):
        run(configs[1])
    resume(configs[1])
    same_run(tmp_path / "whole", tmp_path / "halves")


def test_auto_is_what_it_was_when_the_run_was_begun(
    pool: Path, tmp_path: Path, before_step: BeforeStep, monkeypatch: pytest.MonkeyPatch
) -> None:
    auto: dict[str, Any] = {"data__locality": "auto", "data__streams": "auto"}
    run(config_of(tmp_path / "whole", pool, "iid", data__locality=ordering.LOCALITY))
    config = config_of(tmp_path / "halves", pool, "iid", **auto)
    before_step(3, lambda: signal.raise_signal(signal.SIGTERM))
    with monkeypatch.context() as patch:
        patch.setattr(ordering, "LARGE", 100)
        patch.setattr(ordering, "STREAMS", 4)
        with pytest.raises(Stopped):
            run(config)
    with pytest.raises(AcedError, match=r"data\.locality.*16.*0"):
        resume(config_of(tmp_path / "halves", pool, "iid", data__locality=0))
    with pytest.raises(AcedError, match=r"data\.streams.*4.*2"):
        resume(config_of(tmp_path / "halves", pool, "iid", data__locality=16, data__streams=2))
    resume(config)
    same_run(tmp_path / "whole", tmp_path / "halves")


class HalfKept(Column):
    """A sieve over two ranks that keeps every third row, and a reference that has no embedding of some samples."""

    device = torch.device("cpu")

    def __init__(self, order: Plan, rank: int) -> None:
        super().__init__("rows", torch.int64, ())
        self.world, self.columns, self.order, self.rank, self.size, self.step = self, (self,), order, rank, 2, -1

    def valid(self, candidates: Candidates) -> torch.Tensor:
        return candidates.indices % 5 != 0

    def load(self, candidates: Candidates) -> torch.Tensor:
        return candidates.indices

    def looked_up(self, candidates: Candidates) -> Candidates:
        assert torch.equal(candidates.column(self), candidates.indices)
        return candidates

    def lists(self, values: torch.Tensor, most: int) -> list[torch.Tensor]:
        self.step += 1
        parts = [part[part % 5 != 0] for part in self.order.indices(self.step).tensor_split(2)]
        assert torch.equal(parts[self.rank], values)
        return parts

    def keep(self, embedded: Candidates, step: int, counts: Sequence[int]) -> torch.Tensor:
        return torch.arange(step % 2 * counts[0] // 2, sum(counts), 3)


def test_what_is_kept_before_loading_is_loaded_by_those_whose_tars_it_is_in(pool: Path) -> None:
    source = open_shards([str(pool)])
    for step in range(4):
        own = []
        for rank in range(2):
            order = Plan(source.part_sizes, 32, 0, 2, 4)
            sieve: Any = HalfKept(order, rank)
            sieve.step = step - 1
            sieved = SievedOrder(order, sieve, sieve, 8, Loading())
            parts = sieved.parts(step, 2)
            assert sum(parts) == len(sieved.indices(step)) == len(sieved.epochs(step))
            own.append(sieved.indices(step).split(parts)[rank])
            assert set((own[-1] // PAIRS).tolist()) <= set(order.tars(step, rank, 2))
        assert torch.equal(torch.cat(own), sieved.indices(step))
        assert step % 2 == 0 or len(own[1]) > len(own[0]) > 0


@pytest.mark.slow
def test_two_processes_choose_what_one_does(pool: Path, tmp_path: Path, trained: dict[str, Path]) -> None:
    """With `early` too, where each loads what was kept of its own streams."""
    keys: dict[str, Any] = {
        "reference__cache": str(tmp_path / "cache"),
        "scoring__cascade": 0.5,
        "scoring__early": True,
        "data__workers": 1,
        "method__filtering_ratio": 0.75,
    }
    found = {}
    for name, ranks in (("one", 1), ("two", 2)):
        config = config_of(tmp_path / name, pool, "aced", trained, **keys)
        (tmp_path / f"{name}.toml").write_text(dump_config(config))
        words = ["none", 0, 0, tmp_path / f"{name}.log", "train", tmp_path / f"{name}.toml"]
        job = torchrun("ranks_program.py", ranks, *words)
        assert job.status == 0, job.output[-3000:]
        lines = [json.loads(line) for line in (tmp_path / f"{name}.log").read_text().splitlines()]
        assert [step for step, *_ in lines] == list(range(1, STEPS + 1))
        found[name] = lines
    assert found["one"] == found["two"]
    assert len(found["one"][0][1]) == 16
