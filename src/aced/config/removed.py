"""Keys and values of earlier versions, and their replacements."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple


class Removed(NamedTuple):
    """A key that is gone.

    Attributes:
        default: its neutral value, with which it did nothing.
        instead: the end of a sentence: what to do now.
    """

    default: Any
    instead: str


_CHEAPER = "scoring.cascade and scoring.reuse save more and lose less"
KEYS = {
    "scoring.every": Removed(1, _CHEAPER),
    "scoring.stale": Removed(False, _CHEAPER),
    "scoring.device": Removed("", "it belonged to scoring.stale, which is gone too: leave it out"),
}
VALUES = {
    "scoring.unseen": {"assume": "scoring.unseen=predict with scoring.refresh loses less"},
    "method.name": {"rho": "it is now called h-acid-independent; RHO-LOSS as published is rho-loss"},
}


def why_not_key(key: str) -> str:
    """The sentence about a removed `section.key`; empty for one that never existed."""
    return f"The key '{key}' was removed: {KEYS[key].instead}." if key in KEYS else ""


def why_not_value(key: str, value: object) -> str:
    """The sentence about a value that a key no longer accepts; empty for any other."""
    instead = VALUES.get(key, {}).get(value) if isinstance(value, str) else None
    return f"{key} = {value!r} was removed: {instead}." if instead else ""


def without_defaults(values: Mapping[str, Any]) -> dict[str, Any]:
    """A nested mapping without the removed keys at their defaults: the `config.toml` of an old run lists them all."""

    def lives(section: str, key: str, value: Any) -> bool:
        return (gone := KEYS.get(f"{section}.{key}")) is None or value != gone.default

    return {
        section: {key: value for key, value in table.items() if lives(section, key, value)}
        if isinstance(table, Mapping)
        else table
        for section, table in values.items()
    }


def used(values: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, Any]]:
    """Each `section.key` of a saved config, with its value, that had an effect and no longer exists."""
    for section, table in values.items():
        for key, value in table.items() if isinstance(table, Mapping) else ():
            name = f"{section}.{key}"
            if (name in KEYS and value != KEYS[name].default) or why_not_value(name, value):
                yield name, value
