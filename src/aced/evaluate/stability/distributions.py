"""Statistics for stability: tails of the binomial and chi-square distributions, and Kendall's tau."""

from __future__ import annotations

import functools
import math

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@functools.lru_cache(maxsize=512)
def binomial_tail(n: int, chance: float) -> Floats:
    """`[n + 2]` probabilities of at least k hits (k from 0 to n + 1) in n independent guesses; do not write into it.

    >>> [round(float(p), 4) for p in binomial_tail(3, 0.5)]
    [1.0, 0.875, 0.5, 0.125, 0.0]

    Raises:
        ValueError: n is below 1, or chance is outside [0, 1].
    """
    if n < 1 or not 0 <= chance <= 1:
        raise ValueError(f"binomial_tail: n = {n} and chance = {chance}; n must be positive and chance in [0, 1]")
    if chance in (0.0, 1.0):
        return np.concatenate([[1.0], np.full(n, chance), [0.0]])
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])
    hits = np.arange(n + 1)
    log_pmf = log_factorial[n] - log_factorial - log_factorial[::-1]
    log_pmf = log_pmf + hits * math.log(chance) + (n - hits) * math.log1p(-chance)
    # Summed from the top, so that small tails keep their digits.
    tail = np.cumsum(np.exp(log_pmf)[::-1])[::-1]
    return np.concatenate([np.minimum(tail, 1.0), [0.0]])


def hits_above_chance(n: int, chance: float, alpha: float) -> int:
    """The least number of hits in n whose probability under guessing is at most `alpha`; n + 1 if there is none.

    >>> hits_above_chance(10, 0.5, 0.05)
    9
    """
    return int(np.argmax(binomial_tail(n, chance) <= alpha))


def sigma_interval(df: int, level: float = 0.95) -> tuple[float, float]:
    """Factors that turn a standard deviation estimated with `df` degrees of freedom into its confidence interval.

    They hold for a normal distribution.

    >>> [round(x, 2) for x in sigma_interval(5)]
    [0.62, 2.45]
    """
    low, high = (chi_square_quantile(q, df) for q in ((1 + level) / 2, (1 - level) / 2))
    return math.sqrt(df / low), math.sqrt(df / high)


def chi_square_quantile(probability: float, df: int) -> float:
    """The value that a chi-square variable with `df` degrees of freedom stays below with a probability in (0, 1)."""
    if df < 1 or not 0 < probability < 1:
        raise ValueError(f"chi_square_quantile: df = {df} and probability = {probability} are outside its domain")
    low, high = 0.0, float(df)
    while _lower_gamma(df / 2, high / 2) < probability:
        high *= 2
    for _ in range(200):
        middle = (low + high) / 2
        if _lower_gamma(df / 2, middle / 2) < probability:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _lower_gamma(a: float, x: float) -> float:
    """The regularised lower incomplete gamma function, by its series (all terms positive)."""
    if x <= 0:
        return 0.0
    term = total = 1.0 / a
    k = a
    while term > total * 1e-17:
        k += 1
        term *= x / k
        total += term
    return total * math.exp(a * math.log(x) - x - math.lgamma(a))


def kendall_tau(a: Floats, b: Floats) -> float | None:
    """Kendall's tau-b of two rankings of the same m things (corrected for ties); None if one has only ties.

    >>> kendall_tau(np.array([1.0, 2.0, 3.0]), np.array([1.0, 3.0, 2.0]))
    0.3333333333333333
    """
    signs_a, signs_b = (np.sign(x[:, None] - x[None, :]) for x in (a, b))
    untied = math.sqrt(float((signs_a**2).sum()) * float((signs_b**2).sum()))
    return float((signs_a * signs_b).sum()) / untied if untied else None
