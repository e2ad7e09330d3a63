"""Files that are opened on demand and kept open, as many as a process may have."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from aced.runtime.descriptors import most_maps

T = TypeVar("T")


class Opened(Generic[T]):
    """The most recently opened files by number, at most `most_maps`; a copy in another process has none.

    The file to close is chosen at random: if files are used in turn, the oldest or least recently used one would always
    be the next that is needed.

    Args:
        most: fewer than that.
    """

    def __init__(self, most: int | None = None) -> None:
        self._most = most
        self._held: dict[int, T] = {}
        self._numbers: list[int] = []
        self._random = random.Random(0)  # no result depends on it

    def get(self, number: int, opened: Callable[[int], T]) -> T:
        """The file of a number, opened with `opened` unless it is open; raises as that does."""
        found = self._held.get(number)
        if found is None:
            found = opened(number)
            while len(self._numbers) >= (self._most or most_maps()):
                self._close_one()
            self._held[number] = found
            self._numbers.append(number)
        return found

    def __len__(self) -> int:
        return len(self._held)

    def _close_one(self) -> None:
        """Forget one; a current reader keeps it open until it has finished."""
        row = self._random.randrange(len(self._numbers))
        self._numbers[row], self._numbers[-1] = self._numbers[-1], self._numbers[row]
        self._held.pop(self._numbers.pop(), None)

    def __reduce__(self) -> Any:
        return Opened, (self._most,)
