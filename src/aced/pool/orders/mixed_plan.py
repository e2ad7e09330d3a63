"""The order by streams over several sources with weights, as a pure function of (seed, step).

Super-batches hold as many samples of each source as those of `aced.pool.orders.mixture`. A source's share is dealt
evenly to the streams, so each stream is a mixture itself. In each, a source is read in passes of a fixed number of
super-batches, the largest for which no stream needs more than it has. All streams read a source that has fewer tars
than there are streams: each has its part of a permutation of all its samples.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from aced.errors import AcedError
from aced.pool.orders.mixture import PERIOD, STRIDE, counts_of, quotas_of
from aced.pool.orders.order import permutation
from aced.pool.orders.plan import Plans
from aced.pool.orders.sharing import check_streams
from aced.pool.orders.streams import SharedTars, Streams, Walk, starts_of


class MixedPlan(Plans):
    """An endless sequence of super-batches over consecutive sources.

    Args:
        sizes: usable samples of each tar, source after source.
        tars: number of these tars in each source.
        weights: of each source, in any unit.
        batch: size of a super-batch.
        seed: seed of the order; any int.
        locality: K, number of tars of each source that a stream reads at a time.
        streams: C.

    Attributes:
        n: number of samples of all sources.
        batch, seed, streams: as given.
        steps_per_epoch: super-batches of the longest pass.
        left_out: average share of a source's samples that sit a pass out; the largest over sources.

    Raises:
        AcedError: the number of weights is wrong, a weight is too small, streams do not divide the super-batch,
            or a stream's share of a source is more than it has.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        tars: Sequence[int],
        weights: Sequence[float],
        batch: int,
        seed: int,
        locality: int,
        streams: int,
    ) -> None:
        check_streams(batch, streams)
        if len(tars) != len(weights) or not tars:
            raise AcedError(f"There are {len(tars)} sources but {len(weights)} weights: give one for each.")
        owners, each = np.repeat(np.arange(len(tars)), tars), np.asarray(sizes, dtype=np.int64)
        walks = [
            _walk(each * (owners == source), starts_of(each), streams, locality, f"aced mixed plan {seed} {source}")
            for source in range(len(tars))
        ]
        takes = _Dealt(_shared_out(counts_of(quotas_of(weights, batch)), streams))
        passes = [takes.pass_length(source, walk.length) for source, walk in enumerate(walks)]
        for source, length in enumerate(passes):
            if not length:
                raise AcedError(
                    f"data.weights gives entry {source + 1} of data.shards up to {takes.most(source, 1)} samples of a "
                    f"super-batch in each of {streams} streams, but a stream may have as few as "
                    f"{walks[source].length} of it: lower its weight, train.batch or data.streams, or add data to it."
                )
        super().__init__(walks, passes, takes, batch, seed, streams)
        quotas = takes.quotas()
        self.left_out = max(1 - length * q / PERIOD / w.n for length, q, w in zip(passes, quotas, walks, strict=True))
        self._counts = takes.counts

    def epochs(self, step: int) -> Tensor:
        """For each sample of super-batch `step`, how often its source was read completely before: `[batch]` int64."""
        passes = torch.tensor([step // length for length in self._passes])
        counts = torch.from_numpy(self._counts[step % PERIOD])
        each = (passes.repeat_interleave(counts[stream]) for stream in range(self.streams))
        return torch.cat([part[self._shuffle(step, stream)] for stream, part in enumerate(each)])

    def _read(self, stream: int, step: int) -> Tensor:
        return super()._read(stream, step)[self._shuffle(step, stream)]

    def _shuffle(self, step: int, stream: int) -> Tensor:
        """The order in which a stream's part of a super-batch mixes the sources."""
        return permutation(self.batch // self.streams, f"aced mixed plan {self.seed} step {step} stream {stream}")


def _walk(sizes: np.ndarray, starts: np.ndarray, streams: int, locality: int, words: str) -> Walk:
    enough = np.count_nonzero(sizes) >= streams
    return Streams(sizes, starts, streams, locality, words) if enough else SharedTars(sizes, starts, streams, words)


def _shared_out(counts: np.ndarray, streams: int) -> np.ndarray:
    """`[64, C, k]` samples of each source for each stream, from `[64, k]` samples in each super-batch."""
    shared = np.repeat(counts[:, None] // streams, streams, axis=1)
    for step, left in enumerate(counts % streams):
        # Source by source in a row, dealt in turn: no stream gets two from one source, and all get the same number.
        extra = np.repeat(np.arange(len(left)), left)
        np.add.at(shared[step], ((np.arange(len(extra)) + step * STRIDE) % streams, extra), 1)
    return shared


class _Dealt:
    """Sample counts that repeat with a period.

    Args:
        counts: `[64, C, k]` samples of each source that each stream takes.
    """

    def __init__(self, counts: np.ndarray) -> None:
        self.counts = counts
        self._before = np.concatenate([np.zeros_like(counts[:1]), counts.cumsum(axis=0)])  # [65, C, k]

    def quotas(self) -> list[int]:
        """Samples of each source in a period."""
        return [int(quota) for quota in self._before[PERIOD].sum(axis=0)]

    def before(self, source: int, stream: int, step: int) -> int:
        """As in `aced.pool.orders.plan.Takes`."""
        periods, rest = divmod(step, PERIOD)
        return periods * int(self._before[PERIOD, stream, source]) + int(self._before[rest, stream, source])

    def step_of(self, source: int, stream: int, pair: int) -> int:
        """As in `aced.pool.orders.plan.Takes`."""
        before = self._before[:, stream, source]
        periods, rest = divmod(pair, int(before[PERIOD]))
        return periods * PERIOD + int(np.searchsorted(before, rest, side="right")) - 1

    def most(self, source: int, steps: int) -> int:
        """Maximum number that a stream takes in this many consecutive steps."""
        ends = np.arange(PERIOD) + steps
        before = self._before[..., source]
        taken = before[ends % PERIOD] + (ends // PERIOD)[:, None] * before[PERIOD] - before[:PERIOD]
        return int(taken.max())

    def pass_length(self, source: int, size: int) -> int:
        """Maximum number of consecutive steps that never take more than `size` from a stream."""
        low, high = 0, size * PERIOD // int(self._before[PERIOD, :, source].max()) + 1
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self.most(source, middle) <= size else (low, middle - 1)
        return low
