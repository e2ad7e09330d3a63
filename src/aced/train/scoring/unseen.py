"""Scores with little or no scoring pass: what was embedded is remembered, what was not is guessed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from aced.core.embeddings import Embeddings
from aced.core.linear_fit import LinearFit
from aced.data.source import Candidates
from aced.towers import Tower
from aced.train.distributed import World
from aced.train.providers import Cached
from aced.train.scoring.memory import Remembering, of_all
from aced.train.scoring.piece import own_rows
from aced.train.scoring.scorers import Direct

if TYPE_CHECKING:
    from aced.train.step import Trainer


_PACE = 2
"""At every second step twice as many are embedded: a forward pass has a price of its own, however small it is."""


class Guessed(Remembering):
    """Remembers what training embeds and, at each step, embeds a few candidates more; of the others there is a guess.

    Those few are the ones that were embedded longest ago, or never. A guess is at most of length 1. What it lacks is in
    two more dimensions, one for images and one for texts, in which it is like nothing.

    Args:
        age: how many steps old a remembered embedding may be.
        refreshed: how many candidates are embedded at a step, as a mean, by all processes together.
    """

    def __init__(self, age: int, refreshed: int = 0) -> None:
        super().__init__(age)
        self.refreshed, self.inner = refreshed, Direct()

    def guess(self, t: Trainer, candidates: Candidates) -> tuple[Tensor, Tensor]:
        """Images and texts of these candidates, `[m, d]` float32, of length 1 at most."""
        raise NotImplementedError

    def embed(self, t: Trainer, candidates: Candidates) -> Embeddings:
        """`[B, d + 2]`, otherwise as in the contract."""
        if self.refreshed and t.step % _PACE == 0:
            self._refresh(t, candidates)
        scale, bias = t.student.scale_and_bias()
        width, device = t.student.width, t.student.device
        image, text = (torch.zeros(len(candidates), width + 2, device=device) for _ in range(2))
        held = self.memory.made(candidates.indices, t.step) >= 0
        known, missing = held.nonzero().flatten(), (~held).nonzero().flatten()
        if len(known):
            image[known, :width], text[known, :width] = self.memory.get(candidates.indices[known])
        if len(missing):
            for side, guess, place in zip((image, text), self.guess(t, candidates[missing]), (0, 1), strict=True):
                side[missing, :width] = guess
                side[missing, width + place] = (1 - guess.square().sum(1)).clamp(min=0.0).sqrt()
        return Embeddings(image, text, scale, bias).detach()

    def _refresh(self, t: Trainer, candidates: Candidates) -> None:
        """Embed those of all processes' candidates that were embedded longest ago; each process embeds its own."""
        counts = t.world.counts(len(candidates))
        positions = t.world.gather(candidates.indices, counts)
        oldest = self.memory.made(positions, t.step).sort(stable=True).indices[: _PACE * self.refreshed].sort().values
        due = candidates[own_rows(oldest, counts, t.world.rank)]
        self.memory.put(*of_all(t.world, due.indices, self.inner.embed(t, due)), t.step)


class Predicted(Guessed):
    """What the student would make of an unseen pair, from what the reference has made of it.

    Linear maps from the reference's embeddings to the student's are fitted, at each step, to the pairs that were
    trained on; they cost no pass of either model.

    Args:
        age, refreshed: as in `Guessed`.
        reference: whose embeddings of any pair of the pool can be looked up.
        student: the model that is predicted.
        world: the processes, all of which fit the same maps.
    """

    def __init__(self, age: int, refreshed: int, reference: Cached, student: Tower, world: World) -> None:
        super().__init__(age, refreshed)
        self.reference, self.share = reference, 1 / world.size
        self.fit = LinearFit(reference.width, student.width, student.device)

    def guess(self, t: Trainer, candidates: Candidates) -> tuple[Tensor, Tensor]:
        """The maps' prediction."""
        t.ledger.flops["scoring"] += self.fit.predict_flops(len(candidates))
        return self.fit.predict(self.reference.looked_up(candidates))

    def trained(self, t: Trainer, positions: Tensor, embedded: Embeddings) -> None:
        """As in the contract: remembers, and improves the maps."""
        super().trained(t, positions, embedded)
        self.fit.update(self._looked_up(positions), embedded)
        t.ledger.flops["scoring"] += self.share * self.fit.update_flops(len(positions))

    def tensors(self) -> dict[str, Tensor]:
        """As in the contract."""
        return super().tensors() | {f"fit.{name}": value for name, value in self.fit.tensors().items()}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """As in the contract."""
        super().load(tensors)
        self.fit.load({k.removeprefix("fit."): v for k, v in tensors.items() if k.startswith("fit.")})

    def _looked_up(self, positions: Tensor) -> Embeddings:
        # Not by `embed`, which notes what a forward pass would have cost: the step has noted these already.
        return self.reference.store.lookup(positions).to(self.reference.device)
