"""Sources of a frozen model's embeddings: a cache on disk, or the model itself.

The step cannot tell the difference; only the ledger can.
"""

from __future__ import annotations

from typing import Protocol

import torch

from aced.cache.store import Store
from aced.cache.stored import StoredRows
from aced.core.embeddings import Embeddings
from aced.models import Tower
from aced.pool.source import Candidates, Column
from aced.pool.views import View
from aced.runs.ledger import FlopPhase, Ledger
from aced.runtime.devices import sent
from aced.runtime.precision import Precision, autocast


class Provider(Protocol):
    """Returns a frozen model's embeddings of candidates and counts their cost.

    Attributes:
        width: d of the embeddings.
        views: views that the candidates must have; none for a cache.
        columns: columns that they should have; otherwise these are loaded on demand.
        fingerprint: hash of the model's weights, preprocessing and tokenizer.
        architecture: hash of its computation beyond the weights; empty if a cache does not record it.
    """

    width: int
    views: tuple[View, ...]
    columns: tuple[Column, ...]
    fingerprint: str
    architecture: str

    def embed(self, candidates: Candidates, ledger: Ledger, phase: FlopPhase) -> Embeddings:
        """`[B, d]` float32 on the training device, in the order of the candidates."""
        ...


class Cached:
    """Embeddings from a store; they cost no forward pass, and the ledger records the FLOPs saved."""

    def __init__(self, store: Store, device: torch.device, forward_flops: float) -> None:
        self.store, self.device, self.forward_flops = store, device, forward_flops
        self.width = store.info.d
        self.views: tuple[View, ...] = ()
        self.rows = StoredRows(store)
        self.columns: tuple[Column, ...] = (self.rows,)
        identity = store.info.identity
        # Older side-cars have one hash for the rest.
        self.fingerprint = identity.get("contents", identity["tower"])
        self.architecture = identity.get("architecture", "")

    def embed(self, candidates: Candidates, ledger: Ledger, phase: FlopPhase) -> Embeddings:
        """The columns that were loaded with the candidates."""
        ledger.cached_flops += len(candidates) * self.forward_flops
        return self.looked_up(candidates)

    def looked_up(self, candidates: Candidates) -> Embeddings:
        """As `embed`, without counting."""
        return self.rows.embeddings(sent(candidates.column(self.rows), self.device))


class Live:
    """The model itself, in the student's precision."""

    def __init__(self, tower: Tower, micro_batch: int, precision: Precision = "fp32") -> None:
        self.tower, self.micro_batch, self.precision = tower, micro_batch, precision
        self.width = tower.width
        self.views: tuple[View, ...] = (tower.view,)
        self.columns: tuple[Column, ...] = (tower.ids,)
        identity = tower.identity()
        self.fingerprint, self.architecture = identity["contents"], identity["architecture"]

    def embed(self, candidates: Candidates, ledger: Ledger, phase: FlopPhase) -> Embeddings:
        """Embed the candidates."""
        ledger.forward(phase, len(candidates), self.tower.batch_flops(candidates))
        with autocast(self.tower.device, self.precision):
            return self.tower.score(candidates, self.micro_batch)
