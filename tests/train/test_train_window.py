"""Selection for a part of the run: which steps choose, what the others load, what both cost, and resuming."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from aced.errors import AcedError
from aced.lab.scenes import Scenes
from aced.pool.orders.order import Order
from aced.train.providers import Live
from aced.train.run.fit import fit
from aced.train.run.student import make_student
from aced.train.scoring.window import Window, WindowedOrder
from run_fakes import (
    BATCH,
    POOL,
    SUPER,
    even_pool,
    inputs_of,
    lines_of,
    quiet,
    run_config,
    stopping_at,
    take,
    trainer_of,
)

STEPS, SINCE, UNTIL = 8, 0.25, 0.75
CHOOSING = [2, 3, 4, 5]


@pytest.fixture(scope="module")
def pool() -> Scenes:
    return even_pool()


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def windowed(out: Path, name: str, trained: dict[str, Path], **keys: Any) -> Any:
    window = {"method__since": SINCE, "method__until": UNTIL, "train__steps": STEPS}
    return run_config(out, name, trained, **window, **keys)


@pytest.mark.parametrize(
    ("since", "until", "steps", "held"),
    [
        (0.0, 0.25, 8, [0, 1]),
        (0.5, 1.0, 8, [4, 5, 6, 7]),
        (0.3, 0.7, 10, [3, 4, 5, 6]),  # .7 * 10 is a little more than 7
        (0.1, 0.11, 8, []),
        (0.0, 1.0, 3, [0, 1, 2]),
    ],
)
def test_a_window_is_a_share_of_the_run(since: float, until: float, steps: int, held: list[int]) -> None:
    window = Window.of(since, until, steps, BATCH, 1)
    assert [step for step in range(steps) if window.holds(step)] == held
    assert held == [s for s in range(steps) if since <= round(s / steps, 9) < until]


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_outside_of_it_each_process_loads_the_first_pairs_of_its_part(ranks: int) -> None:
    plain, window = Order(POOL, SUPER, 3), Window(2, 6, BATCH, ranks)
    order = WindowedOrder(plain, plain, window)
    for step in range(STEPS):
        whole, got = plain.indices(step), order.indices(step)
        assert sum(order.parts(step, ranks)) == len(got) == len(order.epochs(step))
        if step in CHOOSING:
            assert torch.equal(got, whole)
            continue
        own = [part[: BATCH // ranks] for part in whole.split(plain.parts(step, ranks))]
        assert torch.equal(got, torch.cat(own))
        assert order.parts(step, ranks) == [BATCH // ranks] * ranks


@pytest.mark.parametrize("name", ["aced", "h-acid", "i-aced"])
def test_steps_outside_cost_what_random_batches_cost(
    name: str, pool: Scenes, tmp_path: Path, trained: dict[str, Path]
) -> None:
    config = windowed(tmp_path, name, trained)
    trainer = trainer_of(config, pool)
    outcomes = take(trainer, config, pool, STEPS)
    chosen = [number for number, outcome in enumerate(outcomes) if outcome.scores is not None]
    assert chosen == CHOOSING
    assert [len(o.candidates) for o in outcomes] == [SUPER if n in CHOOSING else BATCH for n in range(STEPS)]
    assert all(len(set(o.rows.tolist())) == BATCH for o in outcomes)

    ledger, student = trainer.ledger, trainer.student.forward_flops(pool.captions[:2])
    assert isinstance(trainer.reference, Live)
    large, outside = trainer.reference.tower.forward_flops(pool.captions[:2]), STEPS - len(CHOOSING)
    assert ledger.samples_loaded == len(CHOOSING) * SUPER + outside * BATCH
    assert ledger.samples_trained == STEPS * BATCH
    assert ledger.flops["forward_backward"] == 3 * student * STEPS * BATCH
    assert ledger.flops["scoring"] == (student * len(CHOOSING) * SUPER if name != "i-aced" else 0)
    assert ledger.flops["reference"] == large * len(CHOOSING) * SUPER
    assert ledger.flops["teacher"] == (0 if name == "h-acid" else large * outside * BATCH)


def test_what_is_chosen_inside_is_what_a_whole_run_would_choose(
    pool: Scenes, cache: Path, tmp_path: Path, trained: dict[str, Path]
) -> None:
    config = windowed(tmp_path / "a", "i-acid", trained, method__temperature=0.0)
    whole = run_config(tmp_path / "b", "i-acid", trained, method__temperature=0.0)
    some = take(trainer_of(config, pool, cache), config, pool, STEPS)
    every = take(trainer_of(whole, pool, cache), whole, pool, STEPS)
    for step in CHOOSING:
        assert torch.equal(some[step].candidates, every[step].candidates)
        assert torch.equal(some[step].rows, every[step].rows)  # neither student nor noise has a say in it


def run(config: Any, pool: Scenes, cache: Path, **options: Any) -> Any:
    return fit(config, inputs_of(config, pool, cache), make_student(config), options.pop("bars", quiet()), **options)


@pytest.mark.parametrize("stop", [1, 4, 7])
@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("i-aced", {"scoring__early": True}),
        ("aced", {"scoring__cascade": 0.5, "scoring__early": True, "scoring__reuse": 4, "data__workers": 1}),
    ],
)
def test_a_resumed_run_is_the_uninterrupted_one(
    name: str, keys: dict[str, Any], stop: int, pool: Scenes, cache: Path, tmp_path: Path, trained: dict[str, Path]
) -> None:
    run(windowed(tmp_path / "whole", name, trained, **keys), pool, cache)
    halves = windowed(tmp_path / "halves", name, trained, run__checkpoint_every=1, **keys)
    with pytest.raises(KeyboardInterrupt):
        run(halves, pool, cache, bars=stopping_at(stop))
    run(halves, pool, cache, resume=True)
    one, other = (tmp_path / folder / "model/model.safetensors" for folder in ("whole", "halves"))
    assert one.read_bytes() == other.read_bytes()
    lines = [lines_of(tmp_path / folder / "metrics.jsonl") for folder in ("whole", "halves")]
    assert lines[0] == lines[1]
    # Decided before loading: of a super-batch only what is kept.
    kept = {"i-aced": BATCH, "aced": SUPER // 2}[name]
    assert lines[0][-1]["budgets"]["samples_loaded"] == len(CHOOSING) * kept + (STEPS - len(CHOOSING)) * BATCH


@pytest.mark.parametrize(
    ("name", "keys", "said"),
    [
        ("aced", {"method__since": 0.5, "method__until": 0.5}, r"method\.since = 0\.5 .*method\.until = 0\.5"),
        ("iid", {"method__until": 0.5}, r"method\.since .*method\.until .*'iid'"),
        ("aced-iidistill", {"method__since": 0.5}, r"method\.since .*'aced-iidistill'"),
        ("clip-filter", {"data__views": 2}, r"data\.views .*'clip-filter'"),
    ],
)
def test_a_part_that_has_no_meaning(
    name: str, keys: dict[str, Any], said: str, tmp_path: Path, trained: dict[str, Path]
) -> None:
    with pytest.raises(AcedError, match=said):
        run_config(tmp_path, name, trained, **keys)
