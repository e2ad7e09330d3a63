"""The student's embeddings of candidates, to score them by: computed now, remembered, or predicted."""

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
    """`[B, d]` float32 by the student as it is now: in evaluation mode, without gradient and in micro-batches.

    Args:
        candidates: this process's.
        at: the step, in whose ledger the work is counted.
        side: side in pixels to which images are reduced; None for the student's own.
    """
    at.ledger.forward("scoring", len(candidates), at.student.batch_flops(candidates, side))
    tower = Resized(at.student, side) if side else at.student
    with autocast(at.student.device, at.settings.precision):
        embedded = tower.score(candidates, at.settings.micro_batch)
    # Whatever the towers ran in: what training gives is float32 too, and so is the embedding of nothing.
    return replace(embedded, image=embedded.image.float(), text=embedded.text.float())


def recall(
    memory: Memory, candidates: Candidates, reference: Embeddings | None, at: Moment, side: int | None = None
) -> Embeddings:
    """The student's embeddings of candidates from the memory, with the student's present scale and bias.

    Args:
        memory: what is known of them.
        candidates: this process's.
        reference: the reference's embeddings of them, which a guess is made from.
        at: the step.
        side: as in `embed`, which embeds what the memory lacks.

    Returns:
        `[B, d]`; with a guess, in which case the student embeds no more than that wants refreshed, `[B, d + 2]`.
    """
    if memory.guess is None:
        image, text = _remembered(memory, candidates, at, side)
    else:
        assert reference is not None  # there is one wherever there is a guess
        image, text = _guessed(memory, memory.guess, candidates, reference, at)
    scale, bias = at.student.scale_and_bias()
    return Embeddings(image, text, scale, bias).detach()


def _remembered(memory: Memory, candidates: Candidates, at: Moment, side: int | None) -> tuple[Tensor, Tensor]:
    """Images and texts from the memory, into which goes first what it lacks.

    Several processes give each other what they embed, so that each remembers what one process would. A GPU is waited
    for: what is missing decides how many are to be embedded.
    """
    positions = at.positions.cpu()
    _embed_some(memory, memory.missing(positions, at.step), candidates, positions, at, side)
    return memory.get(_own(positions, at))


def _guessed(
    memory: Memory, guess: Guess, candidates: Candidates, reference: Embeddings, at: Moment
) -> tuple[Tensor, Tensor]:
    """Images and texts from the memory, or guessed.

    A guess is at most of length 1. The missing norm goes into two extra dimensions, one for images and one for texts,
    which are orthogonal to everything. A GPU is waited for, as in `_remembered`.
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
    """Embed those of all processes' candidates that were embedded longest ago."""
    oldest = memory.made(positions, at.step).sort(stable=True).indices[:count].sort().values
    _embed_some(memory, oldest, candidates, positions, at)


def _embed_some(
    memory: Memory, rows: Tensor, candidates: Candidates, positions: Tensor, at: Moment, side: int | None = None
) -> None:
    """Embed ascending `rows` of all processes' candidates and remember them; each process embeds its own.

    `positions` are those of all candidates; they are on the CPU, as the rows are.
    """
    mine = own_rows(rows, at.counts, at.world.rank)
    embedded = embed(candidates[sent(mine, candidates.indices.device)], at, side)
    made = at.world.embeddings(embedded, each_has(rows, at.counts))
    memory.put(positions[rows], made.image, made.text, at.step)


def _own(positions: Tensor, at: Moment) -> Tensor:
    """This process's, of all candidates' positions."""
    return positions.split(at.counts)[at.world.rank]
