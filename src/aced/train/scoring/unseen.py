"""Prediction of the student's embedding of an unseen pair from the reference's."""

from __future__ import annotations

from collections import deque

from torch import Tensor

from aced.core.embeddings import Embeddings
from aced.core.linear_fit import LinearFit
from aced.models import Tower
from aced.runs.ledger import Ledger
from aced.train.distributed import World


class Guess:
    """Linear maps from the reference's embeddings to the student's, which need no forward pass of either model.

    They are fitted at each step to the pairs of the batch, identically in all processes.

    Args:
        width: of the reference's embeddings.
        student: the model that is predicted.
        world: the processes, which share the cost of the fit.
        refreshed: average number of candidates to embed at a step all the same, over all processes; those with the
            oldest embeddings, or none.
    """

    def __init__(self, width: int, student: Tower, world: World, refreshed: int = 0) -> None:
        self.share, self.refreshed = 1 / world.size, refreshed
        self._kept: deque[dict[str, Tensor]] = deque(maxlen=2)
        self.fit = LinearFit(width, student.width, student.device)

    def of(self, reference: Embeddings, ledger: Ledger) -> tuple[Tensor, Tensor]:
        """Images and texts `[m, d]` float32, of length 1 at most, for pairs with reference embeddings `[m, D]`."""
        ledger.flops["scoring"] += self.fit.predict_flops(len(reference))
        return self.fit.predict(reference)

    def improve(self, known: Embeddings, embedded: Embeddings, ledger: Ledger) -> None:
        """Update the fit with reference `[m, D]` and training `[m, d]` embeddings of the same pairs."""
        self.fit.update(known, embedded)
        ledger.flops["scoring"] += self.share * self.fit.update_flops(len(known))

    def keep(self) -> None:
        """Remember the current maps, and those of the previous `keep`."""
        self._kept.append(self.fit.tensors())

    def back(self) -> None:
        """Return to the maps of the latest `keep`; a second call returns to those before it."""
        self.fit.load(self._kept.pop())

    def tensors(self) -> dict[str, Tensor]:
        """The state of the maps, by name."""
        return self.fit.tensors()

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Restore the output of `tensors`."""
        self.fit.load(tensors)
