"""Caption scores against those of pycocoevalcap 1.2, answers against VQA's rules, anchors on real captions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from lit_fakes import REFERENCES, WRITTEN

from aced.lab.lit.caption_files import load_caption_task
from aced.lab.lit.score import references, shuffled
from aced.lab.lit.text_metrics import (
    Cider,
    accuracy,
    answer_score,
    bleu_4,
    caption_scores,
    cider_d,
    normal_answer,
    rouge_l,
)
from aced.lab.lit.words import Vocabulary, join_words, split_words

# Of WRITTEN against REFERENCES: pycocoevalcap 1.2, Cider(), Bleu(4) and Rouge() on the texts as they are.
CIDER_EACH = [2.2456068538844844, 2.1448287529847274, 1.0378645340116979, 2.4347263325795545, 1.4416494235367003, 0.0]
CIDER, BLEU, ROUGE = 1.550779316166194, 0.44006122183988794, 0.6357071817810607
ROUGE_EACH = [
    0.7904967602591793,
    0.8356164383561644,
    0.657935285053929,
    0.7384987893462469,
    0.6112224448897796,
    0.1804733727810651,
]


def test_the_scores_are_those_of_pycocoevalcap() -> None:
    assert Cider(REFERENCES).scores(WRITTEN) == pytest.approx(CIDER_EACH, abs=1e-9)
    assert cider_d(WRITTEN, REFERENCES) == pytest.approx(CIDER, abs=1e-9)
    assert bleu_4(WRITTEN, REFERENCES) == pytest.approx(BLEU, abs=1e-9)
    assert rouge_l(WRITTEN, REFERENCES) == pytest.approx(ROUGE, abs=1e-9)
    each = [rouge_l([one], [texts]) for one, texts in zip(WRITTEN, REFERENCES, strict=True)]
    assert each == pytest.approx(ROUGE_EACH, abs=1e-9)


def test_a_caption_that_equals_its_only_reference_has_the_highest_scores() -> None:
    texts = [f"word{i} runs over hill{i} to sea{i}" for i in range(5)]
    right = [(text,) for text in texts]
    assert caption_scores(texts, right) == pytest.approx({"CIDEr-D": 10, "BLEU-4": 1, "ROUGE-L": 1})
    assert cider_d(shuffled(texts), right) < 1


def test_order_of_pictures_and_of_references_does_not_matter() -> None:
    order = np.random.default_rng(0).permutation(len(WRITTEN)).tolist()
    turned = [REFERENCES[i][::-1] for i in order]
    assert caption_scores([WRITTEN[i] for i in order], turned) == pytest.approx(caption_scores(WRITTEN, REFERENCES))


def test_empty_texts_score_nothing() -> None:
    assert set(caption_scores([""] * len(REFERENCES), REFERENCES).values()) == {0.0}


def test_what_does_not_fit_together_is_refused() -> None:
    for call in (cider_d, bleu_4, rouge_l):
        with pytest.raises(ValueError, match="captions"):
            call(WRITTEN[:2], REFERENCES)
        with pytest.raises(ValueError, match="reference"):
            call([], [])


# -- words -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Two dogs, one ball .", "two dogs one ball"),
        ("A man's black-and-white T-shirt!", "a man 's black-and-white t-shirt"),
        ("one - two -- three-", "one two three"),
        ("They don’t; can't (won't)", "they do n't ca n't wo n't"),
        ("A 'quoted' dog's", "a quoted dog 's"),
        ("", ""),
    ],
)
def test_words_are_those_of_the_treebank_without_punctuation(text: str, words: str) -> None:
    assert split_words(text) == words.split()


def test_words_go_back_to_a_line() -> None:
    assert join_words(split_words("a man's dog doesn't bark")) == "a man's dog doesn't bark"


def test_the_vocabulary_keeps_answers_and_what_is_said_twice() -> None:
    words = Vocabulary.build(["a red ball", "a red cat", "nothing"], keep=["magenta"])
    assert words.words == ("a", "red", "magenta")
    ids = words.encode("A red dog.")
    assert words.decode([*ids, 2, *ids]) == "a red"  # up to the end, unknown words left out
    assert Vocabulary(words.words).encode("magenta") == words.encode("magenta")


# -- answers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "normal"),
    [("Yes.", "yes"), ("the Two", "2"), ("a  red-ball", "red ball"), ("An apple", "apple"), ("none", "0"), ("", "")],
)
def test_answers_are_normalised(answer: str, normal: str) -> None:
    assert normal_answer(answer) == normal == normal_answer(normal)


def test_one_right_answer_is_right_or_wrong() -> None:
    assert answer_score("Two", ["2"]) == 1
    assert answer_score("three", ["2"]) == 0
    assert accuracy(["yes", "no", "The left"], [["yes"], ["yes"], ["left"]]) == pytest.approx(2 / 3)


@pytest.mark.parametrize("same", range(11))
def test_ten_answers_count_as_vqa_counts_them(same: int) -> None:
    right = ["red"] * same + ["blue"] * (10 - same)
    by_subsets = [min((right[:i] + right[i + 1 :]).count("red") / 3, 1) for i in range(10)]
    assert answer_score("Red!", right) == pytest.approx(sum(by_subsets) / 10)


# -- anchors ---------------------------------------------------------------------------------------------------------


def test_anchors_on_the_test_of_flickr8k(shared_data: Path) -> None:
    """Caption 1 of 1000 photos against captions 2 to 5: people, one constant caption, another photo's caption."""
    examples = load_caption_task(shared_data / "eval/wds_flickr8k")
    right, first = references(examples), [texts[0] for texts in examples.texts]
    assert {len(texts) for texts in right} == {4}
    assert cider_d(first, right) == pytest.approx(0.789, abs=0.001)
    assert cider_d(shuffled(first), right) == pytest.approx(0.031, abs=0.003)
    constant = ["A dog is running in the grass ."] * len(first)
    assert cider_d(constant, right) == pytest.approx(0.099, abs=0.003)
