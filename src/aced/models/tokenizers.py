"""A word tokenizer for small models, the choice of a model's tokenizer, and tokenizer fingerprints."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from aced.errors import AcedError
from aced.models.compat import config_folders, import_open_clip

Tokenizer = Callable[[list[str]], Tensor]
"""As in open_clip: a list of B texts to `[B, context_length]` int64."""

CLIP_VOCABULARY_SIZE = 49408

_PIECES = re.compile(r"\w+|[^\w\s]")
_BYTES = 256
_SPACE = 1 + ord(" ")


class WordTokenizer:
    """One id per known word; an unknown word becomes its UTF-8 bytes and a space.

    Ids: 0 pads, 1 to 256 are bytes, then the words in order, then the end of the text. The end has the highest id,
    because the text towers pool at the highest id. Texts are lower-cased; there is no start id.

    Args:
        words: the vocabulary, without repeats.
        context_length: length of the rows; longer texts are cut and still end in the end id.
    """

    def __init__(self, words: Iterable[str], context_length: int = 32) -> None:
        self.words = tuple(words)
        self.context_length = context_length
        self._ids = {word: 1 + _BYTES + i for i, word in enumerate(self.words)}
        if len(self._ids) != len(self.words):
            raise AcedError("The vocabulary holds a word twice; list every word once.")
        self.eot_token_id = 1 + _BYTES + len(self.words)
        self.vocab_size = self.eot_token_id + 1

    @classmethod
    def from_file(cls, path: Path, context_length: int = 32) -> WordTokenizer:
        """Read a vocabulary, one word a line."""
        try:
            words = path.read_text(encoding="utf-8").split("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise AcedError(f"Cannot read the vocabulary {path}: {error}.") from None
        return cls([word for word in words if word], context_length)

    def encode(self, text: str, context_length: int | None = None) -> list[int]:
        """The ids of a text with the end id, at most `context_length` of them."""
        limit = context_length or self.context_length
        ids: list[int] = []
        for word in text.lower().split():
            known = self._ids.get(word)
            if known is not None:
                ids.append(known)
            else:
                for piece in _PIECES.findall(word):
                    ids.extend(self._piece(piece))
            if len(ids) >= limit:
                break
        return [*ids[: limit - 1], self.eot_token_id]

    def _piece(self, piece: str) -> Sequence[int]:
        """A word without surrounding spaces: its id, or its bytes and a space that separates it from the next."""
        known = self._ids.get(piece)
        if known is not None:
            return (known,)
        return (*(1 + byte for byte in piece.encode("utf-8", "replace")), _SPACE)

    def __call__(self, texts: str | Sequence[str], context_length: int | None = None) -> Tensor:
        """B texts (or one) to `[B, context_length]` int64, padded with 0."""
        rows = [self.encode(text, context_length) for text in ([texts] if isinstance(texts, str) else texts)]
        out = torch.zeros(len(rows), context_length or self.context_length, dtype=torch.int64)
        for i, row in enumerate(rows):
            out[i, : len(row)] = torch.tensor(row)
        return out


def word_lists() -> dict[int, tuple[str, ...]]:
    """The word lists beside the configs of registered architectures, by the `vocab_size` that they need."""
    return _word_lists(config_folders())


@cache
def _word_lists(folders: tuple[Path, ...]) -> dict[int, tuple[str, ...]]:
    files = [file for folder in folders for file in sorted(folder.glob("*-vocab.txt"))]
    lists = [WordTokenizer.from_file(file) for file in files]
    return {words.vocab_size: words.words for words in lists}


def choose_tokenizer(
    name: str, text_cfg: Mapping[str, Any], context_length: int, vocabulary: Path | None = None
) -> Tokenizer:
    """The tokenizer that belongs to a model config.

    A vocabulary file beside the config takes precedence; then a Hugging Face tokenizer that the config names (local
    folders only); then a registered word list (`word_lists`) with this `vocab_size`; then CLIP's own 49,408 pieces.
    The model's name decides nothing.

    Args:
        name: the model, for the error messages.
        text_cfg: the `text_cfg` of the open_clip config.
        context_length: of the built text tower.
        vocabulary: a word list that belongs to this model, if there is one.

    Raises:
        AcedError: the tokenizer would need a download, or does not fit `vocab_size`.
    """
    size = int(text_cfg.get("vocab_size", CLIP_VOCABULARY_SIZE))
    source = text_cfg.get("hf_tokenizer_name")
    if vocabulary is not None:
        words = WordTokenizer.from_file(vocabulary, context_length)
        if words.vocab_size > size:
            raise AcedError(
                f"{name}: the words of {vocabulary} need vocab_size {words.vocab_size} "
                f"({_BYTES + 2} more than words), but text_cfg.vocab_size is {size}."
            )
        return words
    if source:
        return _hugging_face(name, str(source), text_cfg, context_length)
    if size in word_lists():
        return WordTokenizer(word_lists()[size], context_length)
    if size < CLIP_VOCABULARY_SIZE:
        raise AcedError(
            f"{name}: text_cfg.vocab_size is {size}, but no known tokenizer has that few pieces; set it to "
            f"{CLIP_VOCABULARY_SIZE} (CLIP), to {', '.join(map(str, word_lists()))} (the demo family's words), "
            "or put a word list named like the config, ending in '-vocab.txt', beside it."
        )
    options = dict(text_cfg.get("tokenizer_kwargs") or {})
    if options.get("reduction_mask"):
        raise AcedError(f"{name}: tokenizer_kwargs.reduction_mask shortens texts at random; remove it from the config.")
    return cast(Tokenizer, import_open_clip().SimpleTokenizer(context_length=context_length, **options))


def _hugging_face(name: str, source: str, text_cfg: Mapping[str, Any], context_length: int) -> Tokenizer:
    """A Hugging Face tokenizer from a local folder."""
    if not Path(source).is_dir():
        raise AcedError(
            f"{name}: its tokenizer '{source}' would need a download, which naming a tag of the weights or their "
            "repository (hf-hub:ORGANISATION/MODEL) permits; or copy the tokenizer's files into a folder and name it "
            "in 'text_cfg.hf_tokenizer_name' of a local copy of the config."
        )
    options = dict(text_cfg.get("tokenizer_kwargs") or {})
    asks = options.pop("trust_remote_code", False)
    try:
        return cast(
            Tokenizer,
            import_open_clip().tokenizer.HFTokenizer(
                source,
                context_length=context_length,
                tokenizer_mode=text_cfg.get("tokenizer_mode"),
                **options | {"local_files_only": True, "trust_remote_code": False},
            ),
        )
    except ImportError:
        raise AcedError(f"{name}: its tokenizer needs transformers: run `pip install transformers`.") from None
    except (OSError, ValueError) as error:
        if asks or "trust_remote_code" in str(error):
            raise AcedError(
                f"{name}: its tokenizer in {source} asks to run its own code, which aced never does: use a "
                "model whose tokenizer transformers knows."
            ) from None
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise AcedError(f"{name}: cannot read the tokenizer in {source}: {reason}") from None


def tokenizer_identity(tokenizer: Any) -> str:
    """A hash of everything in a tokenizer that decides its ids: class, vocabulary and cleaning."""
    inner = getattr(tokenizer, "tokenizer", tokenizer)
    vocabulary: Any
    if isinstance(tokenizer, WordTokenizer):
        vocabulary = list(tokenizer.words)
    elif hasattr(inner, "get_vocab"):
        vocabulary = sorted(inner.get_vocab().items())
    else:
        vocabulary = sorted(getattr(inner, "encoder", {}).items())
    clean = getattr(tokenizer, "clean_fn", None)
    options = {
        "class": f"{type(tokenizer).__name__}/{type(inner).__name__}",
        "clean": getattr(clean, "__name__", ""),
        "mode": getattr(tokenizer, "tokenizer_mode", ""),
        "strip": getattr(tokenizer, "strip_sep_token", False),
        "vocabulary": vocabulary,
    }
    if not vocabulary:  # a user's code, identified by its name
        kind = tokenizer if hasattr(tokenizer, "__qualname__") else type(tokenizer)
        options["code"] = f"{kind.__module__}.{kind.__qualname__}"
    return hashlib.sha256(json.dumps(options).encode()).hexdigest()
