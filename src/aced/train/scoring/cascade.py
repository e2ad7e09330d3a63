"""The joint cascade: the reference keeps the easier share of a super-batch, and only that is scored by the student."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from aced.core.embeddings import Embeddings
from aced.core.ledger import Ledger
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

    def keep(self, reference: Embeddings, step: int, counts: Sequence[int]) -> Tensor:
        """`[m]` int64 rows of all processes' candidates that are kept at step number `step` (from 0).

        They ascend and are on the CPU; `reference` has the embeddings of this process's own candidates, and `counts`
        says how many every process has.
        """
        size = min(self.size, sum(counts))
        if size == 0:
            return torch.empty(0, dtype=torch.int64)
        generator = generator_of("sieve", self.seed, step)
        chosen = draw_with(self.settings, self.method, self.score, size, None, reference, generator, self.world, counts)
        return chosen.indices.cpu().sort().values

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
            kept = self.sieve.keep(reference, t.step, counts)
            self.sieve.count(t.ledger, len(candidates), sum(counts), t.reference.width)
            mine = own_rows(kept, counts, t.world.rank)
        left = [len(own_rows(kept, counts, rank)) for rank in range(t.world.size)]
        choice = self.drawn.among(t, candidates[mine], reference[mine.to(reference.device)], left)
        scores = torch.full((sum(counts),), torch.nan)
        if choice.scores is not None:
            scores[kept] = choice.scores
        return Choice(kept[choice.rows], scores, reference)
