"""Comparable averages: over the tasks that every run could score, if some run could not score them all."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from aced.evaluate.image_faults import fault_lines
from aced.evaluate.stability.suite import counted
from aced.runs.records import ResultRow, Results, RunRecord, TaskScore


def lost_tasks(results: Results) -> dict[str, str]:
    """The tasks that some row could not score although it scored others, with a reason and, if several, the row."""
    lost: dict[str, str] = {}
    for row in results.rows:
        if row.tasks:
            for task, why in row.failed.items():
                lost.setdefault(task, f"{row.title or row.method}: {why}" if len(results.rows) > 1 else why)
    return lost


def on_shared_tasks(results: Results, runs: Sequence[RunRecord] = ()) -> tuple[Results, list[RunRecord]]:
    """Results and runs with averages over the same tasks: those that every row scored.

    An evaluation during training that lacks one of these has no average. If nothing failed, everything stays unchanged.
    """
    lost = lost_tasks(results)
    rows = [row.model_copy(update={"average": _over(row.tasks, row.failed, lost, row.average)}) for row in results.rows]
    reference = results.reference
    if reference is not None and lost:
        average = _over(reference.tasks, {}, lost, reference.average)
        reference = reference.model_copy(update={"average": average})
    found = []
    for run in runs:
        evals = [
            line.model_copy(update={"average": _over(line.tasks, line.failed, lost, line.average)})
            for line in run.evals
        ]
        found.append(replace(run, evals=evals))
    return results.model_copy(update={"rows": rows, "reference": reference}), found


def _over(
    tasks: Mapping[str, TaskScore], failed: Iterable[str], lost: Iterable[str], average: float | None
) -> float | None:
    """The average in percent over the tasks that count and are not lost; `average` itself if nothing is lost."""
    asked, gone = [*tasks, *failed], {*lost}
    if gone & {*asked} == {*failed}:
        return average
    wanted = [name for name in counted(asked) if name not in gone]
    if not wanted or any(name not in tasks for name in wanted):
        return None
    return 100 * math.fsum(tasks[name].value for name in wanted) / len(wanted)


def notes(results: Results) -> Iterator[str]:
    """Gaps in the scores: tasks that a row could not score, and images of tasks."""
    lost = lost_tasks(results)
    for task, why in lost.items():
        yield f"{task} could not be scored and is excluded from all averages ({why.rstrip('.')})."
    for row in results.rows:
        if row.failed and not row.tasks:
            task, why = next(iter(row.failed.items()))
            yield f"{_name(row)} has no average: none of its tasks could be scored ({task}: {why.rstrip('.')})."
    lines = [
        line
        for row in results.rows
        for line in fault_lines({name: score.model_dump() for name, score in row.tasks.items()})
    ]
    yield from (f"{line}." for line in dict.fromkeys(lines))


def _name(row: ResultRow) -> str:
    return f"{row.title or row.method}, seed {row.seed},"
