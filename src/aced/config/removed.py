"""Keys and values that configs of earlier versions may hold: what they were, and what to take instead."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple


class Removed(NamedTuple):
    """A key that is gone.

    Attributes:
        default: its value where nobody set it, with which it did nothing.
        instead: a sentence's end: what to do now.
    """

    default: Any
    instead: str


_CHEAPER = "scoring.cascade and scoring.reuse save more and lose less"
KEYS = {
    "scoring.every": Removed(1, _CHEAPER),
    "scoring.stale": Removed(False, _CHEAPER),
    "scoring.device": Removed("", "it went with scoring.stale, which is gone too: leave it out"),
}
VALUES = {
    "scoring.unseen": {"assume": "scoring.unseen=predict with scoring.refresh loses less"},
    "method.name": {"rho": "it is called h-acid-independent now, and RHO-LOSS as it was published rho-loss"},
}


def why_not_key(key: str) -> str:
    """The sentence about a `section.key` that there was once; empty for one that there never was."""
    return f"The key '{key}' was removed: {KEYS[key].instead}." if key in KEYS else ""


def why_not_value(key: str, value: object) -> str:
    """The sentence about a value that a key could once have; empty for another one."""
    instead = VALUES.get(key, {}).get(value) if isinstance(value, str) else None
    return f"{key} = {value!r} was removed: {instead}." if instead else ""


def without_defaults(values: Mapping[str, Any]) -> dict[str, Any]:
    """A nested mapping without the removed keys that are at their defaults: the `config.toml` of an old run has all."""

    def lives(section: str, key: str, value: Any) -> bool:
        return (gone := KEYS.get(f"{section}.{key}")) is None or value != gone.default

    return {
        section: {key: value for key, value in table.items() if lives(section, key, value)}
        if isinstance(table, Mapping)
        else table
        for section, table in values.items()
    }


def used(values: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, Any]]:
    """Each `section.key` of a saved config, with its value, that did something and does not exist any more."""
    for section, table in values.items():
        for key, value in table.items() if isinstance(table, Mapping) else ():
            name = f"{section}.{key}"
            if (name in KEYS and value != KEYS[name].default) or why_not_value(name, value):
                yield name, value
