"""A store of cached embeddings as a column of a batch."""

from __future__ import annotations

import torch
from torch import Tensor

from aced.cache.store import Store
from aced.core.embeddings import Embeddings
from aced.pool.source import Candidates, Column


class StoredRows(Column):
    """The cached embeddings of each pair, `[B, 2, d]` float32: its image, in the crop that was read, and its text.

    A pair that could not be read when the cache was made has none, and is left out of the batch.

    Args:
        store: where they are looked up.
    """

    def __init__(self, store: Store) -> None:
        super().__init__(f"embeddings {store.name}", torch.float32, (2, store.info.d))
        self._store = store

    def load(self, candidates: Candidates) -> Tensor:
        """As in `Column`.

        Raises:
            AcedError: a pair has none; or a side-car can no longer be read.
        """
        found = self._store.lookup(candidates.indices.cpu(), candidates.crops)
        return torch.stack([found.image, found.text], 1)

    def valid(self, candidates: Candidates) -> Tensor:
        """As in `Column`."""
        return self._store.valid(candidates.indices)

    def embeddings(self, rows: Tensor) -> Embeddings:
        """`[B, 2, d]` values as embeddings."""
        image, text = (side.contiguous() for side in rows.unbind(1))
        return Embeddings(image, text, scale=self._store.info.scale, bias=self._store.info.bias)
