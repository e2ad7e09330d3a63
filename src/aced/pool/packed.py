"""Many strings in little memory: one block of bytes, and where each string ends in it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from typing import overload

import numpy as np


class NumberedStrings(Sequence[str]):
    """An immutable sequence of strings that are made on demand."""

    @abstractmethod
    def string(self, position: int) -> str:
        """One string; `position` is in `range(len(self))`."""

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self.string(position) for position in range(len(self))[index]]
        place = index + len(self) if index < 0 else index
        if not 0 <= place < len(self):
            raise IndexError(f"string {index} of {len(self)}")
        return self.string(place)


class PackedStrings(NumberedStrings):
    """An immutable sequence of strings at 8 bytes each beside their UTF-8 (a Python string needs about 60 more).

    Args:
        content: the UTF-8 of all strings, one after the other; surrogates represent invalid UTF-8 bytes.
        ends: `[n + 1]` int64, where the strings end in it, beginning with 0.
    """

    def __init__(self, content: bytes, ends: np.ndarray) -> None:
        self.content = content
        self.ends = ends

    @classmethod
    def of(cls, strings: Iterable[str]) -> PackedStrings:
        """Pack strings."""
        packed = [string.encode("utf-8", "surrogateescape") for string in strings]
        return cls(b"".join(packed), np.cumsum([0, *map(len, packed)], dtype=np.int64))

    @classmethod
    def joined(cls, parts: Sequence[PackedStrings]) -> PackedStrings:
        """The strings of all parts, one part after the other."""
        starts = np.cumsum([0, *(len(part.content) for part in parts)])
        ends = [part.ends[1:] + start for part, start in zip(parts, starts, strict=False)]
        return cls(b"".join(part.content for part in parts), np.concatenate([np.zeros(1, dtype=np.int64), *ends]))

    def take(self, rows: np.ndarray) -> PackedStrings:
        """The strings of some rows, in that order."""
        if len(rows) == len(self) and np.array_equal(rows, np.arange(len(self))):
            return self
        pieces = [self.content[start:end] for start, end in zip(self.ends[rows], self.ends[rows + 1], strict=True)]
        return PackedStrings(b"".join(pieces), np.cumsum([0, *map(len, pieces)], dtype=np.int64))

    @property
    def nbytes(self) -> int:
        """Bytes of memory."""
        return len(self.content) + self.ends.nbytes

    def __len__(self) -> int:
        return len(self.ends) - 1

    def string(self, position: int) -> str:
        """One string."""
        return self.content[self.ends[position] : self.ends[position + 1]].decode("utf-8", "surrogateescape")
