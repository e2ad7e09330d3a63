"""The student's embeddings of candidates, at full or lower resolution."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from aced.core.embeddings import Embeddings
from aced.data.source import Candidates
from aced.precision import autocast
from aced.towers.coarse import Resized
from aced.train.scoring.piece import Piece

if TYPE_CHECKING:
    from aced.train.step import Trainer


class Scorer(Piece):
    """Embeds candidates by the student, in evaluation mode, without gradient and in micro-batches."""

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
        t.ledger.forward("scoring", len(candidates), t.student.batch_flops(candidates, self.side))
        resized = Resized(t.student, self.side) if self.side else t.student
        with autocast(t.student.device, t.settings.precision):
            embedded = resized.score(candidates, t.settings.micro_batch)
        # Whatever the towers ran in: what training gives is float32 too, and so is the embedding of nothing.
        return replace(embedded, image=embedded.image.float(), text=embedded.text.float())
