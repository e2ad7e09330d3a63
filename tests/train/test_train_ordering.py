"""The order of a run: what `auto` comes to, what is refused, and that a resumed run has what it was begun with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

import aced
from aced.config import Config, make_config
from aced.errors import AcedError
from aced.pool.manyviews import ViewedOrder
from aced.pool.orders.mixed_plan import MixedPlan
from aced.pool.orders.mixture import Mixture
from aced.pool.orders.order import Order, Orders
from aced.pool.orders.plan import Plan
from aced.pool.source import Candidates, Source
from aced.pool.views import View
from aced.train.run import fit as fit_module
from aced.train.run import inputs, loop, ordering
from aced.train.run.ordering import RunOrder, make_run_order, order_text, recorded
from run_fakes import run_config, write_pairs


@dataclass
class Tars(Source):
    """Only sizes of a pool."""

    part_sizes: list[int]
    mixture: tuple[int, ...] = ()

    def __len__(self) -> int:
        return sum(self.part_sizes)

    def read(self, indices: Sequence[int], views: Sequence[View]) -> Candidates:
        raise AssertionError("an order reads nothing")


def config_of(batch: int = 40, **data: Any) -> Config:
    return make_config(
        {"data": {"shards": ["pool"], **data}, "method": {"name": "iid"}, "train": {"batch": batch}, "run": {"seed": 3}}
    )


def settled_as(config: Config, source: Source, ranks: int = 1) -> tuple[object, object]:
    data = make_run_order(config, source, ranks).settled(config).data
    return data.locality, data.streams


def samples_of(config: Config, source: Source) -> Orders:
    return make_run_order(config, source, 1).samples


def told(config: Config, source: Source, ranks: int = 1) -> str:
    return order_text(make_run_order(config, source, ranks), config, source, ranks)


def test_a_small_pool_is_permuted_as_a_whole() -> None:
    config, pool = config_of(), Tars([50] * 20)
    assert settled_as(config, pool) == (0, "auto")
    order = samples_of(config, pool)
    assert isinstance(order, Order)
    assert torch.equal(order.indices(7), Order(1000, 40, 3).indices(7))
    assert make_run_order(config, pool, 1).plan is None
    assert told(config, pool) == ""


@pytest.mark.parametrize(("limit", "value"), [("LARGE", 999), ("MANY", 19)])
def test_a_large_one_is_read_in_streams(monkeypatch: pytest.MonkeyPatch, limit: str, value: int) -> None:
    config, pool = config_of(), Tars([50] * 32)
    monkeypatch.setattr(ordering, limit, value)
    assert settled_as(config, pool) == (ordering.LOCALITY, 8)
    assert settled_as(config, pool, 2) == (ordering.LOCALITY, 8)
    assert settled_as(config, pool, 5) == (ordering.LOCALITY, 5)
    assert f"data.locality={ordering.LOCALITY}, data.streams=8" in told(config, pool)
    assert settled_as(config_of(locality=0), pool) == (0, "auto")
    assert settled_as(config, Tars([1600])) == ((ordering.LOCALITY, 1) if limit == "LARGE" else (0, "auto"))
    assert settled_as(config, Tars([1600] * 3), 4) == (0, "auto")  # fewer tars than processes


def test_as_many_streams_as_leave_little_out() -> None:
    assert settled_as(config_of(locality=2), Tars([50] * 16)) == (2, 8)
    assert settled_as(config_of(locality=2), Tars([50] * 12)) == (2, 4)  # with eight, four tars of twelve would sit out
    assert settled_as(config_of(locality=2), Tars([50] * 13)) == (2, 1)
    assert settled_as(config_of(locality=2), Tars([50] * 13), 2) == (2, 2)
    assert settled_as(config_of(36, locality=2), Tars([36] * 16)) == (2, 4)  # eight do not divide the batch
    assert settled_as(config_of(locality=2, streams=5), Tars([50] * 16)) == (2, 5)


def test_the_orders_of_configs() -> None:
    pool = Tars([50] * 16, (400, 400))
    order = samples_of(config_of(locality=2, streams=4), pool)
    assert isinstance(order, Plan)
    assert torch.equal(order.indices(9), Plan([50] * 16, 40, 3, 2, 4).indices(9))
    viewed = samples_of(config_of(locality=2, streams=4, views=3), pool)
    assert isinstance(viewed, ViewedOrder)
    assert torch.equal(viewed.indices(9) % 800, order.indices(9))
    assert len((viewed.indices(9) // 800).unique()) == 3
    weights = {"shards": ["a", "b"], "weights": [1, 3]}
    mixed = samples_of(config_of(locality=2, streams=4, **weights), pool)
    assert isinstance(mixed, MixedPlan)
    assert int((mixed.indices(5) < 400).sum()) == 10
    assert isinstance(samples_of(config_of(**weights), pool), Mixture)


@pytest.mark.parametrize(
    ("tars", "mixture"),
    [
        ([10, 0, 20, 30, 0], (30, 30)),
        ([10, 20, 0, 0, 30], (30, 30)),
        ([0, 30, 30], (30, 30)),
        ([30, 30], (0, 30, 0, 30)),
        ([0, 0, 5], (5, 0)),
    ],
)
def test_tars_belong_to_the_source_that_has_their_samples(tars: list[int], mixture: tuple[int, ...]) -> None:
    counts = ordering._tars_of(mixture, tars)
    assert sum(counts) == len(tars)
    start = 0
    for count, samples in zip(counts, mixture, strict=True):
        assert sum(tars[start : start + count]) == samples
        start += count


def test_who_sits_out_is_told_with_what_would_help() -> None:
    pool = Tars([50] * 11)
    text = told(config_of(locality=2, streams=8), pool)
    assert "27.3 %" in text
    assert "data.streams=5" in text  # of eleven tars one sits out
    assert "data.streams=2" in told(config_of(locality=2, streams=8), pool, 2)
    assert told(config_of(locality=2, streams=1), pool) == ""


def test_streams_that_do_not_fit_are_refused() -> None:
    pool = Tars([50] * 16)
    with pytest.raises(AcedError, match=r"data\.streams = 3.* 40.*\b2, 4\b"):
        config_of(locality=2, streams=3)
    with pytest.raises(AcedError, match=r"data\.streams = 8.* 3 processes.*1, 2, 4, 8.* 3"):
        make_run_order(config_of(locality=2, streams=8), pool, 3)
    with pytest.raises(AcedError, match=r"data\.streams = 20.*\(16\)"):
        make_run_order(config_of(locality=2, streams=20), pool, 1)
    with pytest.raises(AcedError, match=r"data\.streams = 20.*\(16\)"):
        make_run_order(config_of(locality=2), pool, 20)
    with pytest.raises(AcedError, match=r"data\.locality"):
        make_config({"data": {"locality": 2}, "method": {"name": "iid"}})
    with pytest.raises(AcedError, match=r"data\.streams = 0"):
        config_of(locality=2, streams=0)
    with pytest.raises(AcedError, match="batch of 1000"):
        samples_of(config_of(1000, locality=2, streams=4), pool)


def test_a_resumed_run_has_what_it_was_begun_with() -> None:
    before = {"data": {"locality": 16, "streams": 4}}
    assert recorded(config_of(), before).data.locality == 16
    assert recorded(config_of(), before).data.streams == 4
    assert recorded(config_of(locality=2), before).data.locality == 2  # which is then refused
    old = recorded(config_of(), {"data": {}})  # of before there was the key
    assert (old.data.locality, old.data.streams) == (0, "auto")


def test_a_run_makes_its_order_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for tar in range(4):
        write_pairs(tmp_path / f"pool/{tar}.tar", range(20 * tar, 20 * tar + 20))
    keys = {"data__shards": [str(tmp_path / "pool")], "data__locality": 2, "train__steps": 2}
    config = run_config(tmp_path / "run", **keys)
    make, made, plans = ordering.make_run_order, list[int](), list[int]()

    def counted(*arguments: Any) -> RunOrder:
        made.append(1)
        return make(*arguments)

    class Counted(Plan):
        def __init__(self, *arguments: Any) -> None:
            plans.append(arguments[-1])
            super().__init__(*arguments)

    for module in (ordering, inputs, fit_module, loop):
        monkeypatch.setattr(module, "make_run_order", counted)
    monkeypatch.setattr(ordering, "Plan", Counted)
    aced.train(config, tasks=[], show=False)
    assert len(made) == 1
    assert plans == [1, 2, 4, 8, 4]  # each number of streams that is tried, and the one that it is
    assert "streams = 4" in (tmp_path / "run/config.toml").read_text()


def test_an_order_that_was_made_for_another_run_is_not_taken(tmp_path: Path) -> None:
    config, pool = run_config(tmp_path), Tars([50] * 16)
    order = make_run_order(config, pool, 1)
    assert order.fits(run_config(tmp_path / "elsewhere"), pool, 1)
    others = [run_config(tmp_path, **keys) for keys in ({"run__seed": 1}, {"train__batch": 8}, {"data__views": 2})]
    assert not any(order.fits(other, pool, 1) for other in others)
    assert not order.fits(config, Tars([50] * 15), 1)
    assert not order.fits(config, pool, 2)
