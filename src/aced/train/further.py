"""Further pairs for distillation: the teachers' cached embeddings of pairs outside the batch, drawn at each step."""

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

    The pairs depend only on (seed, step), so all processes and resumed runs draw the same.

    Args:
        teachers: the teachers; the embeddings of each must come from a cache.
        count: m, number of pairs; fewer are returned if some of those drawn have no embedding.
        seed: of the draws.
        held: maximum number of pairs in a bank.
        batch: B, the pairs of a step; once as many have been loaded as the pool has, the banks are read anew.

    Raises:
        AcedError: a teacher's embeddings are not cached.
    """

    def __init__(self, teachers: Sequence[Provider], count: int, seed: int, *, held: int, batch: int) -> None:
        self._teachers = [teacher for teacher in teachers if isinstance(teacher, Cached)]
        if len(self._teachers) < len(teachers):
            raise AcedError(
                f"Distillation against {count} columns uses the teacher's embeddings of pairs that are not loaded, "
                "so it needs a cache: set reference.cache (or teacher.cache), or method.columns=0."
            )
        self.count, self.seed, self._batch = count, seed, batch
        self._banks = [Bank(teacher, held, seed) for teacher in self._teachers]

    def read(self, step: int) -> None:
        """Read the banks for the epoch of `step`, from 0, unless they are there.

        Raises:
            AcedError: a side-car can no longer be read.
        """
        for teacher, bank in zip(self._teachers, self._banks, strict=True):
            bank.read(step // max(1, len(teacher.store) // self._batch))

    def of(self, step: int, pairs: float, ledger: Ledger, share: float = 1.0) -> list[Embeddings]:
        """Each teacher's embeddings `[m, D]` for a step after its `read`.

        Args:
            step: its number, from 0.
            pairs: this process's number of pairs that are compared with them, for the ledger.
            ledger: where FLOPs are counted.
            share: this process's share of the lookup, which every process repeats.
        """
        found = []
        for teacher, bank in zip(self._teachers, self._banks, strict=True):
            generator = generator_of("columns", self.seed, step)
            rows = bank.of(torch.randint(len(bank), (self.count,), generator=generator))
            ledger.cached_flops += share * len(rows) * teacher.forward_flops
            ledger.flops["teacher"] += column_flops(pairs, len(rows), teacher.width)
            found.append(teacher.rows.embeddings(rows))
        return found
