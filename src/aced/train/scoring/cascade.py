"""The joint cascade: the reference keeps the easier share of a super-batch, and only that is scored by the student."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from aced.core.embeddings import Embeddings
from aced.core.ledger import Ledger
from aced.core.selection_many import reference_joint_many
from aced.data.source import Candidates
from aced.train.distributed import World
from aced.train.draws import generator_of
from aced.train.scoring.choosing import Around, Choice, Drawn
from aced.train.scoring.draw import count_draw, draw_with
from aced.train.scoring.piece import own_rows

if TYPE_CHECKING:
    from aced.methods import Method
    from aced.train.step import Settings, Trainer


class Sieve:
    """Keeps the part of a super-batch that the reference would choose alone, drawn jointly, so that it de-duplicates.

    Its draws follow from (seed, step) alone: the same rows come out whether it works before or after loading. Several
    processes draw together, each from the candidates whose embeddings it has, as `method.scope` says.

    Args:
        size: how many are kept.
        settings: chunks, temperature, loss and scope of the draw.
        method: its strategy, and its score where that asks the reference alone; easy-reference otherwise.
        seed: of the draws.
        world: the processes.
    """

    def __init__(self, size: int, settings: Settings, method: Method, seed: int, world: World) -> None:
        self.size, self.settings, self.method, self.seed, self.world = size, settings, method, seed, world
        self.score = method.score_of_reference

    def keep(self, reference: Embeddings, step: int) -> Tensor:
        """`[m]` int64 rows of all processes' candidates that are kept at step number `step` (from 0).

        They ascend and are on the CPU; `reference` has the embeddings of this process's own candidates.
        """
        return self.keep_each(reference, [len(reference)], step)[0]

    def keep_each(self, reference: Embeddings, counts: list[int], first: int) -> list[Tensor]:
        """As `keep` for the super-batches of the steps from `first` on, which lie in `reference` one after the other.

        Args:
            reference: their embeddings, those of this process.
            counts: the number of candidates of each.
            first: the first step.
        """
        generators = [generator_of("sieve", self.seed, first + i) for i in range(len(counts))]
        alike = self.method.strategy == "joint" and self.settings.loss == "sigmoid" and self.world.size == 1
        if alike and min(counts) >= self.size and reference.device.type == "cpu":
            found = reference_joint_many(
                reference,
                counts,
                self.size,
                score=self.score,
                chunks=self.settings.chunks,
                temperature=self.settings.temperature,
                generators=generators,
            )
        else:
            ends = torch.tensor(counts).cumsum(0).tolist()
            found = [self._draw(reference[e - n : e], g) for n, e, g in zip(counts, ends, generators, strict=True)]
        return [rows.sort().values for rows in found]

    def _draw(self, reference: Embeddings, generator: torch.Generator) -> Tensor:
        size = min(self.size, self.world.total(len(reference)))
        if size == 0:
            return torch.empty(0, dtype=torch.int64)
        chosen = draw_with(self.settings, self.method, self.score, size, None, reference, generator, self.world)
        return chosen.indices.cpu()

    def count(self, ledger: Ledger, own: int, whole: int, width: int) -> None:
        """Count this process's FLOPs in one draw, with `own` candidates of the `whole` number."""
        size = min(self.size, whole)
        count_draw(ledger, self.settings, self.method, self.world, (own, whole), size, [width])


class Cascaded(Around):
    """The sieve, then another draw among what it kept; the student scores no more than that."""

    def __init__(self, sieve: Sieve, inner: Drawn) -> None:
        self.sieve, self.inner, self.drawn = sieve, inner, inner

    def choose(self, t: Trainer, candidates: Candidates) -> Choice:
        """As in the contract; scores are those of the inner draw, NaN for what the sieve dropped."""
        assert t.reference is not None
        with t.ledger.timed("score"):
            reference = t.reference.embed(candidates, t.ledger, "reference")
        with t.ledger.timed("select"):
            counts = t.world.counts(len(candidates))
            kept = self.sieve.keep(reference, t.step)
            self.sieve.count(t.ledger, len(candidates), sum(counts), t.reference.width)
            mine = own_rows(kept, counts, t.world.rank)
        choice = self.drawn.among(t, candidates[mine], reference[mine.to(reference.device)])
        scores = torch.full((sum(counts),), torch.nan)
        if choice.scores is not None:
            scores[kept] = choice.scores
        return Choice(kept[choice.rows], scores, reference)
