"""Sources, towers, tasks and trackers of users by name: each a function that makes one when a config names it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from aced.core.named import Table
from aced.errors import AcedError


@dataclass(frozen=True)
class Maker:
    """One of them.

    Attributes:
        about: one line for `aced methods`.
        function: makes it; its arguments differ by kind, see `aced.registry.doors`.
    """

    about: str
    function: Callable[..., Any]


SOURCES: Table[Maker] = Table("source")
TOWERS: Table[Maker] = Table("tower")
TASKS: Table[Maker] = Table("task")
TRACKERS: Table[Maker] = Table("tracker")
BOARDS = ("tensorboard", "wandb", "trackio")
"""The trackers that are built in."""


def made(table: Table[Maker], name: str, *arguments: Any) -> Any:
    """What the maker of that name makes.

    Raises:
        AcedError: there is none, or it fails.
    """
    maker = table.find(name)
    try:
        return maker.function(*arguments)
    except AcedError:
        raise
    except Exception as error:
        said = " ".join(str(error).split())
        raise AcedError(
            f"The {table.kind} '{name}' of {table.origin(name)} cannot be made ({type(error).__name__}: {said})."
        ) from error
