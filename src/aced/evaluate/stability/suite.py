"""Suites: the tasks that an average counts, chosen by `aced stable` and stored in `evaluate/suites`.

A suite applies to results on exactly the tasks that it was chosen from; any other mean is over all tasks.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_FOLDER = Path(__file__).parents[1] / "suites"


@dataclass(frozen=True)
class Suite:
    """A stored choice.

    Attributes:
        name: of its file.
        tasks: all tasks that were considered.
        kept: those that an average counts.
    """

    name: str
    tasks: frozenset[str]
    kept: frozenset[str]


@functools.cache
def suites() -> dict[str, Suite]:
    """The packaged suites by name."""
    found = {}
    for file in sorted(_FOLDER.glob("*.json")):
        record = json.loads(file.read_text(encoding="utf-8"))
        judged = frozenset(task["name"] for task in record["tasks"])
        found[file.stem] = Suite(file.stem, judged, frozenset(record["kept"]))
    return found


def counted(tasks: Iterable[str]) -> list[str]:
    """Those of the tasks that an average counts, in their order."""
    names = list(tasks)
    for suite in suites().values():
        if suite.tasks == set(names):
            return [name for name in names if name in suite.kept]
    return names
