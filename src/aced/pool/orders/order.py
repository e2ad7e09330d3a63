"""The order of training as a pure function: the samples of super-batch number `step`.

There is no shuffle buffer and no hidden state. A run that resumes at step s asks for step s and gets the same samples
as an uninterrupted run.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from aced.errors import AcedError


class Orders:
    """The super-batches of a run, as a pure function of the step.

    Attributes:
        n: number of samples.
        batch: size of a super-batch.
        seed: seed of the order.
        steps_per_epoch: super-batches of an epoch.
        uneven: whether the ranks' parts may differ in size.
    """

    n: int
    batch: int
    seed: int
    steps_per_epoch: int
    uneven: bool = False

    def epoch_of(self, step: int) -> int:
        """The epoch (from 0) that super-batch `step` (from 0) belongs to."""
        return step // self.steps_per_epoch

    def indices(self, step: int) -> Tensor:
        """Positions of super-batch `step` (from 0) in the source: `[batch]` int64, all different."""
        raise NotImplementedError

    def epochs(self, step: int) -> Tensor:
        """The epoch of each of them, int64."""
        return torch.full((self.batch,), self.epoch_of(step), dtype=torch.int64)

    def parts(self, step: int, world: int) -> list[int]:
        """How many of them each of `world` ranks loads; concatenated, the parts are the super-batch."""
        each, more = divmod(self.batch, world)
        return [each + (rank < more) for rank in range(world)]


class Order(Orders):
    """An endless sequence of epochs over n samples, cut into super-batches.

    Epoch e is a permutation of `range(n)` that depends only on (seed, e). Each epoch has `n // batch` full
    super-batches; the `n % batch` samples at the end of its permutation sit that epoch out (different ones in every
    epoch). So a super-batch never spans two epochs and never holds a sample twice.

    Attributes:
        n: number of samples.
        batch: size of a super-batch.
        seed: seed of the order; any int.
        steps_per_epoch: `n // batch`.

    Raises:
        AcedError: there are no samples, or a super-batch is larger than the data.
    """

    def __init__(self, n: int, batch: int, seed: int) -> None:
        if batch < 1:
            raise AcedError(f"The super-batch must hold at least 1 sample, not {batch}.")
        if batch > n:
            raise AcedError(
                f"The super-batch of {batch} is larger than the data ({n} samples); "
                f"choose a super-batch of at most {n} or add data."
            )
        self.n = n
        self.batch = batch
        self.seed = seed
        self.steps_per_epoch = n // batch
        self._cached: tuple[int, Tensor] | None = None

    def indices(self, step: int) -> Tensor:
        """Positions of super-batch `step` (from 0) in the source: `[batch]` int64, all different."""
        if step < 0:
            raise ValueError(f"step must be 0 or more, got {step}")
        epoch, place = divmod(step, self.steps_per_epoch)
        order = self._permutation(epoch)
        return order[place * self.batch : (place + 1) * self.batch].clone()

    def _permutation(self, epoch: int) -> Tensor:
        """The `[n]` int64 permutation of an epoch; the latest one is kept, which is the only state."""
        cached = self._cached
        if cached is None or cached[0] != epoch:
            cached = (epoch, permutation(self.n, f"aced order {self.seed} {epoch}"))
            self._cached = cached
        return cached[1]


def permutation(n: int, words: str) -> Tensor:
    """The `[n]` int64 permutation determined by `words`."""
    digest = hashlib.sha256(words.encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
    return torch.randperm(n, generator=generator)
