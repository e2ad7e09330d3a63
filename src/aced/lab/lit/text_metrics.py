"""Scores of written texts: CIDEr-D, BLEU-4 and ROUGE-L for captions, accuracy for answers. Pure functions.

The three caption scores equal those of the COCO caption scorers (`pycocoevalcap`) to the digit on the same words; only
its tokenizer needs Java, and `words.split_words` replaces it. No maintained library has CIDEr-D without Java, and the
maintained ones define ROUGE-L differently, so their figures could not be compared with the field's.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from aced.lab.lit.words import split_words

Ngram = tuple[str, ...]

_LONGEST = 4
_SIGMA = 6.0
"""Width of CIDEr-D's penalty on a difference in length, in words."""
_BETA = 1.2
"""ROUGE-L's weight of recall over precision, as in COCO."""

CAPTION_SCORES = ("CIDEr-D", "BLEU-4", "ROUGE-L")


@dataclass(frozen=True)
class _Weighted:
    """A text's n-grams by order with tf-idf weights, the norm of each order, and its number of bigrams."""

    weights: list[dict[Ngram, float]]
    norms: list[float]
    length: int


class Cider:
    """CIDEr-D against fixed references; 10 for a caption that equals its references.

    Args:
        references: the captions of each image. The rarity of an n-gram is counted over these images.

    Raises:
        ValueError: there are no references, or a picture has none.
    """

    def __init__(self, references: Sequence[Sequence[str]]) -> None:
        _check(references)
        counts = [[_ngrams(split_words(text)) for text in texts] for texts in references]
        self._frequency: Counter[Ngram] = Counter()
        for texts in counts:
            self._frequency.update({ngram for text in texts for ngram in text})
        self._log_pictures = math.log(len(references))
        self._references = [[self._weigh(text) for text in texts] for texts in counts]

    @property
    def pictures(self) -> int:
        """Number of pictures."""
        return len(self._references)

    def scores(self, captions: Sequence[str]) -> np.ndarray:
        """One caption for each picture to `[n]` scores; their mean is the CIDEr-D of a data set."""
        if len(captions) != len(self._references):
            raise ValueError(f"Cider: {len(captions)} captions for {len(self._references)} pictures.")
        weighed = {text: self._weigh(_ngrams(split_words(text))) for text in set(captions)}
        return np.array(
            [
                10 * sum(_alike(weighed[text], reference) for reference in references) / len(references)
                for text, references in zip(captions, self._references, strict=True)
            ]
        )

    def _weigh(self, counts: Counter[Ngram]) -> _Weighted:
        weights: list[dict[Ngram, float]] = [{} for _ in range(_LONGEST)]
        for ngram, count in counts.items():
            rare = self._log_pictures - math.log(max(1, self._frequency[ngram]))
            weights[len(ngram) - 1][ngram] = count * rare
        norms = [math.sqrt(sum(value**2 for value in order.values())) for order in weights]
        # The published scorer uses the number of bigrams as length.
        length = sum(count for ngram, count in counts.items() if len(ngram) == 2)
        return _Weighted(weights, norms, length)


def _alike(caption: _Weighted, reference: _Weighted) -> float:
    """The mean over the orders of the clipped cosine, times the penalty on the length."""
    total = 0.0
    for own, other, norm, other_norm in zip(
        caption.weights, reference.weights, caption.norms, reference.norms, strict=True
    ):
        if norm and other_norm:
            shared = sum(min(value, other[ngram]) * other[ngram] for ngram, value in own.items() if ngram in other)
            total += shared / (norm * other_norm)
    return total / _LONGEST * math.exp(-((caption.length - reference.length) ** 2) / (2 * _SIGMA**2))


def cider_d(captions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """CIDEr-D of one caption for each picture; see `Cider`."""
    return float(Cider(references).scores(captions).mean())


def bleu_4(captions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """BLEU-4 of a whole set, in [0, 1]: counts are summed over the pictures, lengths against the closest reference."""
    _check(references, captions)
    right, guessed = [0] * _LONGEST, [0] * _LONGEST
    length = nearest = 0
    for caption, texts in zip(captions, references, strict=True):
        words = split_words(caption)
        most: Counter[Ngram] = Counter()
        lengths = []
        for text in texts:
            other = split_words(text)
            lengths.append(len(other))
            most |= _ngrams(other)
        for ngram, count in _ngrams(words).items():
            right[len(ngram) - 1] += min(count, most[ngram])
        for order in range(_LONGEST):
            guessed[order] += max(0, len(words) - order)
        length += len(words)
        nearest += min((abs(one - len(words)), one) for one in lengths)[1]
    if not all(right):
        return 0.0
    precision = math.exp(sum(math.log(r / g) for r, g in zip(right, guessed, strict=True)) / _LONGEST)
    return precision * min(1.0, math.exp(1 - nearest / length))


def rouge_l(captions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Mean ROUGE-L in [0, 1]: F-score of the longest common subsequence, best precision and best recall."""
    _check(references, captions)
    total = 0.0
    for caption, texts in zip(captions, references, strict=True):
        words = split_words(caption)
        precision = recall = 0.0
        for other in map(split_words, texts):
            common = _common(words, other)
            precision = max(precision, common / len(words) if words else 0.0)
            recall = max(recall, common / len(other) if other else 0.0)
        if precision and recall:
            total += (1 + _BETA**2) * precision * recall / (recall + _BETA**2 * precision)
    return total / len(captions)


def caption_scores(captions: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """All of `CAPTION_SCORES`, with CIDEr-D as the field writes it (a caption that equals its references has 10)."""
    values = (cider_d(captions, references), bleu_4(captions, references), rouge_l(captions, references))
    return dict(zip(CAPTION_SCORES, values, strict=True))


def _check(references: Sequence[Sequence[str]], captions: Sequence[str] | None = None) -> None:
    if not references or not all(references):
        raise ValueError("Caption scores: there must be pictures, each with at least one reference.")
    if captions is not None and len(captions) != len(references):
        raise ValueError(f"Caption scores: {len(captions)} captions for {len(references)} pictures.")


def _ngrams(words: Sequence[str]) -> Counter[Ngram]:
    """All n-grams of one to four words, counted."""
    return Counter(
        tuple(words[at : at + order]) for order in range(1, _LONGEST + 1) for at in range(len(words) - order + 1)
    )


def _common(a: Sequence[str], b: Sequence[str]) -> int:
    """Length of the longest common subsequence."""
    row = [0] * (len(b) + 1)
    for one in a:
        before = 0
        for j, other in enumerate(b, 1):
            before, row[j] = row[j], before + 1 if one == other else max(row[j], row[j - 1])
    return row[-1]


# -- answers -------------------------------------------------------------------------------------------------

_ARTICLES = {"a", "an", "the"}
_NUMBERS = {
    word: str(number)
    for number, word in enumerate("zero one two three four five six seven eight nine ten".split())  # noqa: SIM905
} | {"none": "0"}


def normal_answer(answer: str) -> str:
    """An answer in the form for comparison: lower case, without punctuation and articles, numbers up to ten as digits.

    >>> normal_answer("The two Dogs."), normal_answer("on-the-left")
    ('2 dogs', 'on left')
    """
    words = [_NUMBERS.get(word, word) for word in split_words(answer.replace("-", " "))]
    return " ".join(word for word in words if word not in _ARTICLES)


def answer_score(answer: str, right: Sequence[str]) -> float:
    """The correctness of an answer, in [0, 1], after `normal_answer` of both.

    With one or two right answers: whether it is one of them. With more (VQA asks ten people): the mean over the
    subsets that leave one person out of min(people who said it / 3, 1), as VQA defines it.
    """
    said = normal_answer(answer)
    same = [normal_answer(one) == said for one in right]
    if len(right) < 3:
        return float(any(same))
    count = sum(same)
    return sum(min((count - own) / 3, 1.0) for own in same) / len(right)


def accuracy(answers: Sequence[str], right: Sequence[Sequence[str]]) -> float:
    """Mean `answer_score`, in [0, 1]."""
    if len(answers) != len(right) or not right:
        raise ValueError(f"accuracy: {len(answers)} answers to {len(right)} questions.")
    return sum(answer_score(one, texts) for one, texts in zip(answers, right, strict=True)) / len(right)
