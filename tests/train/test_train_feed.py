"""Candidates on their way into the loop: the same with any number of workers, faults counted once."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from aced.data.order import Order
from aced.data.scenes import Scenes, make_pool
from aced.data.source import Candidates, Fault
from aced.data.views import View
from aced.errors import AcedError
from aced.train.feed import Faults, feed, make_order
from run_fakes import POOL, run_config

VIEWS = [View(32), View(24)]


@pytest.fixture(scope="module")
def pool() -> Scenes:
    return make_pool(POOL, 1)


def test_workers_load_what_the_order_says(pool: Scenes) -> None:
    order = Order(POOL, 80, seed=3)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    alone, helped = (list(feed(pool, order, VIEWS, start=3, stop=7, workers=n)) for n in (0, 2))
    assert torch.equal(torch.get_rng_state(), state)  # the global generator belongs to the user
    assert len(alone) == len(helped) == 4
    for step, (one, other) in enumerate(zip(alone, helped, strict=True), start=3):
        assert torch.equal(one.indices, order.indices(step))
        assert torch.equal(one.indices, other.indices)
        assert one.texts == other.texts
        assert set(one.images) == set(other.images) == set(VIEWS)
        assert all(torch.equal(one.images[view], other.images[view]) for view in VIEWS)


@dataclass(frozen=True, eq=False)
class Broken(Scenes):
    """A pool that cannot be read."""

    die: bool = False

    def read(self, indices: Sequence[int], views: Sequence[View]) -> Candidates:
        if self.die:
            os._exit(7)
        raise AcedError("The tar has changed.")


def broken(pool: Scenes, **how: Any) -> Broken:
    return Broken(**{name: getattr(pool, name) for name in Scenes.__dataclass_fields__}, **how)


@pytest.mark.parametrize("workers", [0, 1])
def test_the_sources_error_is_the_feeds(workers: int, pool: Scenes) -> None:
    batches = feed(broken(pool), Order(POOL, 80, 0), VIEWS, start=0, stop=4, workers=workers)
    with pytest.raises(AcedError, match=r"^The tar has changed\.$"):
        next(batches)


def test_a_worker_that_dies_is_told(pool: Scenes) -> None:
    batches = feed(broken(pool, die=True), Order(POOL, 80, 0), VIEWS, start=0, stop=4, workers=1)
    with pytest.raises(AcedError, match=r"^A process that loads data died .*status 7.*lower data\.workers"):
        next(batches)


def test_the_order_of_a_config(tmp_path: Path, trained: dict[str, Path]) -> None:
    assert make_order(run_config(tmp_path), 400).batch == 16
    assert make_order(run_config(tmp_path, "aced", trained), 400).batch == 80
    assert make_order(run_config(tmp_path, "aced", trained, method__filtering_ratio=0.0), 16).batch == 16
    with pytest.raises(AcedError, match=r"^The batch of 16 \(train\.batch\) is larger than the data \(15 samples\)"):
        make_order(run_config(tmp_path), 15)
    with pytest.raises(AcedError, match=r"^The super-batch of 80 \(train\.batch 16 / .* lower train\.batch or method"):
        make_order(run_config(tmp_path, "aced", trained), 79)


def faults(*keys: str, name: str = "image_empty") -> list[Fault]:
    return [Fault(key, name, f"{key}: broken.") for key in keys]


def test_a_fault_counts_once_for_each_key() -> None:
    count = Faults(max_share=0.5, total=100)
    count.add(faults("a", "b"), 60)
    count.add(faults("b", "c") + faults("d", name="caption_empty"), 60)
    assert count.counts == {"image_empty": 3, "caption_empty": 1}
    assert count.read == 100  # the second epoch reads nothing new
    assert count.examples["image_empty"].key == "a"


def test_too_large_a_share_stops_the_run() -> None:
    count = Faults(max_share=0.01, total=1000)
    count.add(faults(*"abc"), 100)  # as many as three times the share may come by chance
    with pytest.raises(
        AcedError,
        match=r"^11 of 160 samples could not be read, more than data\.max_bad_share = 0\.01 allows; for example "
        r"image_empty: a: broken\.$",
    ):
        count.add(faults(*"defghijk"), 60)


def test_a_pool_that_was_read_wholly_is_judged_exactly() -> None:
    within = Faults(max_share=0.01, total=1000)
    within.add(faults(*"abcdefghij"), 1000)
    within.add(faults(*"abcdefghij"), 1000)  # once more, in the second epoch
    with pytest.raises(AcedError, match="11 of 1000"):
        within.add(faults("k"), 100)
    Faults(max_share=0.29, total=100).add(faults(*map(str, range(29))), 100)  # 0.29 * 200 is 57.99 in floats
    Faults(max_share=0.01, total=100).add(faults("a", "b"), 100)  # of 200 there may be two
    with pytest.raises(AcedError, match="3 of 100"):
        Faults(max_share=0.01, total=100).add(faults("a", "b", "c"), 100)


def test_a_resumed_count_judges_as_one_that_was_not_interrupted() -> None:
    rng = np.random.default_rng(0)
    bad = {f"{n}": n for n in rng.choice(3000, 90, replace=False).tolist()}  # 3 %

    def run(stop_at: int | None) -> str:
        count = Faults(max_share=0.01, total=3000)
        for step in range(60):
            if step == stop_at:
                fresh = Faults(max_share=0.01, total=3000)
                fresh.read, fresh.keys = (
                    count.read,
                    set(count.keys),
                )  # with counts and examples, what a checkpoint holds
                fresh.counts, fresh.examples = Counter(count.counts), dict(count.examples)
                count = fresh
            met = [key for key, n in bad.items() if n // 50 == step]
            try:
                count.add(faults(*met), 50)
            except AcedError as error:
                return f"{step}: {error}"
        return "went through"

    whole = run(None)
    assert whole != "went through"
    assert {run(step) for step in range(1, int(whole.partition(":")[0]) + 1)} == {whole}


def test_no_fault_is_allowed_with_a_share_of_zero_and_all_with_one() -> None:
    with pytest.raises(AcedError, match="1 of 10 samples"):
        Faults(max_share=0.0, total=10).add(faults("a"), 10)
    Faults(max_share=1.0, total=10).add(faults(*"abcdefghij"), 10)


def test_what_indexing_left_out_is_counted_but_limits_nothing() -> None:
    count = Faults(max_share=0.0, total=10)
    count.note(faults("x", "y", name="no_caption"))
    count.add([], 10)
    assert count.counts == {"no_caption": 2}
    assert not count.keys
