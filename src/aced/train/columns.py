"""Further pairs for distillation: the teachers' cached embeddings of others than the batch, drawn anew at each step."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from aced.core.columns import column_flops
from aced.core.embeddings import Embeddings
from aced.core.ledger import Ledger
from aced.errors import AcedError
from aced.train.draws import generator_of
from aced.train.providers import Cached, Provider


class Columns:
    """Draws pairs of the pool and looks the teachers' embeddings of them up.

    Which pairs follows from (seed, step) alone, so that every process has the same and a resumed run has them again.

    Args:
        teachers: whose embeddings; each must come from a cache.
        count: m, how many pairs; fewer come back where some of those drawn have no embedding.
        seed: of the draws.

    Raises:
        AcedError: a teacher's embeddings are not cached.
    """

    def __init__(self, teachers: Sequence[Provider], count: int, seed: int) -> None:
        self.stores = [teacher for teacher in teachers if isinstance(teacher, Cached)]
        if len(self.stores) < len(teachers):
            raise AcedError(
                f"Distillation against {count} columns takes the teacher's embeddings of pairs that are not loaded and "
                "so needs them cached: set reference.cache (or teacher.cache), or method.columns=0."
            )
        self.count, self.seed = count, seed

    def at(self, step: int, pairs: float, ledger: Ledger, share: float = 1.0) -> list[Embeddings]:
        """Each teacher's embeddings `[m, D]` of the pairs of step number `step`.

        Args:
            step: from 0.
            pairs: this process's part of the pairs that are compared with them, for the ledger.
            ledger: where FLOPs are counted.
            share: of this process in looking the columns up, which every process does alike.
        """
        found = []
        for teacher in self.stores:
            rows = torch.randint(len(teacher.store), (self.count,), generator=generator_of("columns", self.seed, step))
            rows = rows[teacher.store.valid(rows)]
            ledger.cached_flops += share * len(rows) * teacher.forward_flops
            ledger.flops["teacher"] += column_flops(pairs, len(rows), teacher.width)
            found.append(teacher.store.lookup(rows).to(teacher.device))
        return found
