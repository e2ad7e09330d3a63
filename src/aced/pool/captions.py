"""A sample's caption from the bytes of its member: the field, the choice among several, and cleaning."""

from __future__ import annotations

import codecs
import hashlib
import json
import re
from dataclasses import dataclass
from typing import Any, Literal

from aced.errors import AcedError
from aced.files.standins import HEAD, stand_in

MAX_CAPTION = 8192
"""Characters of a caption to keep; a tokenizer needs seconds for a megabyte, of which 77 tokens remain."""

_SHOWN = 40
"""Characters of a value that a message shows."""
_MOST_WORDS = 5
"""Minimum length of a list of single words that counts as one text in pieces and not as several captions."""
_PLACEHOLDERS = frozenset({"nan", "NaN", "None", "null", "NULL", "<NA>", "undefined"})
_PRINTED = re.compile(r"[\[{]\s*(['\"{\[].*)?[\]}]", re.DOTALL)

CaptionChoice = Literal["whole", "first", "random"]
CaptionNote = tuple[str, str]
"""Name and detail of something unusual."""


class CaptionFault(Exception):
    """A caption that cannot be used: `name` for counting (stable), the message for people."""

    def __init__(self, name: str, detail: str) -> None:
        super().__init__(detail)
        self.name = name


@dataclass(frozen=True)
class Captions:
    """Where a source's captions are, and which of several is used.

    Attributes:
        field: field of the json, or "" for the txt.
        choice: `whole`: the txt is one caption, of a json's list the first entry; `first` and `random`: each line of
            the txt, or each entry of the json's list, is a caption.
        seed: of the random choice.
    """

    field: str = ""
    choice: CaptionChoice = "whole"
    seed: int = 0

    @classmethod
    def parse(cls, caption: str, choice: str = "whole", seed: int = 0) -> Captions:
        """From `txt` or `json:<field>`; raises AcedError for anything else."""
        kind, colon, field = caption.partition(":")
        if not (caption == "txt" or (kind == "json" and colon and field)):
            raise AcedError(f'The caption is "txt" or "json:<field>", not "{caption}".')
        if choice not in ("whole", "first", "random"):
            raise AcedError(f'The choice of a caption is "whole", "first" or "random", not "{choice}".')
        return cls(field, choice, seed)  # type: ignore[arg-type]

    @property
    def part(self) -> str:
        """The member that holds the caption: `txt` or `json`."""
        return "json" if self.field else "txt"

    def __str__(self) -> str:
        """What distinguishes two sources that read the same tars."""
        caption = f"json:{self.field}" if self.field else "txt"
        return caption if self.choice == "whole" else f"{caption} {self.choice}"

    def read(self, content: bytes, key: str, epoch: int, notes: list[CaptionNote]) -> str:
        """The caption of the sample `key` in an epoch: a pure function of these and the seed.

        Args:
            content: bytes of the member.
            key: identity of the sample.
            epoch: from 0; only the random choice depends on it.
            notes: receives what is unusual.

        Raises:
            CaptionFault: `caption_empty`, `caption_no_field`, `caption_no_text` or `caption_bad_json`.
        """
        text = _decoded(content, notes)
        if self.field:
            captions = _entries(text, self.field, notes)
        elif self.choice == "whole":
            captions = [text]
        else:
            captions = text.replace("\r", "\n").split("\n")
        captions = [clean for caption in captions if (clean := _clean(caption, notes))]
        if not captions:
            raise CaptionFault("caption_empty", "the caption is empty")
        row = self._draw(key, epoch, len(captions)) if self.choice == "random" and len(captions) > 1 else 0
        if len(captions[row]) > MAX_CAPTION:
            notes.append(
                ("caption_long", f"the caption has {len(captions[row]):,} characters; {MAX_CAPTION:,} are kept")
            )
        _check_printed(captions[row], notes)
        return captions[row][:MAX_CAPTION]

    def _draw(self, key: str, epoch: int, count: int) -> int:
        digest = hashlib.sha256(f"aced caption {self.seed} {epoch} {key}".encode("utf-8", "surrogateescape")).digest()
        return int.from_bytes(digest[:8], "little") % count


def _decoded(content: bytes, notes: list[CaptionNote]) -> str:
    """Bytes to text: UTF-8, UTF-16 if a byte order mark says so, and U+FFFD for invalid bytes."""
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        notes.append(("caption_not_utf8", "the caption is UTF-16, as its byte order mark says"))
        return content.decode("utf-16", "replace")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        notes.append(("caption_not_utf8", "the caption is not UTF-8; invalid bytes became U+FFFD"))
        return content.decode("utf-8", "replace")


def _clean(text: str, notes: list[CaptionNote]) -> str:
    if "\0" in text or "\ufeff" in text or "\r" in text:
        notes.append(("caption_cleaned", "a byte order mark, NUL or carriage returns were removed from the caption"))
        text = text.replace("\0", "").replace("\ufeff", "").replace("\r\n", "\n").replace("\r", "\n")
    if not text.isascii() and any("\ud800" <= letter <= "\udfff" for letter in text):
        # A json may contain half of a surrogate pair, which no tokenizer can encode.
        notes.append(("caption_not_utf8", "the caption has half a surrogate pair, which became U+FFFD"))
        text = "".join("\ufffd" if "\ud800" <= letter <= "\udfff" else letter for letter in text)
    return text.strip()


def _check_printed(text: str, notes: list[CaptionNote]) -> None:
    """Note text that a program made from something that was not text, and refuse a reference to a file."""
    if text.startswith("version ") and (what := stand_in(text[:HEAD].encode())):
        raise CaptionFault("caption_no_text", f"the caption is not text: {what}")
    if text in _PLACEHOLDERS:
        notes.append(("caption_placeholder", f"the caption is '{text}', a program's word for no caption"))
    elif text[0] in "[{" and _PRINTED.fullmatch(text):
        notes.append(("caption_printed", f"the caption looks like a printed list or dict ({_shown(text)})"))


def _entries(text: str, field: str, notes: list[CaptionNote]) -> list[str]:
    """The captions in one field of a json: a text, or the texts of a list; anything else is not a caption."""
    try:
        content: Any = json.loads(text.lstrip("\ufeff"))
    except (ValueError, RecursionError) as error:
        raise CaptionFault("caption_bad_json", "its json cannot be read") from error
    if not isinstance(content, dict):
        raise CaptionFault("caption_no_field", f"its json is {_what(content)} and has no field {field}")
    if field not in content:
        names = ", ".join(sorted(content)[:8])
        hint = f" (it has {names})" if names else ""
        raise CaptionFault("caption_no_field", f"its json has no field {field}{hint}")
    value = content[field]
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list):
        raise CaptionFault("caption_no_text", f"the field {field} of its json is {_what(value)}, not a text")
    entries = [entry for entry in value if entry is not None]
    for entry in entries:
        if not isinstance(entry, str):
            raise CaptionFault("caption_no_text", f"the field {field} of its json is a list with {_what(entry)} in it")
    _check_words(entries, field, notes)
    return entries


def _check_words(entries: list[str], field: str, notes: list[CaptionNote]) -> None:
    """Refuse a list that is one text in pieces (`["a", "red", "square", "."]`), and note any list of single words.

    Such a list shows by its length, or by a piece that no caption consists of. Texts in scripts that do without white
    space do not count as words.
    """
    if len(entries) < 2 or not all(map(_is_word, entries)):
        return
    shown = f"the field {field} of its json is a list of single words ({_shown(', '.join(entries))})"
    if len(entries) > _MOST_WORDS or any(len(entry) == 1 or not any(map(str.isalnum, entry)) for entry in entries):
        raise CaptionFault("caption_no_text", f"{shown}: join them to one text")
    notes.append(("caption_words", f"{shown}, each of which counts as a caption"))


def _is_word(text: str) -> bool:
    """Whether a text has no white space although its script separates words with it, or no letters at all."""
    if not text or any(map(str.isspace, text)):
        return False
    return all(letter.lower() != letter.upper() for letter in text if letter.isalpha())


def _what(value: object) -> str:
    """A value of a json, in words."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value != value:
        return "NaN"
    if isinstance(value, int | float):
        return f"a number ({_shown(str(value))})"
    if isinstance(value, str):
        return f"a text ({_shown(value)})"
    names = ", ".join(map(str, value)) if isinstance(value, dict) else ""
    return f"a dict (with {_shown(names)})" if names else "a dict" if isinstance(value, dict) else "a list"


def _shown(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
