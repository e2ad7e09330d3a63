"""The draw of `selection.py` where the super-batch is spread over several processes (ranks).

Each rank holds the embeddings and the running vector of its own candidates only. For every chunk the ranks exchange
their best perturbed scores and the embeddings of the winners: O(c d) a chunk, never B x B, never images. Every rank
draws the noise of the whole super-batch from the same generator state and uses its part, so that the ranks together
choose what one process chooses (but for ties, which only scores without noise have).

The candidates of rank r follow those of rank r - 1 in the whole super-batch; "row" means a row of that. Ranks may have
different numbers of candidates, or none. Shapes as in `selection.py`; W ranks, B_r candidates of this one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import accumulate
from typing import Literal, Protocol, get_args

import torch
from torch import Tensor

from aced.core.embeddings import Embeddings
from aced.core.scored import Loss, Model, Score, Strategy, check_how, check_models, models_of
from aced.core.selection import (
    Gains,
    Selection,
    block_rows,
    chunk_sizes,
    gumbel,
    independent_gains,
    joint_gains,
    perturbed,
    shares_of,
)

Scope = Literal["global", "quota", "local"]


class Ranks(Protocol):
    """How the processes of a job talk to each other; every one of them makes the same calls in the same order."""

    @property
    def rank(self) -> int:
        """This process, from 0."""
        ...

    @property
    def size(self) -> int:
        """W, the number of processes."""
        ...

    def gather(self, rows: Tensor, counts: Sequence[int]) -> Tensor:
        """The rows of every rank, `[sum(counts), ...]`; rank r gives `counts[r]`, and its own are `rows`."""
        ...

    def sum(self, values: Tensor) -> Tensor:
        """The sum of every rank's `values`, which have one shape."""
        ...


def select_ranks(
    student: Embeddings | None,
    reference: Embeddings | None,
    size: int,
    ranks: Ranks,
    *,
    scope: Scope = "global",
    score: Score = "learnability",
    loss: Loss = "sigmoid",
    strategy: Strategy = "joint",
    chunks: int = 16,
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
) -> Selection:
    """Choose `size` of the candidates of all ranks.

    Args:
        student: the model in training, embeddings of this rank's candidates; see `select` for when it may be None.
        reference: the reference's embeddings of the same pairs.
        size: how many all ranks together choose.
        ranks: the processes.
        scope: `global`: all candidates compete, as in one process. `quota`: each rank chooses `size / W` of its own,
            scored against everything that all ranks have chosen. `local`: likewise, against its own choice only.
        score, loss, strategy, chunks, temperature: as in `select`.
        generator: in the same state on every rank.

    Returns:
        The same `Selection` on every rank, of rows of the whole super-batch. With `quota` and `local` a rank that has
        fewer candidates than its share gives all of them, so that fewer than `size` may be chosen.

    Raises:
        ValueError: as `select`, and where the scope is unknown.
    """
    if scope not in get_args(Scope):
        raise ValueError(f"select: unknown scope {scope!r}; known: {', '.join(get_args(Scope))}.")
    models = models_of(student, reference, score)
    own = models[0].e
    counts = ranks.gather(torch.tensor([len(own)]), [1] * ranks.size).tolist()
    check_how(size=size, score=score, loss=loss, strategy=strategy, chunks=chunks, temperature=temperature)
    if size > sum(counts):
        raise ValueError(
            f"select: cannot choose {size} of {sum(counts)} candidates on {ranks.size} ranks; give a larger "
            "super-batch or a smaller size."
        )
    check_models(models)
    with torch.no_grad(), torch.autocast(own.device.type, enabled=False):
        draw = _Draw(models, counts, ranks, alone=scope == "local")
        n = chunks if strategy == "joint" else 1
        sizes: Sequence[int | list[int]] = (
            chunk_sizes(size, n) if scope == "global" else _quotas(size, n, counts, ranks.size)
        )
        gains = joint_gains(models, loss) if strategy == "joint" else independent_gains(models, loss, draw.blocks())
        return draw.run(gains, sizes, 0.0 if strategy == "top-k" else temperature, generator)


def _quotas(size: int, chunks: int, counts: Sequence[int], world: int) -> list[list[int]]:
    """For each chunk how many every rank draws: its share of `size`, or all that it has."""
    shares = [min(share, count) for share, count in zip(shares_of(size, world), counts, strict=True)]
    n = max(1, min(chunks, max(shares)))
    return [[share // n + (i < share % n) for share in shares] for i in range(n)]


class _Draw:
    """One draw, as this rank takes part in it."""

    def __init__(self, models: Sequence[Model], counts: Sequence[int], ranks: Ranks, *, alone: bool) -> None:
        self.models, self.counts, self.ranks, self.alone = models, counts, ranks, alone
        self.device = models[0].e.device
        self.start = list(accumulate(counts, initial=0))[ranks.rank]
        self.count = counts[ranks.rank]

    def run(
        self, gains: Gains, sizes: Sequence[int | list[int]], temperature: float, generator: torch.Generator | None
    ) -> Selection:
        """Draw chunk by chunk; each entry of `sizes` is what all draw together, or what each of the ranks draws."""
        scores = self.ranks.gather(gains.current(), self.counts)
        taken = torch.zeros(self.count, dtype=torch.bool, device=self.device)
        chosen, drawn = [], []
        for number, c in enumerate(sizes):
            g = gains.current()
            noise = gumbel(sum(self.counts), generator, self.device) if temperature > 0 else None
            if noise is not None:
                noise = noise[self.start : self.start + self.count]
            noisy = perturbed(g, noise, temperature).masked_fill(taken, -torch.inf)
            rows = self._best_of_all(noisy, c) if isinstance(c, int) else self._best_of_each(noisy, c)
            mine = self._mine(rows)
            taken[rows[mine] - self.start] = True
            conditional = torch.zeros(len(rows), device=self.device)
            conditional[mine] = g[rows[mine] - self.start]
            chosen.append(rows)
            drawn.append(conditional)
            if number + 1 < len(sizes):
                self._add(gains, rows)
        lengths = torch.tensor([len(rows) for rows in chosen], device=self.device)
        return Selection(
            indices=torch.cat(chosen),
            gains=self.ranks.sum(torch.cat(drawn)),  # each is known to one rank, and zero on the others
            scores=scores,
            chunk=torch.arange(len(chosen), device=self.device).repeat_interleave(lengths),
        )

    def blocks(self) -> Iterator[Sequence[Embeddings]]:
        """The whole super-batch (this rank's own where it draws alone) in blocks of each model's embeddings."""
        step = block_rows(self.count if self.alone else max(self.counts), self.device)
        for start in range(0, self.count if self.alone else max(self.counts), step):
            block = [m.e[start : start + step] for m in self.models]
            if not self.alone:
                counts = [min(max(count - start, 0), step) for count in self.counts]
                block = self._shared(block, partial(self.ranks.gather, counts=counts))
            yield block

    def _best_of_all(self, noisy: Tensor, c: int) -> Tensor:
        """`[c]` rows, the largest perturbed scores of all ranks in descending order."""
        best = noisy.topk(min(c, self.count))
        offers = torch.stack([best.values.double(), (best.indices + self.start).double()], 1)  # rows fit a double
        offers = self.ranks.gather(offers, [min(c, count) for count in self.counts])
        return offers[offers[:, 0].topk(c).indices, 1].long()

    def _best_of_each(self, noisy: Tensor, sizes: Sequence[int]) -> Tensor:
        """`[sum(sizes)]` rows, rank after rank, of each rank the largest of its own."""
        return self.ranks.gather(noisy.topk(sizes[self.ranks.rank]).indices + self.start, sizes)

    def _add(self, gains: Gains, rows: Tensor) -> None:
        mine = self._mine(rows)
        own = [m.e[rows[mine] - self.start] for m in self.models]
        if self.alone:
            if len(own[0]):
                gains.add(own)
            return

        def from_owners(values: Tensor) -> Tensor:
            # A sum with zeros from all who are not the owner is exact.
            spread = values.new_zeros(len(rows), values.shape[1])
            spread[mine] = values
            return self.ranks.sum(spread)

        gains.add(self._shared(own, from_owners))

    def _mine(self, rows: Tensor) -> Tensor:
        return (rows >= self.start) & (rows < self.start + self.count)

    @staticmethod
    def _shared(parts: Sequence[Embeddings], share: Callable[[Tensor], Tensor]) -> list[Embeddings]:
        """The embeddings of every model after one exchange of them all, side by side in float32."""
        sides = [side.float() for e in parts for side in (e.image, e.text)]
        split = share(torch.cat(sides, 1)).split([side.shape[1] for side in sides], dim=1)
        return [replace(e, image=split[2 * i], text=split[2 * i + 1]) for i, e in enumerate(parts)]
