"""Tables of named entries: built-in ones, and those that other code adds."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TypeVar

from aced.errors import AcedError, nearest

T = TypeVar("T")
BUILT_IN = "built in"


class Table(dict[str, T]):
    """A dict of one kind of entry that records each entry's origin.

    Args:
        kind: name of an entry in messages, such as `method`.
        rows: the built-in entries by name.
    """

    def __init__(self, kind: str, rows: Iterable[tuple[str, T]] = ()) -> None:
        super().__init__(rows)
        self.kind = kind
        self._origins: dict[str, str] = {}

    def origin(self, name: str) -> str:
        """The module that added an entry, or `built in`."""
        return self._origins.get(name, BUILT_IN)

    def add(self, name: str, value: T, origin: str) -> None:
        """Add an entry from a module; the same module may replace it, as a notebook cell does when it runs again.

        Raises:
            AcedError: the name is invalid, or taken by a built-in entry or another module.
        """
        if not name or name != name.strip() or any(letter in name for letter in "/\\:~*"):
            raise AcedError(f"A {self.kind} cannot be called {name!r}: use a word without any of / \\ : ~ *.")
        if name in self and self.origin(name) != origin:
            raise AcedError(
                f"{origin} registers the {self.kind} '{name}', which already exists ({self.origin(name)}): choose "
                "another name."
            )
        self[name] = value
        self._origins[name] = origin

    def find(self, name: str) -> T:
        """The entry of a name.

        Raises:
            AcedError: there is none; names the nearest.
        """
        if name not in self:
            raise AcedError(f"There is no {self.kind} '{name}'.{nearest(name, self)}")
        return self[name]


def caller() -> str:
    """The module that called the caller of this function."""
    return str(sys._getframe(2).f_globals.get("__name__", "?"))
