"""Captions as token ids, a column of a batch: the input of a tower's text half, made without the tower."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from aced.models.compat import import_open_clip
from aced.models.text import Ending
from aced.models.tokenizers import Tokenizer, WordTokenizer, tokenizer_identity
from aced.pool.source import CUT, Candidates, Column

_MAX_CHARACTERS = 2000
"""Captions are cut here before tokenising: 1 MB of text would take seconds to give at most 77 tokens."""
_REMEMBERED = 1 << 16
"""Number of captions whose ids are remembered: 20 MB of ids of 77 tokens and as much text, in each process."""
_MULTIPLE = 8
"""On a device, texts are padded to a multiple of this many tokens: few different shapes, and no odd ones."""
_END = CUT


class TokenIds(Column):
    """The ids of each caption, `[B, T]` int32 with T the context length, and -1 after a caption's last one.

    Two towers with one tokenizer, context length and ending share a column.

    Args:
        tokenizer: texts to ids.
        context_length: longest text in tokens.
        ending: where a text ends if the tower can cut its padding; None for a tower that needs all T ids.
    """

    def __init__(self, tokenizer: Tokenizer, context_length: int, ending: Ending | None) -> None:
        facts = f"{tokenizer_identity(tokenizer)} {context_length} {ending}"
        name = f"ids {hashlib.sha256(facts.encode()).hexdigest()[:12]}"
        super().__init__(name, torch.int32, (context_length,))
        self._tokenizer, self._ending = tokenizer, ending
        self._forget()

    def __len__(self) -> int:
        """Number of remembered captions."""
        return len(self._place)

    def load(self, candidates: Candidates) -> Tensor:
        """As in `Column`, for the captions."""
        return self.of(candidates.texts)

    def of(self, texts: Sequence[str]) -> Tensor:
        """B texts to `[B, T]` int32; earlier texts are remembered."""
        texts = [text[:_MAX_CHARACTERS] for text in texts]
        missing = [text for text in dict.fromkeys(texts) if text not in self._place]
        if len(self._place) + len(missing) > _REMEMBERED:
            self._forget()
            missing = list(dict.fromkeys(texts))
        if missing:
            self._remember(missing)
        return self._table[torch.tensor([self._place[text] for text in texts], dtype=torch.int64)]

    def sent(self, values: Tensor) -> Tensor:
        """As in `Column`: no more columns than the longest text has, rounded up."""
        longest = int(lengths_of(values).max()) if len(values) else 1
        return values[:, : max(1, -(-longest // _MULTIPLE)) * _MULTIPLE]

    def __getstate__(self) -> dict[str, Any]:
        """Without the remembered ids, which another process does not need."""
        return {**self.__dict__, "_tokenizer": pickle.dumps(self._tokenizer), "_place": {}, "_table": self._table[:0]}

    def __setstate__(self, state: dict[str, Any]) -> None:
        if b"open_clip" in state["_tokenizer"]:
            import_open_clip()  # an ordinary import could fail
        self.__dict__.update(state | {"_tokenizer": pickle.loads(state["_tokenizer"])})

    def _forget(self) -> None:
        self._place: dict[str, int] = {}
        self._table = torch.empty(0, *self.shape, dtype=torch.int32)

    def _remember(self, texts: list[str]) -> None:
        first = len(self._place)
        if first + len(texts) > len(self._table):
            table = torch.empty(max(2 * len(self._table), first + len(texts), 256), *self.shape, dtype=torch.int32)
            table[:first] = self._table[:first]
            self._table = table
        self._table[first : first + len(texts)] = self._tokenised(texts)
        self._place.update(zip(texts, range(first, first + len(texts)), strict=True))

    def _tokenised(self, texts: list[str]) -> Tensor:
        if isinstance(self._tokenizer, WordTokenizer) and self._ending is not None:
            # Without the padding, which takes longer than the words.
            rows = [self._tokenizer.encode(text, self.shape[0]) for text in texts]
            return torch.tensor([row + [_END] * (self.shape[0] - len(row)) for row in rows], dtype=torch.int32)
        ids = self._tokenizer(texts)
        if self._ending is None:
            return ids.int()
        behind = torch.arange(ids.shape[1]) > self._ending.positions(ids)[:, None]
        return ids.int().masked_fill(behind, _END)


def lengths_of(ids: Tensor) -> Tensor:
    """`[B, T]` ids with -1 after the end to `[B]` int64 lengths."""
    return (ids >= 0).sum(1)


def padded(ids: Tensor) -> Tensor:
    """`[B, T]` int32 ids with -1 after the end to the `[B, T]` int64 that a text tower reads, padded with 0."""
    return ids.clamp(min=0).long()
