"""Three sentences that say what the demo's table shows, and no more than it shows."""

from __future__ import annotations

import statistics
from typing import Any


def summarise(results: dict[str, Any], *, chance: float) -> list[str]:
    """Three sentences: what was compared, which row leads at equal samples, and how that stands by the clock.

    Args:
        results: in the form of results.json.
        chance: what guessing scores on average, in percent.
    """
    means = _means(results["rows"], "average")
    seeds = len({row["seed"] for row in results["rows"]})
    return [_setting(results, chance, seeds), _equal_samples(results, means), _by_the_clock(results, means)]


def _setting(results: dict[str, Any], chance: float, seeds: int) -> str:
    row = results["rows"][0]
    reference = results.get("reference")
    start = (
        f"Every row trained the same small student from the same initial weights"
        f"{f' ({seeds} seeds)' if seeds > 1 else ''} and was scored on {len(row['tasks'])} zero-shot tasks, "
        f"where guessing scores {chance:.1f} %"
    )
    if not reference:
        return start + "."
    cost = reference["train_seconds"] + reference["embed_seconds"]
    return (
        f"{start} and the reference {reference['average']:.1f} %; training the reference and embedding the pool "
        f"once took {cost:.0f} s, which the rows do not include."
    )


def _equal_samples(results: dict[str, Any], means: dict[str, float]) -> str:
    trained = _means(results["rows"], "samples_trained")
    titles = {row["method"]: row["title"] for row in results["rows"]}
    base = trained.get("iid") or min(trained.values())
    equal = {name: means[name] for name in means if abs(trained[name] - base) < 0.01 * base}
    if "iid" not in equal or len(equal) < 2:
        best = max(means, key=lambda name: means[name])
        return f"{titles[best]} scores highest, {means[best]:.1f} %."
    best = max(equal, key=lambda name: equal[name])
    if best == "iid":
        return f"At {base:,.0f} trained samples no method does better than random batches (IID), {equal[best]:.1f} %."
    return (
        f"At {base:,.0f} trained samples {titles[best]} scores highest, {equal[best]:.1f} %, which is "
        f"{equal[best] - equal['iid']:.1f} points above random batches (IID, {equal['iid']:.1f} %)."
    )


def _by_the_clock(results: dict[str, Any], means: dict[str, float]) -> str:
    seconds = _means(results["rows"], "seconds")
    if "aced" not in means:
        slow = max(seconds, key=lambda name: seconds[name])
        return f"The longest row, {slow}, took {seconds[slow]:.0f} s of training."
    step = seconds["aced"] / seconds["iid"] if "iid" in seconds else None
    text = f"ACED's {seconds['aced']:.0f} s of training are" + (
        f" {step:.1f} times those of IID" if step else " more than those of IID"
    )
    walls = {name: means[name] for name in means if name.endswith("-wall")}
    if walls:
        best = max(walls, key=lambda name: walls[name])
        title = next(row["title"] for row in results["rows"] if row["method"] == best)
        verdict = "below" if walls[best] < means["aced"] - 0.05 else "not below"
        return f"{text}, and with that much time the best other row, {title}, scores {walls[best]:.1f} %, {verdict} ACED's {means['aced']:.1f} %."
    if "iid-longer" in means:
        verdict = "still below" if means["iid-longer"] < means["aced"] else "not below"
        return f"{text}, and IID trained 4 times longer scores {means['iid-longer']:.1f} %, {verdict} ACED's {means['aced']:.1f} %."
    return f"{text}; --methods all adds the rows that other methods reach in the same time."


def _means(rows: list[dict[str, Any]], key: str) -> dict[str, float]:
    """Mean over seeds of a row's average, or of one of its budgets."""
    values: dict[str, list[float]] = {}
    for row in rows:
        values.setdefault(row["method"], []).append(row[key] if key in row else row["budgets"][key])
    return {name: statistics.fmean(seen) for name, seen in values.items()}
