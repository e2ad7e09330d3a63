"""Parsers for paths on the command line, so that `~` works in all of them."""

from __future__ import annotations

from pathlib import Path

import typer

from aced.runtime.paths import expand_optional, expand_path


def as_path(text: str | Path) -> Path:
    """A folder or a file."""
    return Path(as_place(text))


def as_place(text: str | Path) -> str:
    """An argument that may be a path: a name or folder, a pattern of tars, or an address."""
    try:
        return expand_path(str(text))
    except ValueError as error:
        raise typer.BadParameter(f"'{text}': {error}") from None


def as_place_or_none(text: str | Path) -> str:
    """As `as_place`; an empty argument means none."""
    try:
        return expand_optional(str(text))
    except ValueError as error:
        raise typer.BadParameter(f"'{text}': {error}") from None
