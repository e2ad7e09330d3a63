"""Texts to words and words to ids: the vocabulary of a decoder, built once from its training texts."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

_TOKEN = re.compile(r"n't\b|(?<=\w)'(?:s|re|ve|ll|d|m)\b|\w+?(?=n't\b)|\w+(?:-\w+)*")

PAD, START, END, UNKNOWN, CAPTION, QUESTION, ANSWER = range(7)
"""Ids of the special tokens. A text begins with START and the task's prefix: CAPTION, or QUESTION, the words of the
question, and ANSWER."""
SPECIALS = ("<pad>", "<start>", "<end>", "<unknown>", "<caption>", "<question>", "<answer>")


def split_words(text: str) -> list[str]:
    """The lower-case words of a text, as the COCO caption scorers count them.

    Punctuation is left out, a hyphen inside a word stays in it, and a clitic is a word of its own.

    >>> split_words("Two men's T-shirts don't match.")
    ['two', 'men', "'s", 't-shirts', 'do', "n't", 'match']
    """
    return _TOKEN.findall(text.lower().replace("\u2019", "'"))


def join_words(words: Iterable[str]) -> str:
    """Words as a line of text; clitics are joined to their word."""
    return re.sub(r" (n't|')", r"\1", " ".join(words))


class Vocabulary:
    """Words of a decoder, in a fixed order.

    Args:
        words: each once; ids are counted after the special tokens.
    """

    def __init__(self, words: Sequence[str]) -> None:
        self.words = tuple(words)
        self._ids = {word: len(SPECIALS) + i for i, word in enumerate(self.words)}
        if len(self._ids) != len(self.words):
            raise ValueError("Vocabulary: a word occurs twice.")

    @classmethod
    def build(cls, texts: Iterable[str], keep: Iterable[str], least: int = 2) -> Vocabulary:
        """The words of some texts, the most common first; ties in alphabetical order.

        Args:
            texts: training texts.
            keep: texts whose words are always kept: answers, which could not be given otherwise.
            least: minimum count of any other word.
        """
        counts = Counter(word for text in texts for word in split_words(text))
        always = {word for text in keep for word in split_words(text)}
        chosen = always | {word for word, count in counts.items() if count >= least}
        return cls(sorted(chosen, key=lambda word: (-counts[word], word)))

    def __len__(self) -> int:
        """Number of ids, special tokens included."""
        return len(SPECIALS) + len(self.words)

    def encode(self, text: str) -> list[int]:
        """The ids of a text's words; unknown words become UNKNOWN."""
        return [self._ids.get(word, UNKNOWN) for word in split_words(text)]

    def decode(self, ids: Iterable[int]) -> str:
        """Ids up to the first END as text; other special tokens are left out."""
        words = []
        for one in ids:
            if one == END:
                break
            if one >= len(SPECIALS):
                words.append(self.words[one - len(SPECIALS)])
        return join_words(words)

    def caption_prompt(self) -> list[int]:
        """The beginning of a caption."""
        return [START, CAPTION]

    def question_prompt(self, question: str, longest: int) -> list[int]:
        """The beginning of an answer; for a long question the first `longest` words."""
        return [START, QUESTION, *self.encode(question)[:longest], ANSWER]
