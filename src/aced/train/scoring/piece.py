"""What every piece of the choice of a batch may be told and may keep."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from aced.core.embeddings import Embeddings

if TYPE_CHECKING:
    from aced.train.step import Trainer


class Piece:
    """Hears of the steps and may have state; one that needs less does nothing in the other methods."""

    def trained(self, t: Trainer, positions: Tensor, embedded: Embeddings) -> None:
        """Told what the training forward pass of step `t.step` made of its batch, all processes' shares of it.

        Args:
            t: the trainer.
            positions: `[b]` in the source, of the batch.
            embedded: `[b, d]` of it, without gradient.
        """

    def keep(self) -> None:
        """Told between two steps: remember this state, to which the next step may have to go `back`."""

    def back(self) -> None:
        """Told when a step has failed before it changed the weights: go back to the state of the last `keep`."""

    def tensors(self) -> dict[str, Tensor]:
        """The state that an exactly resumed run needs: of all processes, which ask for it together."""
        return {}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Take up the state that `tensors` gave, whatever number of processes it was of."""


def own_rows(rows: Tensor, counts: list[int], rank: int) -> Tensor:
    """Rows among one process's candidates, of `rows` of all processes' that have `counts`; in the same order."""
    rows = rows - sum(counts[:rank])
    return rows[(rows >= 0) & (rows < counts[rank])]
