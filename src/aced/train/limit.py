"""A test for more bad samples than a pool within its limit can hold, beyond chance.

A pool of N samples, K of them bad, is read in random order. After n samples, k of them bad, the likelihood of the
observed order is C(N - n, K - k) / C(N, K). Its ratio to a mixture over all shares of bad samples (Beta(1/2, 1/2)) is a
martingale for the true K, so by Ville's inequality it ever exceeds 1/p with probability at most p, however often it is
checked. Beyond K bad samples it is infinite: a pool that was read completely is judged exactly.
"""

from __future__ import annotations

import math

CHANCE = 1e-6
"""Maximum probability, over a whole run, of judging a pool within its limit to be beyond it."""
LEAST = 200
"""A smaller pool may hold as many bad samples as one of this size."""


def allowed(max_share: float, total: int) -> int:
    """How many samples of a pool of `total` may be bad."""
    return math.floor(round(max_share * max(total, LEAST), 6))


def beyond(bad: int, read: int, most: int, total: int, chance: float = CHANCE) -> bool:
    """Whether a pool of `total` samples holds more than `most` bad ones, judging by `bad` of `read`.

    Args:
        bad: bad samples so far, each counted once.
        read: samples read so far, each counted once, in random order.
        most: maximum number of bad samples.
        total: all samples.
        chance: see `CHANCE`.
    """
    if bad > most:
        return True
    if bad * total <= most * read:  # the share is within the limit
        return False
    left = total - read
    mixture = _log_beta(bad + 0.5, read - bad + 0.5) - _log_beta(0.5, 0.5)
    within = _log_binomial(left, most - bad) - _log_binomial(total, most)
    return mixture - within > -math.log(chance)


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


def _log_binomial(n: int, k: int) -> float:
    """Logarithm of the binomial coefficient; -inf for an impossible one."""
    if not 0 <= k <= n:
        return -math.inf
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
