"""The joint cascade: the reference keeps the easier share of a super-batch, and the student scores only that."""

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
    """Keeps the part of a super-batch that the reference alone would select, drawn jointly, which removes duplicates.

    Its draws depend only on (seed, step): the same rows result before or after loading. Several processes draw
    together, each from the candidates whose embeddings it has, according to `method.scope`.

    Args:
        size: number of candidates kept.
        settings: chunks, temperature, loss and scope of the draw.
        method: its strategy, and its score if that uses the reference alone; otherwise easy-reference.
        seed: of the draws.
        world: the processes.
    """

    def __init__(self, size: int, settings: StepSettings, method: Method, seed: int, world: World) -> None:
        self.size, self.settings, self.method, self.seed, self.world = size, settings, method, seed, world
        self.score = method.score_of_reference

    def keep(self, reference: Embeddings, step: int, counts: Sequence[int]) -> Tensor:
        """`[m]` int64 rows, among all processes' candidates, that are kept at step number `step` (from 0).

        They ascend and are on the embeddings' device. `reference` has the embeddings of this process's own candidates,
        and `counts` the number of candidates of every process.
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
        """Count this process's FLOPs in one draw, with `own` of the `whole` number of candidates."""
        size = min(self.size, whole)
        count_draw(ledger, self.settings, self.method, self.world, (own, whole), size, [width])
