"""Where the embeddings of a frozen model come from: a cache on disk, or the model itself.

The step cannot tell which; only the ledger can.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from aced.core.embeddings import Embeddings
from aced.core.ledger import FlopPhase, Ledger
from aced.data.source import Candidates
from aced.data.store import Store
from aced.data.views import View
from aced.precision import Precision, autocast
from aced.towers import Tower


class Provider(Protocol):
    """Gives a frozen model's embeddings of candidates and counts what they cost.

    Attributes:
        width: d of the embeddings.
        views: what the candidates must have been read in; none for a cache.
        fingerprint: hash of the model's weights, preprocessing and tokenizer.
        architecture: hash of what it computes beyond its weights; empty where a cache does not say.
    """

    width: int
    views: tuple[View, ...]
    fingerprint: str
    architecture: str

    def embed(self, candidates: Candidates, ledger: Ledger, phase: FlopPhase) -> Embeddings:
        """`[B, d]` float32 on the training device, in the order of the candidates."""
        ...

    def valid(self, indices: Tensor) -> Tensor:
        """`[B]` bool: which samples have embeddings."""
        ...


class Cached:
    """Embeddings from a store; they cost no forward pass, and the ledger notes what they would have cost."""

    def __init__(self, store: Store, device: torch.device, forward_flops: float) -> None:
        self.store, self.device, self.forward_flops = store, device, forward_flops
        self.width = store.info.d
        self.views: tuple[View, ...] = ()
        identity = store.info.identity
        # Side-cars of before the architecture was noted have one hash for the rest.
        self.fingerprint = identity.get("contents", identity["tower"])
        self.architecture = identity.get("architecture", "")

    def embed(self, candidates: Candidates, ledger: Ledger, phase: FlopPhase) -> Embeddings:
        """Look the candidates up by sample key."""
        ledger.cached_flops += len(candidates) * self.forward_flops
        return self.store.lookup(candidates.indices, candidates.crops).to(self.device)

    def valid(self, indices: Tensor) -> Tensor:
        """Samples that could be read when the store was made."""
        return self.store.valid(indices)


class Live:
    """The model itself, in the precision that the student runs in."""

    def __init__(self, tower: Tower, micro_batch: int, precision: Precision = "fp32") -> None:
        self.tower, self.micro_batch, self.precision = tower, micro_batch, precision
        self.width = tower.width
        self.views: tuple[View, ...] = (tower.view,)
        identity = tower.identity()
        self.fingerprint, self.architecture = identity["contents"], identity["architecture"]

    def embed(self, candidates: Candidates, ledger: Ledger, phase: FlopPhase) -> Embeddings:
        """Embed the candidates."""
        ledger.forward(phase, len(candidates), self.tower.forward_flops(candidates.texts))
        with autocast(self.tower.device, self.precision):
            return self.tower.score(candidates, self.micro_batch)

    def valid(self, indices: Tensor) -> Tensor:
        """Every sample that could be read."""
        return torch.ones(len(indices), dtype=torch.bool)
