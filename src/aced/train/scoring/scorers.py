"""The student's embeddings of candidates: at full or lower resolution, now or one step stale."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from aced.core.embeddings import Embeddings
from aced.data.source import Candidates
from aced.towers import Tower
from aced.towers.coarse import Resized
from aced.train.distributed import World
from aced.train.replica import autocast
from aced.train.scoring.piece import Piece

if TYPE_CHECKING:
    from aced.train.step import Trainer


class Scorer(Piece):
    """Embeds candidates by the student, in evaluation mode, without gradient and in micro-batches.

    Attributes:
        lag: how many steps older than the student the weights are that it embeds with.
    """

    lag = 0

    def embed(self, t: Trainer, candidates: Candidates) -> Embeddings:
        """`[B, d]` embeddings of the candidates with the student's present scale and bias, counted in the ledger."""
        raise NotImplementedError


class Direct(Scorer):
    """The student itself.

    Args:
        side: side in pixels to which images are reduced; None for the student's own.
    """

    def __init__(self, side: int | None = None) -> None:
        self.side = side

    def embed(self, t: Trainer, candidates: Candidates) -> Embeddings:
        """As in the contract."""
        t.ledger.forward("scoring", len(candidates), self.flops(t, candidates))
        return self.embed_with(t.student, t, candidates)

    def flops(self, t: Trainer, candidates: Candidates) -> float:
        """Of one forward pass, for each candidate."""
        return t.student.batch_flops(candidates, self.side)

    def embed_with(self, tower: Tower, t: Trainer, candidates: Candidates) -> Embeddings:
        """Embeddings by a copy of the student, float32."""
        resized = Resized(tower, self.side) if self.side else tower
        with autocast(tower.device, t.settings.precision):
            embedded = resized.score(candidates, t.settings.micro_batch)
        # Whatever the towers ran in: what training gives is float32 too, and so is the embedding of nothing.
        return replace(embedded, image=embedded.image.float(), text=embedded.text.float())


@dataclass
class _Pending:
    """Embeddings that were or are being made for the next step.

    Attributes:
        indices: `[m]` positions in the source, ascending; in a resumed run those of all processes.
        flops: what they cost in all, this process's part.
        work: gives image and text, `[m, d]`.
    """

    indices: Tensor
    flops: float
    work: Future[tuple[Tensor, Tensor]]


class Stale(Scorer):
    """Scores the candidates of the next step while this one trains, with the weights from before its update.

    The scores of step s use the weights that step s - 1 began with, whenever and wherever they are computed; those of
    the first step use the initial weights. Each process embeds its own candidates; the background exchanges nothing.

    Args:
        inner: embeds.
        world: the processes.
        device: where; None for the training device, in a background thread.
    """

    lag = 1

    def __init__(self, inner: Direct, world: World, device: torch.device | None = None) -> None:
        self.inner, self.world, self.device = inner, world, device
        self._copy: Tower | None = None
        self._pending: _Pending | None = None
        self._kept: _Pending | None = None
        self._thread = ThreadPoolExecutor(1, "aced-scoring")

    @property
    def looks_ahead(self) -> bool:
        """As in the contract."""
        return True

    def ahead(self, t: Trainer, coming: Candidates | None) -> None:
        """As in the contract: begins to embed `coming` in the background."""
        self._pending = None
        if coming is None:
            return
        order = coming.indices.argsort()
        coming, tower = coming[order], self._current(t)
        flops = len(coming) * self.inner.flops(t, coming)
        home = t.student.device

        def work() -> tuple[Tensor, Tensor]:
            embedded = self.inner.embed_with(tower, t, coming)
            return embedded.image.to(home), embedded.text.to(home)

        self._pending = _Pending(coming.indices, flops, self._thread.submit(work))

    def embed(self, t: Trainer, candidates: Candidates) -> Embeddings:
        """As in the contract.

        Raises:
            RuntimeError: other candidates were announced than are asked for.
        """
        if self._pending is None:
            return self.inner.embed(t, candidates)
        pending, self._pending = self._pending, None
        place = torch.searchsorted(pending.indices, candidates.indices).clamp(max=max(0, len(pending.indices) - 1))
        if len(candidates) and not (len(pending.indices) and torch.equal(pending.indices[place], candidates.indices)):
            raise RuntimeError("other candidates were scored ahead than this step has")
        image, text = pending.work.result()
        t.ledger.flops["scoring"] += pending.flops
        scale, bias = t.student.scale_and_bias()
        place = place.to(image.device)
        return Embeddings(image[place], text[place], scale, bias).detach()

    def keep(self) -> None:
        """As in the contract."""
        self._kept = self._pending

    def back(self) -> None:
        """As in the contract."""
        self._pending = self._kept

    def tensors(self) -> dict[str, Tensor]:
        """As in the contract; waits for what is being embedded."""
        if self._pending is None:
            return {}
        world, indices, (image, text) = self.world, self._pending.indices, self._pending.work.result()
        counts = world.counts(len(indices))
        flops = world.gather(torch.tensor([self._pending.flops], dtype=torch.float64), [1] * world.size)
        indices, image, text = (world.gather(part, counts) for part in (indices, image, text))
        order = indices.argsort()
        there = order.to(image.device)
        named = {"indices": indices[order], "flops": flops, "image": image[there], "text": text[there]}
        return {f"ahead.{name}": value for name, value in named.items()}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """As in the contract."""
        self._pending = None
        if "ahead.indices" in tensors:
            work: Future[tuple[Tensor, Tensor]] = Future()
            work.set_result((tensors["ahead.image"], tensors["ahead.text"]))
            flops = tensors["ahead.flops"].reshape(-1)[self.world.rank :: self.world.size].sum()
            self._pending = _Pending(tensors["ahead.indices"], float(flops), work)

    def _current(self, t: Trainer) -> Tower:
        """A copy of the student that training does not touch, with its present weights."""
        self._copy = t.replica.snapshot(self._copy).to(self.device or t.student.device)
        return self._copy
