"""Training a decoder on captions and questions together, and writing with it. Seeded; the encoder stays unchanged."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from aced.errors import AcedError
from aced.lab.lit.decode import beam_search, greedy
from aced.lab.lit.decoder import TextDecoder
from aced.lab.lit.texts import TextExamples
from aced.lab.lit.tokens import PatchTokens
from aced.lab.lit.words import END, PAD, SPECIALS, Vocabulary
from aced.pool.source import Source
from aced.train.optim import decay_groups

StepTick = Callable[[int, int], None]
Sight = Mapping[int, PatchTokens] | None
"""The tokens of each source by its `id`; None for a blind decoder."""

LONGEST_CAPTION, LONGEST_ANSWER = 24, 6
"""Maximum number of words to write."""
_NEVER = tuple(one for one in range(len(SPECIALS)) if one != END)
_IGNORE = -100
_ROWS = 256
"""Number of texts written at a time."""


@dataclass(frozen=True)
class DecoderSettings:
    """How to train a decoder.

    Attributes:
        steps: optimiser steps.
        batch: examples per step, split evenly over the training sets.
        lr: AdamW's peak learning rate; warm-up of a tenth, then a cosine to zero.
        weight_decay: on matrices.
        clip: largest norm of the gradient.
    """

    steps: int = 600
    batch: int = 96
    lr: float = 3e-3
    weight_decay: float = 0.05
    clip: float = 1.0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch < 1 or not self.lr > 0:
            raise AcedError(
                f"A decoder needs steps and a batch of 1 or more and a positive learning rate, not {self.steps}, "
                f"{self.batch} and {self.lr}."
            )


@dataclass(frozen=True)
class _Encoded:
    """A training set as ids: for each example the given ids, and the texts to learn."""

    rows: Sequence[int]
    given: list[list[int]]
    texts: list[list[list[int]]]
    sight: PatchTokens | None


def train_decoder(
    decoder: TextDecoder,
    vocabulary: Vocabulary,
    train: Sequence[TextExamples],
    sight: Sight,
    settings: DecoderSettings,
    seed: int,
    tick: StepTick | None = None,
) -> list[float]:
    """Train in place; the same arguments give the same weights.

    Every step takes equally many examples of each training set. If an example has several captions, one is drawn. The
    loss is the cross-entropy of the text's ids, its end included, averaged over the ids of an example and then over the
    examples, so that long captions do not outweigh short answers.

    Args:
        decoder: with initial weights.
        vocabulary: words of the decoder.
        train: the sets.
        sight: patch tokens, or None for a blind decoder.
        settings: length and learning rate.
        seed: of the order and the dropout; torch's global generator is restored.
        tick: called with (steps done, all steps).

    Returns:
        the loss of each step.

    Raises:
        AcedError: the loss is not finite.
    """
    encoded = [_encode(examples, vocabulary, sight, decoder.shape.max_length) for examples in train]
    device = decoder.positions.device
    size = max(1, settings.batch // len(encoded))
    streams = [_batches(part, size, seed, i) for i, part in enumerate(encoded)]
    optimiser = _optimiser(decoder, settings)
    losses: list[float] = []
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        decoder.train()
        for step in range(settings.steps):
            for group in optimiser.param_groups:
                group["lr"] = settings.lr * _schedule(step, settings.steps)
            each = [_loss(decoder, next(stream), part.sight) for stream, part in zip(streams, encoded, strict=True)]
            mean = torch.stack(each).mean()
            if not torch.isfinite(mean):
                raise AcedError(f"The decoder's loss is not finite at step {step}: lower --lr.")
            optimiser.zero_grad(set_to_none=True)
            mean.backward()
            torch.nn.utils.clip_grad_norm_(decoder.parameters(), settings.clip)
            optimiser.step()
            losses.append(float(mean.detach()))
            if tick is not None:
                tick(step + 1, settings.steps)
    decoder.eval()
    return losses


def _encode(examples: TextExamples, vocabulary: Vocabulary, sight: Sight, max_length: int) -> _Encoded:
    tokens = None if sight is None else sight[id(examples.source)]
    keep = range(len(examples)) if tokens is None else tokens.usable(examples.rows)
    given, texts = [], []
    for i in keep:
        prompt = _prompt(examples, i, vocabulary, max_length)
        room = max_length + 1 - len(prompt)
        given.append(prompt)
        texts.append([[*vocabulary.encode(text), END][:room] for text in examples.texts[i]])
    return _Encoded([examples.rows[i] for i in keep], given, texts, tokens)


def _prompt(examples: TextExamples, i: int, vocabulary: Vocabulary, max_length: int) -> list[int]:
    if examples.kind == "caption":
        return vocabulary.caption_prompt()
    return vocabulary.question_prompt(examples.questions[i], max_length - LONGEST_ANSWER - 3)


def _batches(part: _Encoded, size: int, seed: int, number: int) -> Iterator[tuple[list[int], Tensor, Tensor]]:
    """Without end: rows of the source, ids `[size, L]`, and the ids to predict `[size, L]`."""
    draw = torch.Generator().manual_seed(1_000_003 * seed + number)
    queue: list[int] = []
    while True:
        while len(queue) < size:
            queue += torch.randperm(len(part.given), generator=draw).tolist()
        chosen, queue = queue[:size], queue[size:]
        which = torch.rand(size, generator=draw).tolist()
        texts = [part.texts[i][int(u * len(part.texts[i]))] for i, u in zip(chosen, which, strict=True)]
        given = [part.given[i] for i in chosen]
        longest = max(len(g) + len(t) for g, t in zip(given, texts, strict=True)) - 1
        ids = torch.full((size, longest), PAD)
        targets = torch.full((size, longest), _IGNORE)
        for row, (g, t) in enumerate(zip(given, texts, strict=True)):
            whole = g + t
            ids[row, : len(whole) - 1] = torch.tensor(whole[:-1])
            targets[row, len(g) - 1 : len(whole) - 1] = torch.tensor(t)
        yield [part.rows[i] for i in chosen], ids, targets


def _loss(decoder: TextDecoder, batch: tuple[list[int], Tensor, Tensor], sight: PatchTokens | None) -> Tensor:
    rows, ids, targets = batch
    device = decoder.positions.device
    ids, targets = ids.to(device), targets.to(device)
    memory = decoder.memory(None if sight is None else sight.rows(rows).to(device), len(rows))
    logits = decoder(ids, memory)
    each = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=_IGNORE, reduction="none")
    each, known = each.view_as(targets), targets != _IGNORE
    return (each.sum(dim=1) / known.sum(dim=1)).mean()


def _optimiser(decoder: TextDecoder, settings: DecoderSettings) -> torch.optim.AdamW:
    groups = decay_groups(decoder, settings.weight_decay, decoder.no_weight_decay())
    return torch.optim.AdamW(groups, lr=settings.lr, betas=(0.9, 0.95))


def _schedule(step: int, steps: int) -> float:
    """Share of the peak learning rate."""
    warm = max(1, steps // 10)
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + float(torch.cos(torch.tensor(torch.pi * (step - warm) / max(1, steps - warm)))))


# -- writing -------------------------------------------------------------------------------------------------


def write_texts(
    decoder: TextDecoder,
    vocabulary: Vocabulary,
    examples: TextExamples,
    sight: Sight,
    *,
    beams: int = 1,
    length_power: float = 0.7,
    tick: StepTick | None = None,
) -> list[str]:
    """A trained decoder's text for each example: a caption, or an answer.

    Args:
        decoder: in evaluation mode.
        vocabulary: words of the decoder.
        examples: the pictures, and the questions.
        sight: patch tokens, or None for a blind decoder.
        beams: 1 decodes greedily, more by beam search.
        length_power: of the beam search; see `beam_search`.
        tick: called with (texts written, all texts).
    """
    longest = LONGEST_CAPTION if examples.kind == "caption" else LONGEST_ANSWER
    prompts = [_prompt(examples, i, vocabulary, decoder.shape.max_length) for i in range(len(examples))]
    written = [""] * len(examples)
    done = 0
    for part in _by_length(prompts):
        found = _write(
            decoder, [prompts[i] for i in part], [examples.rows[i] for i in part],
            None if sight is None else sight[id(examples.source)], longest, beams, length_power,
        )  # fmt: skip
        for i, ids in zip(part, found, strict=True):
            written[i] = vocabulary.decode(ids)
        done += len(part)
        if tick is not None:
            tick(done, len(examples))
    return written


def _by_length(prompts: Sequence[Sequence[int]]) -> Iterator[list[int]]:
    """Positions of prompts of one length, at most `_ROWS`: decoding uses no padding."""
    by: dict[int, list[int]] = {}
    for i, prompt in enumerate(prompts):
        by.setdefault(len(prompt), []).append(i)
    for part in by.values():
        for at in range(0, len(part), _ROWS):
            yield part[at : at + _ROWS]


def _write(
    decoder: TextDecoder,
    prompts: list[list[int]],
    rows: list[int],
    sight: PatchTokens | None,
    longest: int,
    beams: int,
    length_power: float,
) -> list[list[int]]:
    device = decoder.positions.device
    with torch.no_grad():
        memory = decoder.memory(None if sight is None else sight.rows(rows).to(device), len(rows))
        prompt = torch.tensor(prompts, device=device)

        def model(ids: Tensor, items: Tensor) -> Tensor:
            return decoder.next_logits(ids, memory if len(items) == len(memory) else memory[items])

        if beams == 1:
            return greedy(model, prompt, end=END, longest=longest, banned=_NEVER).tolist()
        found, _ = beam_search(
            model, prompt, end=END, longest=longest, beams=beams, banned=_NEVER, length_power=length_power
        )
    return found.tolist()


def sight_of(sources: Sequence[Source], tokens: Sequence[PatchTokens]) -> dict[int, PatchTokens]:
    """Patch tokens by source."""
    return {id(source): found for source, found in zip(sources, tokens, strict=True)}
