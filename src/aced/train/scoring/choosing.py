"""Who chooses the rows of a step: the contract and the plain draw."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from aced.core.embeddings import Embeddings
from aced.core.selection import Score
from aced.data.order import Orders
from aced.data.source import Candidates
from aced.train.scoring.draw import draw
from aced.train.scoring.piece import Piece

if TYPE_CHECKING:
    from aced.train.scoring.scorers import Scorer
    from aced.train.step import Trainer


@dataclass(frozen=True)
class Choice:
    """What a step trains on.

    Attributes:
        rows: `[b]` int64 rows of the candidates (of all processes', one after the other), on the CPU.
        scores: `[B]` scores of single pairs, NaN for candidates that were not scored; None where nothing was.
        reference: the reference's embeddings of this process's candidates, where they were looked up.
    """

    rows: Tensor
    scores: Tensor | None = None
    reference: Embeddings | None = None


class Chooser(Piece):
    """Chooses the rows of each step."""

    def choose(self, t: Trainer, candidates: Candidates) -> Choice:
        """The rows to train on at step `t.step`, counted and timed in the ledger.

        Args:
            t: the trainer.
            candidates: this process's; the others' are with them, and the rows are of all.
        """
        raise NotImplementedError

    def order(self, order: Orders) -> Orders:
        """The order in which candidates are loaded; another one where the choice begins before loading."""
        return order


class InOrder(Chooser):
    """The first b candidates: an i.i.d. batch, or what a sieve before loading has left."""

    def choose(self, t: Trainer, candidates: Candidates) -> Choice:
        """As in the contract."""
        return Choice(torch.arange(t.world.total(len(candidates)))[: t.settings.batch])


class Drawn(Chooser):
    """Draws the batch by a score from all candidates.

    Args:
        score: the score of the draw.
        scorer: gives the student's embeddings; None for a score without the student.
    """

    def __init__(self, score: Score, scorer: Scorer | None) -> None:
        self.score: Score = score
        self.scorer = scorer

    def choose(self, t: Trainer, candidates: Candidates) -> Choice:
        """As in the contract."""
        with t.ledger.timed("score"):
            reference = t.reference.embed(candidates, t.ledger, "reference") if t.reference else None
        return self.among(t, candidates, reference)

    def among(self, t: Trainer, candidates: Candidates, reference: Embeddings | None) -> Choice:
        """The choice among candidates whose reference embeddings are known."""
        with t.ledger.timed("score"):
            student = self.scorer.embed(t, candidates) if self.scorer else None
        with t.ledger.timed("select"):
            chosen = draw(t, self.score, t.settings.batch, student, reference, t.generator)
        return Choice(chosen.indices.cpu(), chosen.scores.cpu(), reference)

    def trained(self, t: Trainer, positions: Tensor, embedded: Embeddings) -> None:
        """As in the contract."""
        if self.scorer:
            self.scorer.trained(t, positions, embedded)

    def keep(self) -> None:
        """As in the contract."""
        if self.scorer:
            self.scorer.keep()

    def back(self) -> None:
        """As in the contract."""
        if self.scorer:
            self.scorer.back()

    def tensors(self) -> dict[str, Tensor]:
        """As in the contract."""
        return self.scorer.tensors() if self.scorer else {}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """As in the contract."""
        if self.scorer:
            self.scorer.load(tensors)


class Around(Chooser):
    """A chooser around another one, which it passes on what it does not do itself."""

    inner: Chooser

    def order(self, order: Orders) -> Orders:
        """As in the contract."""
        return self.inner.order(order)

    def trained(self, t: Trainer, positions: Tensor, embedded: Embeddings) -> None:
        """As in the contract."""
        self.inner.trained(t, positions, embedded)

    def keep(self) -> None:
        """As in the contract."""
        self.inner.keep()

    def back(self) -> None:
        """As in the contract."""
        self.inner.back()

    def tensors(self) -> dict[str, Tensor]:
        """As in the contract."""
        return self.inner.tensors()

    def load(self, tensors: dict[str, Tensor]) -> None:
        """As in the contract."""
        self.inner.load(tensors)
