"""The student's embeddings of candidates for scoring: computed now, remembered, or predicted."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from aced.core.embeddings import Embeddings
from aced.models.coarse import Resized
from aced.pool.source import Candidates
from aced.runtime.devices import sent
from aced.runtime.precision import autocast
from aced.train.scoring.memory import Memory
from aced.train.scoring.moment import Moment
from aced.train.scoring.own_share import each_has, own_rows
from aced.train.scoring.unseen import Guess

_PACE = 2
"""At every second step twice as many are embedded: every forward pass has a fixed overhead."""


def embed(candidates: Candidates, at: Moment, side: int | None = None) -> Embeddings:
    """`[B, d]` float32 by the current student: in evaluation mode, without gradient and in micro-batches.

    Args:
        candidates: this process's.
        at: the step, in whose ledger the work is counted.
        side: side in pixels to which images are reduced; None for the student's own.
    """
    at.ledger.forward("scoring", len(candidates), at.student.batch_flops(candidates, side))
    tower = Resized(at.student, side) if side else at.student
    with autocast(at.student.device, at.settings.precision):
        embedded = tower.score(candidates, at.settings.micro_batch)
    # Whatever the towers' precision: training's embeddings are float32 too, and so are those of zero pairs.
    return replace(embedded, image=embedded.image.float(), text=embedded.text.float())


def recall(
    memory: Memory, candidates: Candidates, reference: Embeddings | None, at: Moment, side: int | None = None
) -> Embeddings:
    """The student's embeddings of candidates from the memory, with the student's current scale and bias.

    Args:
        memory: the known embeddings.
        candidates: this process's.
        reference: the reference's embeddings of them, the input of a guess.
        at: the step.
        side: as in `embed`, which computes missing embeddings.

    Returns:
        `[B, d]`; with a guess, in which case the student only embeds those due for a refresh, `[B, d + 2]`.
    """
    if memory.guess is None:
        image, text = _remembered(memory, candidates, at, side)
    else:
        assert reference is not None  # a guess implies a reference
        image, text = _guessed(memory, memory.guess, candidates, reference, at)
    scale, bias = at.student.scale_and_bias()
    return Embeddings(image, text, scale, bias).detach()


def _remembered(memory: Memory, candidates: Candidates, at: Moment, side: int | None) -> tuple[Tensor, Tensor]:
    """Images and texts from the memory, after adding missing ones.

    Processes exchange their embeddings, so that each remembers what a single process would. This waits for a GPU: the
    number of missing embeddings must be known.
    """
    positions = at.positions.cpu()
    _embed_some(memory, memory.missing(positions, at.step), candidates, positions, at, side)
    return memory.get(_own(positions, at))


def _guessed(
    memory: Memory, guess: Guess, candidates: Candidates, reference: Embeddings, at: Moment
) -> tuple[Tensor, Tensor]:
    """Images and texts from the memory, or predicted.

    A prediction has at most length 1. The missing norm goes into two extra dimensions, one for images and one for
    texts, orthogonal to everything. This waits for a GPU, as `_remembered` does.
    """
    everyones = at.positions.cpu()
    if guess.refreshed and at.step % _PACE == 0:
        _refresh(memory, _PACE * guess.refreshed, candidates, everyones, at)
    positions = _own(everyones, at)
    width, device = at.student.width, at.student.device
    image, text = (torch.zeros(len(candidates), width + 2, device=device) for _ in range(2))
    held = memory.made(positions, at.step) >= 0
    here, others = held.nonzero().flatten(), (~held).nonzero().flatten()
    known, missing = sent(here, device), sent(others, device)
    if len(known):
        image[known, :width], text[known, :width] = memory.get(positions[here])
    if len(missing):
        guesses = guess.of(reference[missing], at.ledger)
        for whole, rows, place in zip((image, text), guesses, (0, 1), strict=True):
            whole[missing, :width] = rows
            whole[missing, width + place] = (1 - rows.square().sum(1)).clamp(min=0.0).sqrt()
    return image, text


def _refresh(memory: Memory, count: int, candidates: Candidates, positions: Tensor, at: Moment) -> None:
    """Embed those of all processes' candidates whose embeddings are the oldest."""
    oldest = memory.made(positions, at.step).sort(stable=True).indices[:count].sort().values
    _embed_some(memory, oldest, candidates, positions, at)


def _embed_some(
    memory: Memory, rows: Tensor, candidates: Candidates, positions: Tensor, at: Moment, side: int | None = None
) -> None:
    """Embed ascending `rows` of all processes' candidates and remember them; each process embeds its own.

    `positions` are those of all candidates, on the CPU like the rows.
    """
    mine = own_rows(rows, at.counts, at.world.rank)
    embedded = embed(candidates[sent(mine, candidates.indices.device)], at, side)
    made = at.world.embeddings(embedded, each_has(rows, at.counts))
    memory.put(positions[rows], made.image, made.text, at.step)


def _own(positions: Tensor, at: Moment) -> Tensor:
    """This process's part of all candidates' positions."""
    return positions.split(at.counts)[at.world.rank]
