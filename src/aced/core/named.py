"""Things that are asked for by name: those that are built in, and those that other code adds."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TypeVar

from aced.errors import AcedError, nearest

T = TypeVar("T")
BUILT_IN = "built in"


class Table(dict[str, T]):
    """A dict of one kind of thing that knows where each entry came from.

    Args:
        kind: what messages call an entry, such as `method`.
        rows: the built-in entries by name.
    """

    def __init__(self, kind: str, rows: Iterable[tuple[str, T]] = ()) -> None:
        super().__init__(rows)
        self.kind = kind
        self._origins: dict[str, str] = {}

    def origin(self, name: str) -> str:
        """The module that has added an entry, or `built in`."""
        return self._origins.get(name, BUILT_IN)

    def add(self, name: str, value: T, origin: str) -> None:
        """Take in an entry from a module; the same module may replace it, as a cell does that is run again.

        Raises:
            AcedError: the name is none, or taken by what is built in or by another module.
        """
        if not name or name != name.strip() or any(letter in name for letter in "/\\:~*"):
            raise AcedError(f"A {self.kind} cannot be called {name!r}: take a word without any of / \\ : ~ *.")
        if name in self and self.origin(name) != origin:
            raise AcedError(
                f"{origin} registers the {self.kind} '{name}', which there is already ({self.origin(name)}): choose "
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
    """The name of the module that has called the function that calls this one."""
    return str(sys._getframe(2).f_globals.get("__name__", "?"))
