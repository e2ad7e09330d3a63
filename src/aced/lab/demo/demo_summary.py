"""Sentences that say what the demo's table shows, and no more."""

from __future__ import annotations

import statistics
from typing import Any

from aced.evaluate.stability.suite import counted
from aced.report.numbers import duration
from aced.report.shared_tasks import on_shared_tasks
from aced.runs.run_results import parse_results

_TIE = 0.05
"""Averages that differ by less are equal in the table, which has one decimal."""


def summarise(results: dict[str, Any]) -> list[str]:
    """The comparison, the best row at equal samples, the comparison at equal time, and the costs outside the rows.

    Args:
        results: in the form of results.json.
    """
    results = results | on_shared_tasks(parse_results(results))[0].model_dump(include={"rows", "reference"})
    means, titles = _means(results["rows"], "average"), {row["method"]: row["title"] for row in results["rows"]}
    if not means:
        return ["No task could be scored, so the rows cannot be compared; results.json gives reasons under `failed`."]
    return [
        _setting(results),
        _equal_samples(results, means, titles),
        _by_the_clock(results, means, titles),
        *_reference_cost(results),
    ]


def _setting(results: dict[str, Any]) -> str:
    first, seeds = (
        max(results["rows"], key=lambda row: len(row["tasks"])),
        len({row["seed"] for row in results["rows"]}),
    )
    lost = {task for row in results["rows"] if row["tasks"] for task in row["failed"]}
    count = counted([*first["tasks"], *first["failed"]])
    tasks = [first["tasks"][name] for name in count if name not in lost]
    reference = results.get("reference")
    seeded = f" ({seeds} seeds)" if seeds > 1 else ""
    score = ""
    if reference and reference["average"] is not None:
        score = f" and the reference {reference['average']:.1f} %"
    return (
        f"Every row trained the same small student from the same initial weights{seeded} and was scored on "
        f"{len(tasks)} zero-shot tasks, where guessing scores "
        f"{100 * statistics.fmean(task['chance'] for task in tasks):.1f} %{score}."
    )


def _reference_cost(results: dict[str, Any]) -> list[str]:
    """The costs that the rows share and exclude; empty if no row needed a reference."""
    reference = results.get("reference")
    if not reference:
        return []
    trained, embedded = duration(reference["train_seconds"]), duration(reference["embed_seconds"])
    where = reference.get("trained_on")
    training = (
        f"training the packaged one took {trained} of processor time ({where})"
        if where
        else f"training it took {trained}"
    )
    return [f"The rows exclude the cost of the reference: {training}, and embedding the pool once {embedded}."]


def _equal_samples(results: dict[str, Any], means: dict[str, float], titles: dict[str, str]) -> str:
    trained = {name: mean for name, mean in _means(results["rows"], "samples_trained").items() if name in means}
    base = trained.get("iid") or min(trained.values())
    equal = {name: means[name] for name in means if abs(trained[name] - base) < 0.01 * base}
    best = max(equal, key=lambda name: equal[name])
    at = f"At {base:,.0f} trained samples"
    if len(equal) == 1:
        return f"{at} there is one row, {titles[best]}, {equal[best]:.1f} %."
    if "iid" not in equal:
        return f"{at} {titles[best]} scores highest of these {len(equal)} rows, {equal[best]:.1f} %."
    lead = equal[best] - equal["iid"]
    if lead < _TIE:
        return f"{at} no method does better than random batches (IID), {equal['iid']:.1f} %."
    return (
        f"{at} {titles[best]} scores highest, {equal[best]:.1f} %, which is {lead:.1f} points above random batches "
        f"(IID, {equal['iid']:.1f} %)."
    )


def _by_the_clock(results: dict[str, Any], means: dict[str, float], titles: dict[str, str]) -> str:
    seconds = _means(results["rows"], "seconds")
    if "aced" not in means:
        slow = max(seconds, key=lambda name: seconds[name])
        return f"The longest row, {titles[slow]}, took {seconds[slow]:.0f} s of training."
    text = f"ACED took {seconds['aced']:.0f} s of training"
    if "iid" in seconds:
        text += f", {seconds['aced'] / seconds['iid']:.1f} times as long as IID"
    walls = {name: means[name] for name in means if name.endswith("-wall")}
    if walls:
        best = max(walls, key=lambda name: walls[name])
        return (
            f"{text}; the best other row in that time, {titles[best]}, scores {_against(walls[best], means['aced'])}."
        )
    if "iid-longer" in means:
        longer = f"{titles['iid-longer']} took {seconds['iid-longer']:.0f} s and scores"
        return f"{text}; {longer} {_against(means['iid-longer'], means['aced'])}."
    return f"{text}; --methods all adds rows for other methods trained for the same time."


def _against(value: float, aced: float) -> str:
    """A score and its comparison with ACED's."""
    verdict = "below" if value < aced - _TIE else "above" if value > aced + _TIE else "the same as"
    return f"{value:.1f} %, {verdict} ACED's {aced:.1f} %"


def _means(rows: list[dict[str, Any]], key: str) -> dict[str, float]:
    """Mean over seeds of a row's average, or of one of its budgets."""
    values: dict[str, list[float]] = {}
    for row in rows:
        value = row[key] if key in row else row["budgets"][key]
        if value is not None:
            values.setdefault(row["method"], []).append(value)
    return {name: statistics.fmean(seen) for name, seen in values.items()}
