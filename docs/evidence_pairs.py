"""The block `pairs` of docs/evidence.md: differences between rows, task by task and over groups of tasks."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from evidence_lines import Lines, Measure, average, markdown, marked, paired, task_of
from evidence_stable import average_of, chosen

PHOTOS = "methods"
"""The study whose tasks are the photo tasks."""
REPEATED = ("IID", "H-ACID")
"""Its rows whose seeds choose the stable tasks."""
OVER = " over "


@cache
def groups() -> dict[str, tuple[str, ...]]:
    """Tasks of the photo studies, by the names of the groups that averages are over."""
    lines = Lines(PHOTOS, more=True)
    found = chosen([one for row in REPEATED for one in lines.of(row)], [])
    return {
        "photo tasks": tuple(sorted(lines.records[0]["tasks"])),
        "tasks above chance": tuple(task.name for task in found.tasks if task.verdict != "chance"),
        "stable tasks": tuple(found.kept),
    }


def group_of(name: str) -> Measure:
    """The average over a group of tasks, in percent."""
    return average_of(groups()[name])


def pair_gains(lines: Lines, pairs: Sequence[str]) -> str:
    """Tasks against pairs of rows: paired differences.

    Args:
        lines: of the study.
        pairs: `A over B`, two rows each.
    """
    ends = [pair.split(OVER) for pair in pairs]
    if not all(lines.of(row) for pair in ends for row in pair):
        return ""
    tasks = sorted(lines.records[0]["tasks"])
    measures: list[tuple[str, Measure]] = [(task, task_of(task)) for task in tasks]
    known = groups() if set(groups()["photo tasks"]) <= set(tasks) else {}
    if known and len(tasks) > len(known["photo tasks"]):  # other domains besides
        known = {"photo tasks": known["photo tasks"]}
    averages = [(f"average of the {len(names)} {name}", average_of(names)) for name, names in known.items()]
    body = []
    for name, measure in [*measures, *(averages or [("average", average)])]:
        gains = [paired(lines.of(row), lines.of(over), measure) for row, over in ends]
        body.append([name, *map(marked, gains)])
    return markdown([["", *pairs], *body])
