"""The small statistics against scipy."""

from __future__ import annotations

import doctest
import math

import numpy as np
import pytest
from scipy import stats

from aced.evaluate.stability import distributions
from aced.evaluate.stability.distributions import (
    binomial_tail,
    chi_square_quantile,
    hits_above_chance,
    kendall_tau,
    sigma_interval,
)


@pytest.mark.parametrize("n", [1, 7, 500, 20_000])
@pytest.mark.parametrize("chance", [0.0005, 0.1, 0.5, 0.97])
def test_the_binomial_tail_is_scipys(n: int, chance: float) -> None:
    tail = binomial_tail(n, chance)
    expected = stats.binom.sf(np.arange(n + 2) - 1, n, chance)
    assert tail.shape == (n + 2,)
    # Relative, far into the tail: a p-value of 1e-40 has its digits too.
    seen = expected > 1e-200
    assert np.allclose(tail[seen], expected[seen], rtol=1e-8, atol=0)


def test_the_ends_of_chance() -> None:
    assert binomial_tail(3, 0.0).tolist() == [1, 0, 0, 0, 0]
    assert binomial_tail(3, 1.0).tolist() == [1, 1, 1, 1, 0]
    with pytest.raises(ValueError, match="positive"):
        binomial_tail(0, 0.5)
    with pytest.raises(ValueError, match="chance"):
        binomial_tail(3, 1.5)


@pytest.mark.parametrize(("n", "chance", "alpha"), [(600, 1 / 8, 0.05), (500, 0.1, 0.05 / 24), (1000, 0.001, 0.01)])
def test_hits_above_chance_are_the_least_that_scipys_test_accepts(n: int, chance: float, alpha: float) -> None:
    hits = hits_above_chance(n, chance, alpha)
    assert stats.binomtest(hits, n, chance, alternative="greater").pvalue <= alpha
    assert stats.binomtest(hits - 1, n, chance, alternative="greater").pvalue > alpha


def test_where_no_number_of_hits_is_enough() -> None:
    assert hits_above_chance(2, 0.5, 0.01) == 3


@pytest.mark.parametrize("df", [1, 2, 5, 10, 237])
@pytest.mark.parametrize("probability", [0.001, 0.025, 0.5, 0.975, 0.9999])
def test_chi_square_quantiles_are_scipys(df: int, probability: float) -> None:
    assert chi_square_quantile(probability, df) == pytest.approx(stats.chi2.ppf(probability, df), rel=1e-9)


def test_quantiles_outside_the_domain() -> None:
    for probability, df in ((0.0, 3), (1.0, 3), (0.5, 0)):
        with pytest.raises(ValueError, match="domain"):
            chi_square_quantile(probability, df)


def test_the_interval_of_sigma_covers_what_it_says() -> None:
    generator = np.random.default_rng(0)
    seeds = 5
    sigma = generator.normal(size=(20_000, seeds)).std(axis=1, ddof=1)
    low, high = sigma_interval(seeds - 1)
    covered = ((sigma * low <= 1) & (sigma * high >= 1)).mean()
    assert covered == pytest.approx(0.95, abs=0.006)  # four standard errors


@pytest.mark.parametrize("ties", [1000, 6, 2])
def test_tau_is_scipys(ties: int) -> None:
    generator = np.random.default_rng(ties)
    a, b = (generator.integers(0, ties, 40).astype(float) for _ in range(2))
    assert kendall_tau(a, b) == pytest.approx(stats.kendalltau(a, b).statistic, abs=1e-12)
    assert kendall_tau(a, 3 * a + 1) == pytest.approx(1.0)
    assert kendall_tau(a, -a) == pytest.approx(-1.0)


def test_tau_of_a_ranking_without_order() -> None:
    assert kendall_tau(np.ones(4), np.arange(4.0)) is None
    assert math.isnan(stats.kendalltau(np.ones(4), np.arange(4.0)).statistic)


def test_the_worked_examples_hold() -> None:
    result = doctest.testmod(distributions)
    assert result.attempted >= 4
    assert result.failed == 0
