"""The joint cascade: the reference keeps the easier share of a super-batch, and only that is scored by the student."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from aced.core import selection
from aced.core.embeddings import Embeddings
from aced.methods import Method
from aced.runs.ledger import Ledger
from aced.train.distributed import World
from aced.train.draws import generator_of
from aced.train.scoring.draw import count_draw, draw_words
from aced.train.settings import StepSettings


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

    def __init__(self, size: int, settings: StepSettings, method: Method, seed: int, world: World) -> None:
        self.size, self.settings, self.method, self.seed, self.world = size, settings, method, seed, world
        self.score = method.score_of_reference

    def keep(self, reference: Embeddings, step: int, counts: Sequence[int]) -> Tensor:
        """`[m]` int64 rows of all processes' candidates that are kept at step number `step` (from 0).

        They ascend and are where the embeddings are; `reference` has the embeddings of this process's own candidates,
        and `counts` says how many every process has.
        """
        size = min(self.size, sum(counts))
        if size == 0:
            return torch.empty(0, dtype=torch.int64, device=reference.device)
        generator = generator_of("sieve", self.seed, step)
        chosen = selection.draw(
            *(None, reference, size, self.world, counts),
            scope=self.settings.scope,
            generator=generator,
            **draw_words(self.settings, self.method, self.score),
        )
        return chosen.indices.sort().values

    def count(self, ledger: Ledger, own: int, whole: int, width: int) -> None:
        """Count this process's FLOPs in one draw, with `own` candidates of the `whole` number."""
        size = min(self.size, whole)
        count_draw(ledger, self.settings, self.method, self.world, (own, whole), size, [width])
