"""What the student would make of a pair that it has not seen, guessed from what the reference has made of it."""

from __future__ import annotations

from collections import deque

from torch import Tensor

from aced.core.embeddings import Embeddings
from aced.core.linear_fit import LinearFit
from aced.models import Tower
from aced.runs.ledger import Ledger
from aced.train.distributed import World


class Guess:
    """Linear maps from the reference's embeddings to the student's, which cost no pass of either model.

    They are fitted, at each step, to the pairs that were trained on, alike in all processes.

    Args:
        width: of the reference's embeddings.
        student: the model that is predicted.
        world: the processes, which share the cost of the fit.
        refreshed: how many candidates are embedded at a step after all, as a mean, by all processes together; those
            that were embedded longest ago, or never.
    """

    def __init__(self, width: int, student: Tower, world: World, refreshed: int = 0) -> None:
        self.share, self.refreshed = 1 / world.size, refreshed
        self._kept: deque[dict[str, Tensor]] = deque(maxlen=2)
        self.fit = LinearFit(width, student.width, student.device)

    def of(self, reference: Embeddings, ledger: Ledger) -> tuple[Tensor, Tensor]:
        """Images and texts `[m, d]` float32, of length 1 at most, of pairs that the reference embeds so `[m, D]`."""
        ledger.flops["scoring"] += self.fit.predict_flops(len(reference))
        return self.fit.predict(reference)

    def improve(self, known: Embeddings, embedded: Embeddings, ledger: Ledger) -> None:
        """Fit the maps, too, to what the reference `[m, D]` and training `[m, d]` made of the same pairs."""
        self.fit.update(known, embedded)
        ledger.flops["scoring"] += self.share * self.fit.update_flops(len(known))

    def keep(self) -> None:
        """Remember the maps as they are, and those at the `keep` before."""
        self._kept.append(self.fit.tensors())

    def back(self) -> None:
        """Go back to the maps at the last `keep`, and called again to those at the one before."""
        self.fit.load(self._kept.pop())

    def tensors(self) -> dict[str, Tensor]:
        """The state of the maps, by name."""
        return self.fit.tensors()

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Take up what `tensors` gave."""
        self.fit.load(tensors)
