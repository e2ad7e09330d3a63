"""Further pairs for distillation: the teachers' cached embeddings of others than the batch, drawn anew at each step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from aced.core.columns import column_flops
from aced.core.embeddings import Embeddings
from aced.core.ledger import Ledger
from aced.data.source import Candidates, Column
from aced.errors import AcedError
from aced.train.draws import generator_of
from aced.train.providers import Cached, Provider


class FurtherPairs:
    """Draws pairs of the pool, whose embeddings by the teachers are then loaded beside the batch.

    Which pairs follows from (seed, step) alone, so that every process has the same and a resumed run has them again.

    Args:
        teachers: whose embeddings; each must come from a cache.
        count: m, how many pairs; fewer come back where some of those drawn have no embedding.
        seed: of the draws.

    Attributes:
        columns: what is loaded of them, by what it is for.

    Raises:
        AcedError: a teacher's embeddings are not cached.
    """

    def __init__(self, teachers: Sequence[Provider], count: int, seed: int) -> None:
        self._teachers = [teacher for teacher in teachers if isinstance(teacher, Cached)]
        if len(self._teachers) < len(teachers):
            raise AcedError(
                f"Distillation against {count} columns takes the teacher's embeddings of pairs that are not loaded and "
                "so needs them cached: set reference.cache (or teacher.cache), or method.columns=0."
            )
        self.count, self.seed = count, seed
        self.columns: Mapping[str, Column] = {_name(i): teacher.rows for i, teacher in enumerate(self._teachers)}

    @property
    def nbytes(self) -> int:
        """Bytes of what is loaded with a batch."""
        return self.count * sum(column.nbytes for column in self.columns.values())

    def drawn(self, step: int) -> dict[str, Tensor]:
        """`[m]` positions of the pairs of step number `step`, from 0, for each of `columns`."""
        found = {}
        for number, teacher in enumerate(self._teachers):
            generator = generator_of("columns", self.seed, step)
            found[_name(number)] = torch.randint(len(teacher.store), (self.count,), generator=generator)
        return found

    def of(self, candidates: Candidates, pairs: float, ledger: Ledger, share: float = 1.0) -> list[Embeddings]:
        """Each teacher's embeddings `[m, D]` of the pairs that were loaded beside these candidates.

        Args:
            candidates: of the step.
            pairs: this process's part of the pairs that are compared with them, for the ledger.
            ledger: where FLOPs are counted.
            share: of this process in looking the pairs up, which every process does alike.
        """
        found = []
        for number, teacher in enumerate(self._teachers):
            rows = candidates.aside[_name(number)]
            ledger.cached_flops += share * len(rows) * teacher.forward_flops
            ledger.flops["teacher"] += column_flops(pairs, len(rows), teacher.width)
            found.append(teacher.rows.embeddings(rows.to(teacher.device)))
        return found


def _name(number: int) -> str:
    return f"teacher {number}"
