"""The memory of the student's embeddings by sample, so that recent ones are not computed again."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import torch
from torch import Tensor

from aced.core.embeddings import Embeddings
from aced.runtime.devices import Readout, sent
from aced.train.scoring.held import Held
from aced.train.scoring.moment import Moment
from aced.train.scoring.unseen import Guess

_Journal = list[tuple[Tensor, dict[str, Tensor]]]
"""For each `put` the samples, and their previous entries."""
_FIRST = 1024
"""Initial number of places for embeddings; doubled when they do not suffice."""


class Memory:
    """Embeddings of samples, each with the number of the step whose weights made it.

    It holds samples seen within about the last `age` steps, and so does not grow with the data.

    The training forward pass of every step refreshes it at no cost. It is the same in all processes. Positions and
    steps are on the CPU, embeddings on their original device.

    Args:
        age: maximum age of an embedding in steps.
        guess: predicts embeddings of pairs that are not here; None if these are to be embedded.
    """

    def __init__(self, age: int, guess: Guess | None = None) -> None:
        self.age, self.guess = age, guess
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self._held_at = Held()
        self._sample = torch.full((_FIRST,), -1)  # of each place; -1: free
        self._step = torch.zeros(_FIRST, dtype=torch.int64)
        self._image = self._text = torch.empty(_FIRST, 0)
        # Entries replaced since each of the last two `keep`.
        self._replaced: deque[_Journal] = deque(maxlen=2)
        self._coming: Callable[[], None] | None = None  # training's embeddings, until their positions are known

    def __len__(self) -> int:
        self._settle()
        return int((self._sample >= 0).sum())

    def missing(self, indices: Tensor, step: int) -> Tensor:
        """`[m]` int64 rows of `indices` `[B]` (on the CPU, here and below) that are missing, or too old at `step`."""
        return (self.made(indices, step) < 0).nonzero().flatten()

    def made(self, indices: Tensor, step: int) -> Tensor:
        """`[B]` int64 the steps whose weights made the embeddings; -1 for missing ones."""
        self._settle()
        place = self._held_at.of(indices)
        made = self._step[place.clamp(min=0)]
        return made.masked_fill((place < 0) | (step - made > self.age), -1)

    def put(self, indices: Tensor, image: Tensor, text: Tensor, step: int) -> None:
        """Store embeddings `[m, d]` made with the weights of step `step`; earlier ones are replaced."""
        self._settle()
        self._put(indices, image, text, step, self._replaced[-1] if self._replaced else None)

    def _put(self, indices: Tensor, image: Tensor, text: Tensor, step: int, journal: _Journal | None) -> None:
        if len(indices) == 0:
            return
        if self._image.shape[1] == 0:
            self._image, self._text = (e.new_zeros(len(self._sample), e.shape[1]) for e in (image, text))
        if journal is not None:
            journal.append((indices, self._held(indices)))
        place = self._held_at.of(indices)
        is_new = place < 0
        if is_new.any():
            self._step[place[~is_new]] = step  # otherwise making room would remove old entries that are now refreshed
            new, free = indices[is_new], self._free(int(is_new.sum()), step)
            self._held_at.put(new, free)
            self._sample[free] = new
            place[is_new] = free
        self._step[place] = step
        there = sent(place, image.device)
        self._image[there], self._text[there] = image, text

    def trained(self, positions: Tensor, embedded: Embeddings, known: Embeddings | None, at: Moment) -> None:
        """Add the embeddings that the training forward pass made of its batch, all processes' shares of it.

        Args:
            positions: `[b]` in the source, of the batch; on a GPU they are read when needed, a step later.
            embedded: `[b, d]` the embeddings, without gradient.
            known: the reference's embeddings of the same pairs, whenever there is a guess.
            at: the step.
        """
        self._settle()
        read, journal = Readout(positions), self._replaced[-1] if self._replaced else None
        self._coming = lambda: self._put(read.read(), embedded.image, embedded.text, at.step, journal)
        if not read.late:
            self._settle()
        if self.guess is not None:
            assert known is not None
            self.guess.improve(known, embedded, at.ledger)

    def keep(self) -> None:
        """From now on record replaced entries, so that `back` can restore them."""
        self._replaced.append([])
        if self.guess is not None:
            self.guess.keep()

    def back(self) -> None:
        """Undo the changes since the last `keep`; a second call undoes those since the one before."""
        self._settle()
        replaced = self._replaced.pop()
        kept, self._replaced = self._replaced, deque(maxlen=2)  # restored entries replace nothing
        for indices, held in reversed(replaced):
            place = self._held_at.of(indices)
            self._sample[place[place >= 0]] = -1
            self._held_at.drop(indices[place >= 0])
            self._take(held)
        self._replaced = kept
        if self.guess is not None:
            self.guess.back()

    def _settle(self) -> None:
        """Add the latest embeddings from training."""
        if self._coming is not None:
            coming, self._coming = self._coming, None
            coming()

    def _held(self, indices: Tensor) -> dict[str, Tensor]:
        """The entries of these samples, by name."""
        place = self._held_at.of(indices)
        place = place[place >= 0]
        there = sent(place, self._image.device)
        return {
            "sample": self._sample[place],
            "step": self._step[place],
            "image": self._image[there],
            "text": self._text[there],
        }

    def get(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Image and text embeddings `[B, d]` of samples that are not `missing`."""
        place = sent(self._held_at.of(indices), self._image.device)
        return self._image[place], self._text[place]

    def tensors(self) -> dict[str, Tensor]:
        """The state that an exactly resumed run needs, by name; independent of the places.

        It consists of entries that may still be used, below `memory.`, and the guess's state, below `fit.`.
        """
        self._settle()
        held = self._sample >= 0
        place = (held & (self._step[held].max() - self._step <= self.age) if held.any() else held).nonzero().flatten()
        held_now = self._held(self._sample[place].sort().values)
        fitted = self.guess.tensors() if self.guess is not None else {}
        return {f"memory.{k}": v for k, v in held_now.items()} | {f"fit.{k}": v for k, v in fitted.items()}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Restore the output of `tensors`, from any number of processes."""
        self.clear()
        self._take({k.removeprefix("memory."): v for k, v in tensors.items() if k.startswith("memory.")})
        if self.guess is not None:
            self.guess.load({k.removeprefix("fit."): v for k, v in tensors.items() if k.startswith("fit.")})

    def _take(self, tensors: dict[str, Tensor]) -> None:
        for step in tensors["step"].unique().tolist():
            made = tensors["step"] == step
            self.put(tensors["sample"][made], tensors["image"][made], tensors["text"][made], step)

    def _free(self, count: int, step: int) -> Tensor:
        """`[count]` free places, after removing entries that are too old and growing if that is not enough.

        Too old also for the step before, to which a run may return.
        """
        free = (self._sample < 0).nonzero().flatten()
        if len(free) < count:
            old = (self._sample >= 0) & (step - self._step > self.age + 1)
            self._held_at.drop(self._sample[old])
            self._sample[old] = -1
            free = (self._sample < 0).nonzero().flatten()
        while len(free) < count:
            self._sample = torch.cat([self._sample, torch.full_like(self._sample, -1)])
            self._step = torch.cat([self._step, torch.zeros_like(self._step)])
            self._image, self._text = (torch.cat([e, torch.zeros_like(e)]) for e in (self._image, self._text))
            free = (self._sample < 0).nonzero().flatten()
        return free[:count]
