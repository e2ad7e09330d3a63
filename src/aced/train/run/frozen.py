"""The frozen models of a run by name: the reference that selects, and the teachers."""

from __future__ import annotations

from aced.config import Config
from aced.config.sections import FrozenSection


def frozen_models(config: Config) -> list[str]:
    """The names of the frozen models of a run, each once: `reference` and those of `teachers_of`."""
    reference = ["reference"] if config.row.uses_reference else []
    return list(dict.fromkeys([*reference, *teachers_of(config)]))


def teachers_of(config: Config) -> list[str]:
    """The names of the teachers: `teacher`, or `teacher 1` and so on; `reference` if that teaches too."""
    if not config.row.distill:
        return []
    sections = config.teacher.each
    names = ["teacher"] if len(sections) == 1 else [f"teacher {number}" for number in range(1, len(sections) + 1)]
    if not config.row.uses_reference:
        return names or ["reference"]
    # A teacher that is also the reference is used once for both.
    own = config.reference.model, config.reference.checkpoint, config.reference.cache
    same = [(one.model, one.checkpoint, one.cache) == own for one in sections]
    return ["reference" if is_same else name for name, is_same in zip(names, same, strict=True)] or ["reference"]


def frozen_section(name: str, config: Config) -> FrozenSection:
    """The config's `reference`, or the section of one of its teachers."""
    if name == "reference":
        return config.reference
    return (config.teacher.each or [FrozenSection()])[int(name.removeprefix("teacher") or 1) - 1]
