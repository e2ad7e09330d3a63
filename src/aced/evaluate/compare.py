"""Comparison of two evaluations, task by task, on the same samples."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from aced.errors import AcedError
from aced.evaluate.datacomp import task_name
from aced.evaluate.eval_records import Evaluation
from aced.evaluate.evidence import bootstrap, unpack

RESAMPLES = 2000
AVERAGE = "average"


@dataclass(frozen=True)
class Difference:
    """B minus A on one task, or on the average of all.

    Attributes:
        task: its name, or `average`.
        metric: the main metric.
        a: score of A in [0, 1].
        b: score of B.
        stderr: standard error of b - a.
        low: lower end of the 95 % interval of b - a.
        high: upper end.
        p: two-sided bootstrap p-value of b = a, at least 1 / (RESAMPLES + 1).
    """

    task: str
    metric: str
    a: float
    b: float
    stderr: float
    low: float
    high: float
    p: float

    @property
    def noise(self) -> bool:
        """Whether the interval contains 0: another sample of the same size might well show no difference."""
        return self.low <= 0 <= self.high


@dataclass(frozen=True)
class Comparison:
    """The result of a comparison.

    Attributes:
        differences: one for each comparable task, then their average.
        left_out: the others, with the reason.
    """

    differences: list[Difference]
    left_out: dict[str, str]


def compare(a: Evaluation, b: Evaluation, *, resamples: int = RESAMPLES) -> Comparison:
    """Paired bootstrap of B against A.

    Both models are scored on the same resamples of the images (sets, in image-caption selection), so that effects
    common to both cancel. Tasks that share their images share the resamples, also within the average. The interval
    covers the finite number of samples only, not other seeds of training.

    Args:
        a: one evaluation.
        b: the other.
        resamples: number of resamples of the images.

    Raises:
        AcedError: no task can be compared, or the samples' scores are damaged.
    """
    left_out: dict[str, str] = {}
    differences: list[Difference] = []
    drawn: list[np.ndarray] = []
    for name in [*a.tasks, *(name for name in b.tasks if name not in a.tasks)]:
        reason = _cannot(a, b, name)
        if reason:
            left_out[name] = reason
            continue
        one, other = (unpack(side.tasks[name]["samples"], f"task '{name}'") for side in (a, b))
        if one.count != other.count:
            left_out[name] = "the numbers of samples differ"
            continue
        mark = str(a.tasks[name].get("images") or name)
        seed = int(hashlib.sha256(mark.encode()).hexdigest()[:12], 16)
        scores = bootstrap([one.scorer(), other.scorer()], one.count, resamples=resamples, seed=seed)
        drawn.append(scores)
        metric = str(a.tasks[name]["metric"])
        differences.append(_difference(name, metric, a.tasks[name]["value"], b.tasks[name]["value"], scores))
    if not differences:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in left_out.items()) or "both are empty"
        raise AcedError(f"The two evaluations have no task that can be compared ({reasons}).")
    if len(differences) > 1:
        values = [float(np.mean([getattr(entry, side) for entry in differences])) for side in ("a", "b")]
        differences.append(_difference(AVERAGE, "", values[0], values[1], np.mean(drawn, axis=0)))
    return Comparison(differences, left_out)


def _cannot(a: Evaluation, b: Evaluation, name: str) -> str:
    """Why a task cannot be compared; empty if it can."""
    for side, where in ((a, "the first"), (b, "the second")):
        if any(name in (place, task_name(Path(place).name)) for place in side.failed):
            return f"it failed in {where}"
        if name not in side.tasks:
            return f"it is not in {where}"
    one, other = a.tasks[name], b.tasks[name]
    if one["metric"] != other["metric"]:
        return f"the main metrics differ ({one['metric']}, {other['metric']})"
    if one.get("data") != other.get("data"):
        return "the images, labels or texts differ"
    if _lost(one) != _lost(other):
        return "different images could be read"
    if not (one.get("samples") and other.get("samples")):
        return "the scores of the samples are missing"
    return ""


def _lost(record: Mapping[str, Any]) -> dict[str, int]:
    return {fault: found["images"] for fault, found in record.get("left_out", {}).items()}


def _difference(task: str, metric: str, a: float, b: float, scores: np.ndarray) -> Difference:
    gains = scores[:, 1] - scores[:, 0]
    gains = gains[np.isfinite(gains)]
    low, high = np.percentile(gains, [2.5, 97.5])
    tail = min(int((gains <= 0).sum()), int((gains >= 0).sum()))
    p = min(1.0, 2 * (tail + 1) / (len(gains) + 1))
    return Difference(task, metric, a, b, float(gains.std(ddof=1)), float(low), float(high), p)
