"""The bank of cached pairs that columns are drawn from: which pairs, what is drawn, and that steps open nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from aced.cache import store as store_module
from aced.pool.source import Candidates
from aced.runs.ledger import Ledger
from aced.train.bank import TARS, Bank, bank_positions
from aced.train.draws import generator_of
from aced.train.further import FurtherPairs
from aced.train.providers import Cached
from run_fakes import even_pool, provider_of, run_config, with_holes

HELD, DRAWN, SUPER = 60, 25, 20


def draw(sizes: list[int], count: int, seed: int = 0) -> list[int]:
    return bank_positions(sizes, count, torch.Generator().manual_seed(seed)).tolist()


@pytest.mark.parametrize("sizes", [[30], [7, 0, 5], [3] * 200, [500, 1, 500] * 40, [1000] * 300])
@pytest.mark.parametrize("count", [1, 12, 30, 150, 10_000])
def test_a_sample_has_no_pair_twice_and_is_from_few_tars(sizes: list[int], count: int) -> None:
    found = draw(sizes, count)
    n = sum(sizes)
    assert len(found) == min(count, n)
    assert found == sorted(set(found))
    assert not found or 0 <= found[0] <= found[-1] < n
    if count >= n:
        assert found == list(range(n))
        return
    tar_of = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    used = len(tar_of[found].unique())
    fewest_that_suffice = -(-count // max(sizes))
    assert used <= max(TARS, 3 * fewest_that_suffice + 3)


def test_pairs_of_all_tars_come_in_turn() -> None:
    sizes = [20] * 200
    seen = set[int]()
    for seed in range(60):
        seen.update(position // 20 for position in draw(sizes, 100, seed))
    assert len(seen) == 200


@pytest.fixture(scope="module")
def cached(trained: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Cached:
    """A cache of a pool of which every ninth pair could not be read."""
    config = run_config(tmp_path_factory.mktemp("run"), "aced", trained)
    provider = provider_of(config, with_holes(even_pool(), 9), tmp_path_factory.mktemp("cache"))
    assert isinstance(provider, Cached)
    return provider


def further(cached: Cached, held: int, seed: int = 3) -> FurtherPairs:
    return FurtherPairs([cached], DRAWN, seed, held=held, batch=SUPER)


def of(pairs: FurtherPairs, step: int) -> Tensor:
    pairs.read(step)
    (found,) = pairs.of(step, 16, Ledger())
    return torch.stack([found.image, found.text], 1)


def test_a_pool_that_fits_is_drawn_from_as_a_whole(cached: Cached) -> None:
    """Bit for bit what was looked up for each step alone; those that have no embedding are left out."""
    pairs, n = further(cached, 400), len(cached.store)
    for step in (0, 7, 399):
        drawn = torch.randint(n, (DRAWN,), generator=generator_of("columns", 3, step))
        drawn = drawn[drawn % 9 > 0]
        assert torch.equal(of(pairs, step), cached.rows.load(Candidates(drawn, (), {})))


def test_a_larger_pool_gives_a_sample_an_epoch_which_follows_from_the_seed(cached: Cached) -> None:
    whole = cached.rows.load(Candidates(torch.tensor([i for i in range(400) if i % 9]), (), {}))

    def seen(pairs: FurtherPairs, steps: Any) -> set[int]:
        found = set()
        for step in steps:
            for row in of(pairs, step):
                (place,) = (whole == row).all(2).all(1).nonzero().flatten().tolist()[:1]
                found.add(place)
        return found

    first, second = range(20), range(20, 40)  # 400 pairs, 20 a step
    epochs = [seen(further(cached, HELD), steps) for steps in (first, second)]
    assert all(0.6 * HELD < len(epoch) <= HELD for epoch in epochs)
    assert len(epochs[0] & epochs[1]) < 0.6 * HELD
    assert seen(further(cached, HELD, seed=4), first) != epochs[0]
    # Whoever begins in the middle of an epoch has what a run has that came there.
    through = further(cached, HELD)
    for step in range(25):
        of(through, step)
    assert torch.equal(of(through, 25), of(further(cached, HELD), 25))


def test_steps_open_nothing(cached: Cached, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = further(cached, HELD)
    pairs.read(0)

    def refuse(*_: Any) -> Any:
        raise AssertionError("a side-car is read")

    monkeypatch.setattr(store_module.Store, "found", refuse)
    for step in range(20):
        of(pairs, step)
    with pytest.raises(AssertionError):
        of(pairs, 20)
    assert len(Bank(cached, HELD, 0)) == HELD
