"""Students with one loss for each sample, and the loop that trains them on samples chosen by `aced.select_losses`.

Two students share a small image encoder: `Captioner` writes captions with LiT's decoder, both parts trained together;
`Classifier` has a linear head. Either returns logits and what was wanted, so that one loss serves both: the mean over a
sample's tokens of the cross-entropy, and a class is a text of one token.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import aced
from aced.core.score_models import SCORES
from aced.lab.family.stem_vit import SIZES, StemViT
from aced.lab.lit.decode import greedy
from aced.lab.lit.decoder import DecoderShape, make_decoder
from aced.lab.lit.words import END, PAD, SPECIALS, Vocabulary
from aced.train.optim import decay_groups, embeddings, learning_rate

LONGEST = 16
"""Words of a caption; longer ones are cut."""
_IGNORE = -100
_CLIP = 1.0
_WARMUP = 0.1
_WEIGHT_DECAY = 0.05
_AT_ONCE = 128
"""Samples of a pass without gradient; those of one pass have texts of nearly one length."""
_NEVER = tuple(one for one in range(len(SPECIALS)) if one != END)


@dataclass(frozen=True, eq=False)
class Samples:
    """n samples in memory.

    Attributes:
        images: `[n, 3, 32, 32]` uint8.
        targets: `[n]` classes, or `[n, L]` ids of captions, padded on the right.
        sound: `[n]` whether the target is right; read for the report alone.
    """

    images: Tensor
    targets: Tensor
    sound: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, rows: Tensor) -> Samples:
        """Some of the samples; texts lose the columns that are padding in all of them."""
        targets = self.targets[rows]
        if targets.ndim == 2:
            targets = targets[:, : int((targets != PAD).sum(dim=1).max())]
        return Samples(self.images[rows], targets, self.sound[rows])

    @property
    def lengths(self) -> Tensor:
        """`[n]` ids of each text; a class has one."""
        return (self.targets != PAD).sum(dim=1) if self.targets.ndim == 2 else torch.ones(len(self))


class Student(nn.Module):
    """Images and targets to logits `[B, L, V]` and what is wanted `[B, L]`, in which `_IGNORE` is nothing."""

    encoder: StemViT

    def tokens(self, images: Tensor) -> Tensor:
        """`[B, 3, 32, 32]` uint8 to patch tokens `[B, T, width]`."""
        return self.encoder.forward_features(images.float() / 127.5 - 1)

    def forward(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        raise NotImplementedError


class Captioner(Student):
    """An encoder and LiT's decoder on its patch tokens, trained together.

    Args:
        vocabulary: number of ids.
        size: an entry of the encoder family's `SIZES`; the decoder has its width.
        seed: of the initial weights; the global generator is restored.
    """

    def __init__(self, vocabulary: int, size: str, seed: int) -> None:
        super().__init__()
        self.encoder = _encoder(size, 0, seed)
        shape = DecoderShape(width=SIZES[size]["width"], heads=SIZES[size]["heads"], max_length=LONGEST + 3)
        self.decoder = make_decoder(shape, vocabulary, SIZES[size]["width"], seed)

    def forward(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """The word after each word; the two ids of the prompt are given."""
        logits = self.decoder(targets[:, :-1], self.decoder.memory(self.tokens(images), len(images)))
        wanted = targets[:, 1:].masked_fill(targets[:, 1:] == PAD, _IGNORE)
        wanted[:, 0] = _IGNORE
        return logits, wanted


class Classifier(Student):
    """An encoder with a linear head on the mean of its tokens."""

    def __init__(self, classes: int, size: str, seed: int) -> None:
        super().__init__()
        self.encoder = _encoder(size, classes, seed)

    def forward(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """The class, as a text of one token."""
        return self.encoder.forward_head(self.tokens(images))[:, None], targets[:, None]


def _encoder(size: str, classes: int, seed: int) -> StemViT:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return StemViT(**SIZES[size], num_classes=classes)


def encoded(texts: list[str], vocabulary: Vocabulary) -> Tensor:
    """Captions as ids `[n, L]`: the prompt, at most `LONGEST` words, END, padding."""
    rows = [[*vocabulary.caption_prompt(), *vocabulary.encode(text)[:LONGEST], END] for text in texts]
    ids = torch.full((len(rows), max(len(row) for row in rows)), PAD)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
    return ids


# -- losses --------------------------------------------------------------------------------------------------


def losses(student: Student, samples: Samples) -> Tensor:
    """`[B]` the loss of each sample, with gradient: the mean over its tokens of the cross-entropy."""
    return _per_sample(*student(samples.images, samples.targets))


def _per_sample(logits: Tensor, wanted: Tensor) -> Tensor:
    each = F.cross_entropy(logits.flatten(0, 1), wanted.flatten(), ignore_index=_IGNORE, reduction="none")
    return each.view_as(wanted).sum(dim=1) / (wanted != _IGNORE).sum(dim=1)


@torch.no_grad()
def measured(student: Student, samples: Samples) -> tuple[Tensor, Tensor]:
    """`[n]` losses and `[n]` shares of tokens whose likeliest value is the right one, without gradient."""
    found, right = torch.empty(len(samples)), torch.empty(len(samples))
    for rows in samples.lengths.argsort(stable=True).split(_AT_ONCE):
        part = samples[rows]
        logits, wanted = student(part.images, part.targets)
        known = wanted != _IGNORE
        found[rows] = _per_sample(logits, wanted)
        right[rows] = ((logits.argmax(dim=2) == wanted) & known).sum(dim=1) / known.sum(dim=1)
    return found, right


@torch.no_grad()
def write(student: Captioner, vocabulary: Vocabulary, images: Tensor) -> list[str]:
    """A greedy caption of each image."""
    memory = student.decoder.memory(student.tokens(images), len(images))
    prompt = torch.tensor([vocabulary.caption_prompt()] * len(images))
    found = greedy(
        lambda ids, _: student.decoder.next_logits(ids, memory), prompt, end=END, longest=LONGEST, banned=_NEVER
    )
    return [vocabulary.decode(ids) for ids in found.tolist()]


# -- training ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """How to train.

    Attributes:
        steps: optimiser steps.
        lr: AdamW's peak learning rate; warm-up of a tenth, then a cosine to zero.
        batch: samples of a step.
        superbatch: samples of which a score chooses the batch.
        score: of `aced.select_losses`; empty for random batches.
        temperature: of the draw.
        seed: of the order of the samples and of the draw.
    """

    steps: int
    lr: float
    batch: int = 32
    superbatch: int = 160
    score: str = ""
    temperature: float = 0.0
    seed: int = 0


@dataclass(frozen=True)
class Cost:
    """What a training took and took place on.

    Attributes:
        trained, loaded: samples.
        seconds: processor seconds, that is wall time on an idle core.
        step_seconds: their median of a step.
        sound: share of sound samples among those trained on.
    """

    trained: int
    loaded: int
    seconds: float
    step_seconds: float
    sound: float


class Learner:
    """AdamW on all weights of a student, by the rates of a plan."""

    def __init__(self, student: Student, plan: Plan) -> None:
        groups = decay_groups(student, _WEIGHT_DECAY, embeddings(student))
        self._student, self._plan = student, plan
        self._optimiser = torch.optim.AdamW(groups, betas=(0.9, 0.95), fused=True)

    def step(self, number: int, batch: Samples) -> None:
        """Step `number`, from 0, on the mean loss of a batch."""
        for group in self._optimiser.param_groups:
            group["lr"] = learning_rate(number, self._plan.steps, peak=self._plan.lr, warmup=_WARMUP)
        self._optimiser.zero_grad(set_to_none=True)
        losses(self._student, batch).mean().backward()
        nn.utils.clip_grad_norm_(self._student.parameters(), _CLIP)
        self._optimiser.step()


def train(student: Student, pool: Samples, plan: Plan, reference: Tensor | None = None) -> Cost:
    """Train in place; the same arguments give the same weights.

    Args:
        student: with initial weights.
        pool: the samples.
        plan: how.
        reference: `[n]` the frozen reference's losses of the pool, for scores that use them.
    """
    learner = Learner(student, plan)
    size = plan.superbatch if plan.score else plan.batch
    orders, draw = drawn(len(pool), size, plan.seed), torch.Generator().manual_seed(plan.seed + 1)
    took, sound = [], 0
    for step in range(plan.steps):
        start = time.process_time()
        rows = next(orders)
        if plan.score:
            rows = rows[chosen(student, pool[rows], plan, None if reference is None else reference[rows], draw)]
        batch = pool[rows]
        learner.step(step, batch)
        took.append(time.process_time() - start)
        sound += int(batch.sound.sum())
    trained = plan.steps * plan.batch
    return Cost(trained, plan.steps * size, sum(took), statistics.median(took), sound / trained)


def chosen(
    student: Student, candidates: Samples, plan: Plan, reference: Tensor | None, draw: torch.Generator
) -> Tensor:
    """`[batch]` positions among the candidates; the student is asked only if the score uses it."""
    own = measured(student, candidates)[0] if SCORES[plan.score].student else None
    return aced.select_losses(
        own, reference, plan.batch, score=plan.score, temperature=plan.temperature, generator=draw
    ).indices


def drawn(n: int, size: int, seed: int) -> Iterator[Tensor]:
    """Without end: `size` rows of n in random order; each row once before any comes again.

    Raises:
        ValueError: there are fewer than `size` rows.
    """
    if n < size:
        raise ValueError(f"drawn: {size} of {n} samples.")
    draw = torch.Generator().manual_seed(seed)
    queue = torch.randperm(n, generator=draw)
    while True:
        if len(queue) < size:
            queue = torch.cat([queue, torch.randperm(n, generator=draw)])
        yield queue[:size]
        queue = queue[size:]


def fitted(student: Student, pool: Samples, validation: Samples, plan: Plan, turns: int = 8) -> tuple[int, float]:
    """Train a reference on random batches, and leave the weights of the turn with the least validation loss.

    Args:
        student: with initial weights.
        pool: what it learns from.
        validation: what decides.
        plan: how, for the longest turn; each shorter one is a stop on the way.
        turns: number of stops.

    Returns:
        steps of the best turn, and its mean validation loss.
    """
    best: tuple[float, int, dict[str, Tensor]] | None = None
    learner = Learner(student, plan)
    orders = drawn(len(pool), plan.batch, plan.seed)
    for step in range(plan.steps):
        learner.step(step, pool[next(orders)])
        if (step + 1) % max(1, plan.steps // turns) == 0:
            loss = float(measured(student, validation)[0].mean())
            if best is None or loss < best[0]:
                best = loss, step + 1, {name: value.clone() for name, value in student.state_dict().items()}
    if best is None:
        raise ValueError(f"fitted: {plan.steps} steps are no turn.")
    student.load_state_dict(best[2])
    return best[1], best[0]
