"""Bytes of a caption member to the caption of a sample: which field, which of several, and cleaned."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any, Literal

from aced.errors import AcedError

MAX_CAPTION = 8192
"""Characters of a caption that are kept; a tokenizer needs seconds for a megabyte, to keep 77 tokens."""

Choice = Literal["whole", "first", "random"]
Note = tuple[str, str]
"""Name and detail of an oddity."""


class CaptionFault(Exception):
    """A caption that cannot be used: `name` for counting (stable), the message for people."""

    def __init__(self, name: str, detail: str) -> None:
        super().__init__(detail)
        self.name = name


@dataclass(frozen=True)
class Captions:
    """Where the captions of a source are, and which of several is used.

    Attributes:
        field: field of the json, or "" for the txt.
        choice: `whole`: the txt is one caption, of a json's list the first entry; `first` and `random`: each line of
            the txt, or each entry of the json's list, is a caption.
        seed: of the random choice.
    """

    field: str = ""
    choice: Choice = "whole"
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

    def read(self, content: bytes, key: str, epoch: int, notes: list[Note]) -> str:
        """The caption of the sample `key` in an epoch: a pure function of these and the seed.

        Args:
            content: bytes of the member.
            key: identity of the sample.
            epoch: from 0; only the random choice looks at it.
            notes: gets what is odd.

        Raises:
            CaptionFault: `caption_empty`, `caption_no_field` or `caption_bad_json`.
        """
        try:
            text = content.decode("utf-8")
        except UnicodeDecodeError:
            text = content.decode("utf-8", "replace")
            notes.append(("caption_not_utf8", "the caption is not UTF-8; what cannot be read became U+FFFD"))
        if self.field:
            captions = _entries(text, self.field)
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
        return captions[row][:MAX_CAPTION]

    def _draw(self, key: str, epoch: int, count: int) -> int:
        digest = hashlib.sha256(f"aced caption {self.seed} {epoch} {key}".encode("utf-8", "surrogateescape")).digest()
        return int.from_bytes(digest[:8], "little") % count


def _clean(text: str, notes: list[Note]) -> str:
    if "\0" in text or "\ufeff" in text or "\r" in text:
        notes.append(("caption_cleaned", "the caption has a byte order mark, NUL or carriage returns, taken out"))
        text = text.replace("\0", "").replace("\ufeff", "").replace("\r\n", "\n").replace("\r", "\n")
    return text.strip()


def _entries(text: str, field: str) -> list[str]:
    """The captions in one field of a json; a single value is a list of one."""
    try:
        content: Any = json.loads(text.lstrip("\ufeff"))
    except ValueError as error:
        raise CaptionFault("caption_bad_json", "its json cannot be read") from error
    value = content.get(field) if isinstance(content, dict) else None
    if value is None:
        names = ", ".join(sorted(content)[:8]) if isinstance(content, dict) else ""
        hint = f" (it has {names})" if names else ""
        raise CaptionFault("caption_no_field", f"its json has no field {field}{hint}")
    values = value if isinstance(value, list) else [value]
    return [str(entry) for entry in values if entry is not None]
