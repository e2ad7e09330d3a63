"""Scores of a decoder's texts beside those without the image: a blind decoder, one constant text, other people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from aced.lab.lit.text_metrics import Cider, accuracy, answer_score, caption_scores
from aced.lab.lit.texts import TextExamples

_SAMPLED = 400
"""Number of training captions among which the constant caption is chosen."""


@dataclass(frozen=True)
class Written:
    """The texts written for a test set.

    Attributes:
        greedy: by the decoder, one text for each example.
        beam: by the decoder with beam search; for captions only.
        blind: by the decoder that was trained without pictures.
        constant: the one text that needs neither picture nor question.
    """

    greedy: list[str]
    beam: list[str] | None
    blind: list[str]
    constant: str

    @property
    def best(self) -> list[str]:
        """The texts shown in the tables and in the gallery."""
        return self.greedy if self.beam is None else self.beam


def references(examples: TextExamples) -> list[tuple[str, ...]]:
    """The captions that a text is scored against: all but the first, which represents a person's own text.

    If some image has only one caption, all of them.
    """
    if min(len(texts) for texts in examples.texts) < 2:
        return list(examples.texts)
    return [texts[1:] for texts in examples.texts]


def constant_caption(train: Sequence[TextExamples], seed: int = 0) -> str:
    """The training caption that is most similar to the others by CIDEr-D, among some hundred drawn from all sets."""
    captions = [text for examples in train if examples.kind == "caption" for texts in examples.texts for text in texts]
    draw = torch.Generator().manual_seed(seed)
    drawn = [captions[i] for i in torch.randperm(len(captions), generator=draw)[: 2 * _SAMPLED].tolist()]
    judges = Cider([[text] for text in drawn[: max(1, len(drawn) // 2)]])
    candidates = sorted(set(drawn[len(drawn) // 2 :]))
    likeness = [float(judges.scores([text] * judges.pictures).mean()) for text in candidates]
    return candidates[max(range(len(candidates)), key=lambda i: likeness[i])]


def constant_answer(train: Sequence[TextExamples]) -> str:
    """The most common answer of all training questions; ties go to the first in the alphabet."""
    counts = Counter(texts[0] for examples in train if examples.kind == "vqa" for texts in examples.texts)
    return min(counts, key=lambda answer: (-counts[answer], answer))


def constant_text(train: Sequence[TextExamples], kind: str) -> str:
    """The constant text of a kind of task."""
    return constant_caption(train) if kind == "caption" else constant_answer(train)


def score(examples: TextExamples, written: Written) -> dict[str, Any]:
    """A test set's entry in `results.json`.

    `scores` are those of the best decoding, `greedy` those of the other; `baselines` those without the image and, for
    captions, of the first caption against the others ("human") and of another image's first caption ("shuffled").
    """
    entry: dict[str, Any] = {"name": examples.name, "kind": examples.kind, "n": len(examples)}
    if examples.kind == "caption":
        return entry | _caption_entry(examples, written)
    entry |= {
        "chance": examples.chance,
        "scores": {"accuracy": accuracy(written.best, examples.texts)},
        "baselines": {
            "no image": {"accuracy": accuracy(written.blind, examples.texts)},
            "constant": {"accuracy": accuracy([written.constant] * len(examples), examples.texts)},
        },
        "constant": written.constant,
    }
    if examples.types:
        entry["types"] = _by_type(examples, written)
    return entry


def _caption_entry(examples: TextExamples, written: Written) -> dict[str, Any]:
    right = references(examples)
    baselines = {
        "no image": caption_scores(written.blind, right),
        "constant": caption_scores([written.constant] * len(examples), right),
    }
    if min(len(texts) for texts in examples.texts) > 1:
        first = [texts[0] for texts in examples.texts]
        baselines["shuffled"] = caption_scores(shuffled(first), right)
        baselines["human"] = caption_scores(first, right)
    entry: dict[str, Any] = {
        "references": sorted({len(texts) for texts in right})[-1],
        "scores": caption_scores(written.best, right),
        "baselines": baselines,
        "constant": written.constant,
    }
    if written.beam is not None:
        entry["greedy"] = caption_scores(written.greedy, right)
    return entry


def shuffled(texts: Sequence[str], seed: int = 0) -> list[str]:
    """Every text at another's place: all in one random cycle."""
    ring = torch.randperm(len(texts), generator=torch.Generator().manual_seed(seed)).tolist()
    moved = list(texts)
    for here, there in zip(ring, ring[1:] + ring[:1], strict=True):
        moved[here] = texts[there]
    return moved


def _by_type(examples: TextExamples, written: Written) -> dict[str, dict[str, float]]:
    """Number of questions and accuracies for each sort of question."""
    found: dict[str, dict[str, float]] = {}
    for name in sorted(set(examples.types)):
        rows = [i for i, one in enumerate(examples.types) if one == name]
        means = {
            key: sum(answer_score(texts[i], examples.texts[i]) for i in rows) / len(rows)
            for key, texts in (("accuracy", written.best), ("no image", written.blind))
        }
        found[name] = {"n": len(rows), **means}
    return found
