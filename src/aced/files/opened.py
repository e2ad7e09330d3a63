"""Files that are opened when they are needed and kept open, as many as a process may have."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from aced.runtime.descriptors import most_maps

T = TypeVar("T")


class Opened(Generic[T]):
    """What was opened last, by number, never more than `most_maps`; a copy that another process gets has none.

    Where one must go, it is any one: of files that are gone through in turn, the oldest or the least used would always
    be the next that is needed.

    Args:
        most: fewer than that.
    """

    def __init__(self, most: int | None = None) -> None:
        self._most = most
        self._held: dict[int, T] = {}
        self._numbers: list[int] = []
        self._random = random.Random(0)  # nothing that is computed depends on it

    def get(self, number: int, opened: Callable[[int], T]) -> T:
        """That of a number, which `opened` opens now unless it is open; raises what that does."""
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
        """Forget one; whoever still reads from it keeps it open until he is done."""
        row = self._random.randrange(len(self._numbers))
        self._numbers[row], self._numbers[-1] = self._numbers[-1], self._numbers[row]
        self._held.pop(self._numbers.pop(), None)

    def __reduce__(self) -> Any:
        return Opened, (self._most,)
