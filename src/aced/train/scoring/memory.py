"""The student's embeddings of earlier steps, by sample: what was embedded a few steps ago is not embedded again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from aced.core.embeddings import Embeddings
from aced.data.source import Candidates
from aced.train.distributed import World
from aced.train.scoring.scorers import Scorer

if TYPE_CHECKING:
    from aced.train.step import Trainer

_FIRST = 1024
"""Places for embeddings to begin with; doubled where they do not suffice."""


class Memory:
    """Embeddings of samples, each with the number of the step whose weights made it.

    Beside 4 bytes a sample it holds what was seen within the last `age` steps or so, and so does not grow with the
    data.

    Args:
        age: how many steps old an embedding may be.
    """

    def __init__(self, age: int) -> None:
        self.age = age
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self._place = torch.empty(0, dtype=torch.int32)  # of each sample; -1: none
        self._sample = torch.full((_FIRST,), -1)  # in each place; -1: free
        self._step = torch.zeros(_FIRST, dtype=torch.int64)
        self._image = self._text = torch.empty(_FIRST, 0)
        self._replaced: list[tuple[Tensor, dict[str, Tensor]]] | None = None  # until `keep` asks for it

    def __len__(self) -> int:
        return int((self._sample >= 0).sum())

    def missing(self, indices: Tensor, step: int) -> Tensor:
        """`[m]` int64 rows of `indices` `[B]` that are not here, or too old at step number `step`."""
        return (self.made(indices, step) < 0).nonzero().flatten()

    def made(self, indices: Tensor, step: int) -> Tensor:
        """`[B]` int64 the steps whose weights made the embeddings; -1 for what is missing."""
        self._reach(indices)
        place = self._place[indices].long()
        made = self._step[place.clamp(min=0)]
        return made.masked_fill((place < 0) | (step - made > self.age), -1)

    def put(self, indices: Tensor, image: Tensor, text: Tensor, step: int) -> None:
        """Remember embeddings `[m, d]` made with the weights of step `step`; earlier ones are replaced."""
        if len(indices) == 0:
            return
        if self._image.shape[1] == 0:
            self._image, self._text = (e.new_zeros(len(self._sample), e.shape[1]) for e in (image, text))
        self._reach(indices)
        if self._replaced is not None:
            self._replaced.append((indices, self._held(indices)))
        new = indices[self._place[indices] < 0]
        if len(new):
            place = self._free(len(new), step)
            self._place[new] = place.to(torch.int32)
            self._sample[place] = new
        place = self._place[indices].long()
        self._step[place] = step
        there = place.to(image.device)
        self._image[there], self._text[there] = image, text

    def keep(self) -> None:
        """From now on note what is replaced, so that `back` can put it back."""
        self._replaced = []

    def back(self) -> None:
        """Undo every `put` since the last `keep`, but for what it found too old to be used again."""
        replaced, self._replaced = self._replaced or [], None
        for indices, held in reversed(replaced):
            place = self._place[indices].long()
            self._sample[place[place >= 0]] = -1
            self._place[indices] = -1
            self._take(held)

    def _held(self, indices: Tensor) -> dict[str, Tensor]:
        """What is here of these samples, as `tensors` gives it."""
        place = self._place[indices].long()
        place = place[place >= 0]
        there = place.to(self._image.device)
        return {
            "sample": self._sample[place],
            "step": self._step[place],
            "image": self._image[there],
            "text": self._text[there],
        }

    def get(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Image and text embeddings `[B, d]` of samples that are not `missing`."""
        place = self._place[indices].long().to(self._image.device)
        return self._image[place], self._text[place]

    def step_of(self, indices: Tensor) -> Tensor:
        """`[B]` the steps whose weights made the embeddings of samples that are here."""
        return self._step[self._place[indices].long()]

    def tensors(self) -> dict[str, Tensor]:
        """What is here and may still be used, as tensors by name; the same whatever places it lies in."""
        held = self._sample >= 0
        place = (held & (self._step[held].max() - self._step <= self.age) if held.any() else held).nonzero().flatten()
        return self._held(self._sample[place].sort().values)

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Take up what `tensors` gave, in place of what is here."""
        self.clear()
        self._take(tensors)

    def _take(self, tensors: dict[str, Tensor]) -> None:
        for step in tensors["step"].unique().tolist():
            made = tensors["step"] == step
            self.put(tensors["sample"][made], tensors["image"][made], tensors["text"][made], step)

    def _reach(self, indices: Tensor) -> None:
        """Make room for the numbers of these samples."""
        short = int(indices.max()) + 1 - len(self._place) if len(indices) else 0
        if short > 0:
            more = torch.full((max(short, len(self._place)),), -1, dtype=torch.int32)
            self._place = torch.cat([self._place, more])

    def _free(self, count: int, step: int) -> Tensor:
        """`[count]` free places, after forgetting what is too old and growing where that is not enough."""
        free = (self._sample < 0).nonzero().flatten()
        if len(free) < count:
            old = (self._sample >= 0) & (step - self._step > self.age)
            self._place[self._sample[old]] = -1
            self._sample[old] = -1
            free = (self._sample < 0).nonzero().flatten()
        while len(free) < count:
            self._sample = torch.cat([self._sample, torch.full_like(self._sample, -1)])
            self._step = torch.cat([self._step, torch.zeros_like(self._step)])
            self._image, self._text = (torch.cat([e, torch.zeros_like(e)]) for e in (self._image, self._text))
            free = (self._sample < 0).nonzero().flatten()
        return free[:count]


class Remembering(Scorer):
    """A scorer with a memory that training forward passes refresh for nothing.

    Args:
        age: how many steps old an embedding may be.
    """

    def __init__(self, age: int) -> None:
        self.memory = Memory(age)

    def trained(self, t: Trainer, positions: Tensor, embedded: Embeddings) -> None:
        """As in the contract."""
        self.memory.put(positions, embedded.image, embedded.text, t.step)

    def keep(self) -> None:
        """As in the contract."""
        self.memory.keep()

    def back(self) -> None:
        """As in the contract."""
        self.memory.back()

    def tensors(self) -> dict[str, Tensor]:
        """As in the contract."""
        return {f"memory.{k}": v for k, v in self.memory.tensors().items()}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """As in the contract."""
        self.memory.load({k.removeprefix("memory."): v for k, v in tensors.items() if k.startswith("memory.")})


class Reused(Remembering):
    """Embeds only what the memory has not, or has too old.

    Several processes give each other what they embed, so that each remembers what one process would.

    Args:
        inner: embeds the rest.
        age: how many steps old an embedding may be.
    """

    def __init__(self, inner: Scorer, age: int) -> None:
        super().__init__(age)
        self.inner = inner

    def embed(self, t: Trainer, candidates: Candidates) -> Embeddings:
        """As in the contract."""
        missing = candidates[self.memory.missing(candidates.indices, t.step)]
        embedded = self.inner.embed(t, missing)
        positions, image, text = of_all(t.world, missing.indices, embedded)
        self.memory.put(positions, image, text, t.step)
        image, text = self.memory.get(candidates.indices)
        scale, bias = t.student.scale_and_bias()
        return Embeddings(image, text, scale, bias).detach()


def of_all(world: World, positions: Tensor, embedded: Embeddings) -> tuple[Tensor, Tensor, Tensor]:
    """Positions and image and text embeddings of what every process has embedded, in the order of processes."""
    if world.size == 1:
        return positions, embedded.image, embedded.text
    counts = world.counts(len(positions))
    image, text = world.gather(torch.cat([embedded.image, embedded.text], 1), counts).chunk(2, dim=1)
    return world.gather(positions, counts), image, text
