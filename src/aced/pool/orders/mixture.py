"""The order of training over several sources with weights, as a pure function of (seed, step).

Every super-batch holds B samples, on average w_i B from source i, and never a sample twice. The counts repeat with a
period of 64 super-batches: each has either the floor of q_i/64 or one more from source i, where q_i = w_i B 64 rounded
(so that the q_i add up to 64 B), and 64 in a row have exactly q_i. The extra ones are spread evenly.

A source is read in passes of a fixed number m_i of super-batches, the largest for which no pass needs more than its n_i
samples. Pass p is the beginning of a permutation that depends only on (seed, i, p); the few samples at its end sit that
pass out. An epoch ends with the longest pass: by then every source has been read at least once, and small or heavily
weighted ones many times.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from aced.errors import AcedError
from aced.pool.orders.order import Orders, permutation

PERIOD = 64
# Odd, so that it visits every step of a period, and near 64 over the golden ratio, so that neighbours are far apart.
STRIDE = 39


class Mixture(Orders):
    """An endless sequence of super-batches over consecutive sources.

    Args:
        sizes: samples of each source.
        weights: of each source, in any unit.
        batch: size of a super-batch.
        seed: seed of the order; any int.

    Attributes:
        n: number of samples of all sources.
        batch: size of a super-batch.
        seed: seed of the order.
        steps_per_epoch: super-batches of the longest pass.
        shares: `[k]` float64, the sources' shares of the samples drawn: the weights to 1/(128 B).

    Raises:
        AcedError: the number of weights is wrong, a weight is too small to be met, or a share of a super-batch is
            larger than its source.
    """

    def __init__(self, sizes: Sequence[int], weights: Sequence[float], batch: int, seed: int) -> None:
        if len(sizes) != len(weights) or not sizes:
            raise AcedError(f"There are {len(sizes)} sources but {len(weights)} weights: give one for each.")
        self.n, self.batch, self.seed = sum(sizes), batch, seed
        self._sizes = list(sizes)
        self._starts = np.cumsum([0, *sizes])[:-1]
        quotas = quotas_of(weights, batch)
        self.shares = quotas / quotas.sum()
        self._counts = counts_of(quotas)  # [64, k]
        self._before = np.concatenate([np.zeros((1, len(sizes)), np.int64), self._counts.cumsum(axis=0)])  # [65, k]
        self._check()
        self._passes = [self._pass_length(source) for source in range(len(sizes))]
        self.steps_per_epoch = max(self._passes)
        self._cached: dict[int, tuple[int, Tensor]] = {}

    def epochs(self, step: int) -> Tensor:
        """For each sample of super-batch `step`, how often its source was read completely before: `[batch]` int64."""
        passes = np.repeat([step // length for length in self._passes], self._counts[step % PERIOD])
        return torch.from_numpy(passes)[self._shuffle(step)]

    def indices(self, step: int) -> Tensor:
        """Positions of super-batch `step` (from 0): `[batch]` int64, all different, the sources mixed."""
        if step < 0:
            raise ValueError(f"step must be 0 or more, got {step}")
        parts = []
        for source, length in enumerate(self._passes):
            number = step // length
            place = self._given(source, step) - self._given(source, number * length)
            count = int(self._counts[step % PERIOD, source])
            order = self._permutation(source, number)
            parts.append(order[place : place + count] + int(self._starts[source]))
        return torch.cat(parts)[self._shuffle(step)]

    def _given(self, source: int, step: int) -> int:
        """How many samples a source has given before super-batch `step`."""
        periods, rest = divmod(step, PERIOD)
        return periods * int(self._before[PERIOD, source]) + int(self._before[rest, source])

    def _pass_length(self, source: int) -> int:
        """Maximum number of consecutive super-batches that never take more than the source holds."""
        quota, size = int(self._before[PERIOD, source]), self._sizes[source]

        def most(length: int) -> int:
            return max(self._given(source, start + length) - self._given(source, start) for start in range(PERIOD))

        low, high = 1, size * PERIOD // quota + 1  # this many would need more than there are, on average
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if most(middle) <= size else (low, middle - 1)
        return low

    def _shuffle(self, step: int) -> Tensor:
        return permutation(self.batch, f"aced mixture {self.seed} step {step}")

    def _permutation(self, source: int, number: int) -> Tensor:
        cached = self._cached.get(source)
        if cached is None or cached[0] != number:
            cached = (number, permutation(self._sizes[source], f"aced mixture {self.seed} {source} {number}"))
            self._cached[source] = cached
        return cached[1]

    def _check(self) -> None:
        for source, size in enumerate(self._sizes):
            most = int(self._counts[:, source].max())
            if most > size:
                raise AcedError(
                    f"data.weights gives entry {source + 1} of data.shards up to {most} of the {self.batch} samples of "
                    f"a super-batch but it has {size}: lower its weight or train.batch, or add data to it."
                )


def quotas_of(weights: Sequence[float], batch: int) -> np.ndarray:
    """`[k]` int64 samples of each source in a period, by largest remainders; their sum is 64 B."""
    share = np.array(weights, dtype=np.float64) / sum(weights)
    exact = share * batch * PERIOD
    quotas = np.floor(exact).astype(np.int64)
    missing = batch * PERIOD - int(quotas.sum())
    quotas[np.argsort(quotas - exact, kind="stable")[:missing]] += 1
    if (quotas < 1).any():
        source = int(quotas.argmin())
        raise AcedError(
            f"The weight of entry {source + 1} of data.shards is {share[source]:.2g} of the total, less than one "
            f"sample in {PERIOD} super-batches of {batch}: raise it, or leave that entry out."
        )
    return quotas


def counts_of(quotas: np.ndarray) -> np.ndarray:
    """`[64, k]` int64 samples of each source in each super-batch of a period; every row has the same sum."""
    counts = np.repeat(quotas[None] // PERIOD, PERIOD, axis=0)
    # The remainders, listed source by source, are dealt to the super-batches in turn: a source with a remainder below
    # 64 meets none of them twice, and each super-batch gets the same number.
    left = np.repeat(np.arange(len(quotas)), quotas % PERIOD)
    np.add.at(counts, ((np.arange(len(left)) * STRIDE) % PERIOD, left), 1)
    return counts
