"""A bank of cached embeddings, read once per epoch and kept on the device, so that steps open no files.

Which pairs it holds depends only on (seed, epoch), so all processes and resumed runs hold the same. A pool that fits is
held whole. From a larger one it holds a sample without repetition, from 64 tars drawn anew in each epoch, or from more
if 64 hold too few: a sample over the whole pool would open them all.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from aced.pool.orders.streams import starts_of
from aced.runtime.devices import sent
from aced.train.draws import generator_of
from aced.train.providers import Cached

TARS = 64
"""Number of tars that a bank is drawn from, if they suffice."""


def bank_positions(sizes: Sequence[int], count: int, generator: torch.Generator) -> Tensor:
    """`[count]` int64 positions in ascending order, without repetition; all of them if there are no more.

    Args:
        sizes: pairs of each tar.
        count: number of pairs.
        generator: of the draw.
    """
    each = np.asarray(sizes, dtype=np.int64)
    if (n := int(each.sum())) <= count:
        return torch.arange(n)
    order = torch.randperm(len(each), generator=generator).numpy()
    ends = each[order].cumsum()
    tars = max(min(TARS, len(each)), int(np.searchsorted(ends, count)) + 1)
    order, ends = order[:tars], ends[:tars]
    drawn = torch.randperm(int(ends[-1]), generator=generator)[:count].numpy()
    tar = np.searchsorted(ends, drawn, side="right")
    places = starts_of(each)[order[tar]] + drawn - starts_of(each[order])[tar]
    return torch.from_numpy(places).sort().values


class Bank:
    """The embeddings of some pairs by one teacher, on the device that trains: count x 2 x d x 4 bytes.

    Args:
        teacher: the teacher.
        count: maximum number of pairs.
        seed: of the run.
    """

    def __init__(self, teacher: Cached, count: int, seed: int) -> None:
        self._teacher, self._count, self._seed = teacher, count, seed
        self._epoch = -1
        self._rows = torch.empty(0)
        self._valid = torch.empty(0, dtype=torch.bool)

    def __len__(self) -> int:
        return min(len(self._teacher.store), self._count)

    def read(self, epoch: int) -> None:
        """Hold the pairs of an epoch; reads them unless they are there.

        Raises:
            AcedError: a side-car can no longer be read.
        """
        whole = len(self) == len(self._teacher.store)
        if epoch == self._epoch or (whole and self._epoch >= 0):
            return
        store = self._teacher.store
        positions = bank_positions(store.part_sizes, len(self), generator_of("bank", self._seed, epoch))
        with store.lent() as lent:
            found, self._valid = lent.found(positions)
        rows = torch.stack([found.image, found.text], 1)
        self._rows, self._epoch = rows.to(self._teacher.device), epoch

    def of(self, drawn: Tensor) -> Tensor:
        """`[m, 2, d]` of the rows `[m]` of the bank, on the device; those without an embedding are left out."""
        return self._rows.index_select(0, sent(drawn[self._valid[drawn]], self._rows.device))
