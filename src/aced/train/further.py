"""Further pairs for distillation: the teachers' cached embeddings of others than the batch, drawn anew at each step."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from aced.core.columns import column_flops
from aced.core.embeddings import Embeddings
from aced.errors import AcedError
from aced.runs.ledger import Ledger
from aced.train.bank import Bank
from aced.train.draws import generator_of
from aced.train.providers import Cached, Provider


class FurtherPairs:
    """Draws pairs from a bank of the teachers' embeddings.

    Which pairs follows from (seed, step) alone, so that every process has the same and a resumed run has them again.

    Args:
        teachers: whose embeddings; each must come from a cache.
        count: m, how many pairs; fewer come back where some of those drawn have no embedding.
        seed: of the draws.
        held: pairs that a bank holds at most.
        batch: B, the pairs of a step; when as many have been loaded as the pool has, the banks are read anew.

    Raises:
        AcedError: a teacher's embeddings are not cached.
    """

    def __init__(self, teachers: Sequence[Provider], count: int, seed: int, *, held: int, batch: int) -> None:
        self._teachers = [teacher for teacher in teachers if isinstance(teacher, Cached)]
        if len(self._teachers) < len(teachers):
            raise AcedError(
                f"Distillation against {count} columns takes the teacher's embeddings of pairs that are not loaded and "
                "so needs them cached: set reference.cache (or teacher.cache), or method.columns=0."
            )
        self.count, self.seed, self._batch = count, seed, batch
        self._banks = [Bank(teacher, held, seed) for teacher in self._teachers]

    def read(self, step: int) -> None:
        """Read what the steps of the epoch of `step`, from 0, draw from, unless it is there.

        Raises:
            AcedError: a side-car that was there cannot be read any more.
        """
        for teacher, bank in zip(self._teachers, self._banks, strict=True):
            bank.read(step // max(1, len(teacher.store) // self._batch))

    def of(self, step: int, pairs: float, ledger: Ledger, share: float = 1.0) -> list[Embeddings]:
        """Each teacher's embeddings `[m, D]` of the pairs of a step, which was `read`.

        Args:
            step: its number, from 0.
            pairs: this process's part of the pairs that are compared with them, for the ledger.
            ledger: where FLOPs are counted.
            share: of this process in looking the pairs up, which every process does alike.
        """
        found = []
        for teacher, bank in zip(self._teachers, self._banks, strict=True):
            generator = generator_of("columns", self.seed, step)
            rows = bank.of(torch.randint(len(bank), (self.count,), generator=generator))
            ledger.cached_flops += share * len(rows) * teacher.forward_flops
            ledger.flops["teacher"] += column_flops(pairs, len(rows), teacher.width)
            found.append(teacher.rows.embeddings(rows))
        return found
