"""A filter on the pool, once before training: the pairs that the reference finds matching; then random batches.

Source: DataComp's CLIP filter (arXiv 2304.14108) and data filtering networks (arXiv 2309.17425).
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from aced.cache.store import Store
from aced.core.quotas import apportioned
from aced.errors import AcedError
from aced.pool.orders.order import Order, Orders
from aced.runs.ledger import Ledger
from aced.train.providers import Cached, Provider

FILTERED = "the choice of the filter"
"""What a checkpoint calls the mark of the pairs that were kept."""
_AT_ONCE = 1 << 16
"""Number of pairs looked up at once."""


def check_filter(*, cached: bool, whole: bool) -> None:
    """Refuse what no filter can work with, before anything is embedded.

    Args:
        cached: whether the reference's embeddings are, or will be, cached.
        whole: whether the order of the run is one of single pairs.

    Raises:
        AcedError: one of them is not so.
    """
    if not cached:
        raise AcedError(
            "A filter compares image and text of every pair of the pool before training, so it needs the reference's "
            "cached embeddings: set reference.cache."
        )
    if not whole:
        raise AcedError(
            "A filter keeps single pairs, but data.locality and data.weights order whole tars or sources: set "
            "data.locality=0 and leave out data.weights."
        )


def fingerprint_of_rows(rows: Tensor) -> str:
    """A hash of `[m]` int64 positions."""
    return hashlib.sha256(rows.numpy().tobytes()).hexdigest()


def similarities(store: Store) -> Tensor:
    """`[n]` float32 similarity x.y of each pair's image and text; minus infinity for a pair without embeddings.

    Raises:
        AcedError: a side-car can no longer be read.
    """
    parts = []
    with store.lent() as lent:
        for positions in torch.arange(len(store)).split(_AT_ONCE):
            found, valid = lent.found(positions)
            parts.append((found.image * found.text).sum(1).masked_fill(~valid, -torch.inf))
    return torch.cat(parts) if parts else torch.empty(0)


def kept_pairs(scores: Tensor, thrown: float, ends: Tensor | None = None) -> Tensor:
    """`[m]` int64 positions, ascending, of the pairs with the largest scores; ties go to the first.

    Args:
        scores: `[n]`; minus infinity for pairs that are never kept.
        thrown: the share of the others that is discarded.
        ends: `[k]` the position after each source's last pair: each keeps its share, by a threshold of its own. None:
            one threshold for all.
    """
    starts = [0] if ends is None else [0, *ends[:-1].tolist()]
    parts = scores.tensor_split(starts[1:])
    usable = [int((part > -torch.inf).sum()) for part in parts]
    kept = apportioned(round((1 - thrown) * sum(usable)), usable)
    best = [part.argsort(descending=True, stable=True)[:count] for part, count in zip(parts, kept, strict=True)]
    return torch.cat([start + rows.sort().values for start, rows in zip(starts, best, strict=True)])


def filtered(reference: Provider | None, thrown: float, ledger: Ledger, ends: Tensor | None = None) -> Tensor:
    """The positions that a run with a filter trains on, counted and timed in its ledger.

    Args:
        reference: with cached embeddings of the pool.
        thrown, ends: as in `kept_pairs`.
        ledger: of the run.

    Raises:
        AcedError: the reference's embeddings are not cached, or a side-car can no longer be read.
    """
    check_filter(cached=isinstance(reference, Cached), whole=True)
    assert isinstance(reference, Cached)
    with ledger.timed("select"):
        kept = kept_pairs(similarities(reference.store), thrown, ends)
    ledger.cached_flops += len(reference.store) * reference.forward_flops
    return kept


class FilteredOrder(Orders):
    """Super-batches of the kept pairs only: epochs are permutations of them.

    Args:
        order: of the whole pool.
        kept: `[m]` ascending positions.

    Raises:
        AcedError: the order is not one of single pairs, or fewer pairs were kept than a batch has.
    """

    def __init__(self, order: Orders, kept: Tensor) -> None:
        check_filter(cached=True, whole=isinstance(order, Order))
        if len(kept) < order.batch:
            raise AcedError(
                f"The filter keeps {len(kept)} of {order.n} pairs, less than a batch of {order.batch}: lower "
                "method.filtering_ratio."
            )
        self._kept, self._order = kept, Order(len(kept), order.batch, order.seed)
        self.n, self.batch, self.seed = order.n, order.batch, order.seed
        self.steps_per_epoch = self._order.steps_per_epoch

    def indices(self, step: int) -> Tensor:
        """As in `Orders`: positions in the whole pool."""
        return self._kept[self._order.indices(step)]
