"""Who chooses the rows of a step: the contract, the plain draw, and two choosers in turn."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

import torch
from torch import Tensor

from aced.core.embeddings import Embeddings
from aced.core.selection import Score
from aced.data.order import Order, Orders
from aced.data.source import Candidates
from aced.train.scoring.draw import draw
from aced.train.scoring.piece import Piece

if TYPE_CHECKING:
    from aced.train.scoring.scorers import Scorer
    from aced.train.step import Trainer

T = TypeVar("T")


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

    def ahead(self, t: Trainer, coming: Candidates | None) -> None:
        """As in the contract."""
        if self.scorer:
            self.scorer.ahead(t, coming)

    @property
    def looks_ahead(self) -> bool:
        """As in the contract."""
        return self.scorer is not None and self.scorer.looks_ahead

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

    def ahead(self, t: Trainer, coming: Candidates | None) -> None:
        """As in the contract."""
        self.inner.ahead(t, coming)

    @property
    def looks_ahead(self) -> bool:
        """As in the contract."""
        return self.inner.looks_ahead

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


class Alternating(Around):
    """One chooser at every `every`-th step from the first on, and another one, which has no state, between them."""

    def __init__(self, every: int, inner: Chooser, between: Chooser) -> None:
        self.every, self.inner, self.between = every, inner, between

    def at(self, step: int) -> Chooser:
        """The chooser of step number `step`, from 0."""
        return self.inner if step % self.every == 0 else self.between

    def choose(self, t: Trainer, candidates: Candidates) -> Choice:
        """As in the contract."""
        return self.at(t.step).choose(t, candidates)

    def order(self, order: Orders) -> Orders:
        """As in the contract."""
        return _AlternatingOrder(self, order)

    def ahead(self, t: Trainer, coming: Candidates | None) -> None:
        """As in the contract."""
        self.at(t.step + 1).ahead(t, coming)


class _AlternatingOrder(Order):
    """At each step the order of the chooser whose turn it is."""

    def __init__(self, turns: Alternating, order: Orders) -> None:
        super().__init__(order.n, order.batch, order.seed)
        self.steps_per_epoch = order.steps_per_epoch
        self._turns = turns
        self._orders = {id(chooser): chooser.order(order) for chooser in (turns.inner, turns.between)}

    def indices(self, step: int) -> Tensor:
        """As in `Order`."""
        return self._orders[id(self._turns.at(step))].indices(step)

    def epochs(self, step: int) -> Tensor:
        """As in `Order`."""
        return self._orders[id(self._turns.at(step))].epochs(step)


class Peekable(Generic[T], Iterator[T]):
    """An iterator whose next value can be seen before it is taken."""

    def __init__(self, values: Iterator[T]) -> None:
        self._values = values
        self._seen: list[T] = []

    def __next__(self) -> T:
        return self._seen.pop() if self._seen else next(self._values)

    def peek(self) -> T | None:
        """The value that comes next, or None at the end."""
        if not self._seen:
            for value in self._values:
                self._seen.append(value)
                break
        return self._seen[0] if self._seen else None


def look_ahead(t: Trainer, batches: Iterator[Candidates]) -> None:
    """Show the chooser the next step's candidates, where it wants them.

    Raises:
        TypeError: it wants them and `batches` is not `Peekable`.
    """
    if not t.chooser.looks_ahead:
        return
    if not isinstance(batches, Peekable):
        raise TypeError(f"scoring one step ahead needs a Peekable of candidates, not {type(batches).__name__}")
    with t.ledger.timed("load"):
        coming = batches.peek()
    with t.ledger.timed("score"):
        t.chooser.ahead(t, coming)
