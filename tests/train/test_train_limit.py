"""Whether bad samples are more than a pool within its limit can hold: never by chance, and soon where they are."""

from __future__ import annotations

import numpy as np
import pytest

from aced.train.limit import CHANCE, allowed, beyond


def stops(bad: int, total: int, runs: int, chance: float = CHANCE) -> np.ndarray:
    """For so many random orders, after how many samples a run stops that looks after each one; 0 where it does not."""
    rng = np.random.default_rng(bad)
    most, found = allowed(0.01, total), []
    for _ in range(runs):
        places = np.sort(rng.choice(total, bad, replace=False)) + 1
        met = (at for k, at in enumerate(places.tolist(), 1) if beyond(k, at, most, total, chance))
        found.append(next(met, 0))
    return np.array(found)


@pytest.mark.parametrize(("bad", "total"), [(16, 2000), (20, 2000), (10, 2000), (2, 200), (2, 50), (99, 10_000)])
def test_a_pool_within_the_limit_never_stops(bad: int, total: int) -> None:
    assert not stops(bad, total, 2000).any()


def test_the_chance_of_a_wrong_stop_is_what_it_is_said_to_be() -> None:
    """With a chance that shows: a pool exactly at the limit, looked at after each sample."""
    wrong = (stops(20, 2000, 4000, chance=0.05) > 0).mean()
    assert 0.003 < wrong < 0.05


@pytest.mark.parametrize(
    ("share", "median", "latest"), [(1.0, 4, 4), (0.25, 28, 100), (0.1, 104, 400), (0.02, 4000, 12_000)]
)
def test_a_pool_well_beyond_the_limit_stops_soon(share: float, median: int, latest: int) -> None:
    found = stops(round(share * 100_000), 100_000, 100)
    assert found.all()
    assert np.median(found) == pytest.approx(median, rel=0.25)
    assert found.max() <= latest


def test_a_pool_beyond_the_limit_always_stops_by_the_end_of_the_first_epoch() -> None:
    found = stops(21, 2000, 500)
    assert found.all()
