"""When the bad samples that were met are more than a pool within its limit can hold, and not only by chance.

A pool of N samples of which K are bad is read in random order. After n samples, k of them bad, the likelihood of the
order that was seen is C(N - n, K - k) / C(N, K). Its ratio to a mixture over all shares of bad samples (Beta(1/2, 1/2))
is a martingale for the true K, so by Ville's inequality it ever exceeds 1/p with probability p at most, however often
it is looked at. Where more than K were met, it is infinite: a pool that was read wholly is judged exactly.
"""

from __future__ import annotations

import math

CHANCE = 1e-6
"""Probability at most that a pool within its limit is ever taken for one beyond it, over a whole run."""
LEAST = 200
"""A smaller pool may hold as many bad samples as one of this size."""


def allowed(max_share: float, total: int) -> int:
    """How many samples of a pool of `total` may be bad."""
    return math.floor(round(max_share * max(total, LEAST), 6))


def beyond(bad: int, read: int, most: int, total: int, chance: float = CHANCE) -> bool:
    """Whether a pool of `total` samples holds more than `most` bad ones, as far as `bad` of `read` tell.

    Args:
        bad: bad samples that were met, each counted once.
        read: samples that were read, each counted once, in random order.
        most: how many may be bad.
        total: all samples.
        chance: see `CHANCE`.
    """
    if bad > most:
        return True
    if bad * total <= most * read:  # no larger a share than is allowed
        return False
    left = total - read
    mixture = _log_beta(bad + 0.5, read - bad + 0.5) - _log_beta(0.5, 0.5)
    within = _log_binomial(left, most - bad) - _log_binomial(total, most)
    return mixture - within > -math.log(chance)


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


def _log_binomial(n: int, k: int) -> float:
    """Logarithm of the binomial coefficient; of an impossible one -inf."""
    if not 0 <= k <= n:
        return -math.inf
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
