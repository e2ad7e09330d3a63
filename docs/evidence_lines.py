"""The finished runs of a study, and what the page of evidence computes from them: means, paired differences, intervals.

Differences are paired: both rows of a seed began with the same weights and, where they read the same tars, saw the same
order of the pool. An interval is Student's, at 95 %, over seeds.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

from study_records import Record, Study, read_records, read_study  # noqa: E402

from aced.report.aggregate import Stat, stat  # noqa: E402
from aced.report.numbers import DASH, signed  # noqa: E402

STUDIES = ROOT / "benchmarks/studies"
BASELINE = "IID"
T95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306, 10: 2.262}
"""Student's t for a two-sided interval of 95 %, by number of values."""


def half(one: Stat) -> float:
    """Half the interval of 95 %; infinite for one value."""
    return T95[one.n] * one.std / math.sqrt(one.n) if one.std is not None else math.inf


def text_of(one: Stat | None, digits: int = 1) -> str:
    """`12.3 ± 0.4`, mean and standard deviation; a dash for None."""
    if one is None:
        return DASH
    return f"{one.mean:.{digits}f}" if one.std is None else f"{one.mean:.{digits}f} ± {one.std:.{digits}f}"


def best_bold(stats: Sequence[Stat | None]) -> list[str]:
    """The texts of some figures, the highest in bold."""
    best = max((one.mean for one in stats if one), default=None)
    return [f"**{text_of(one)}**" if one and one.mean == best else text_of(one) for one in stats]


def gain_text(gain: Stat | None) -> str:
    """`+3.1 ± 0.4`, mean and standard deviation of paired differences."""
    if gain is None:
        return DASH
    return signed(gain.mean) if gain.std is None else f"{signed(gain.mean)} ± {gain.std:.1f}"


def separable(gain: Stat | None) -> bool:
    """Whether the interval of 95 % leaves 0 out."""
    return gain is not None and abs(gain.mean) > half(gain)


def marked(gain: Stat | None) -> str:
    """A difference, in bold where its interval leaves 0 out."""
    return f"**{gain_text(gain)}**" if separable(gain) else gain_text(gain)


def between(gain: Stat | None) -> str:
    """`+0.2 to +5.8`, the interval of 95 %; a dash for one value or none."""
    if gain is None or gain.std is None:
        return DASH
    return f"{gain.mean - half(gain):+.1f} to {gain.mean + half(gain):+.1f}"


def verdict(gain: Stat | None) -> str:
    """What a difference says about a claim that it is above 0."""
    if gain is None or gain.std is None:
        return "not run"
    if gain.mean - half(gain) > 0:
        return "confirmed"
    return "contradicted" if gain.mean + half(gain) < 0 else "not separable"


def markdown(cells: Sequence[Sequence[str]], texts: int = 1) -> str:
    """A table whose first columns are text and whose others are figures."""
    rows = [" | ".join(cell.replace("|", "\\|") for cell in row) for row in cells]
    rule = " | ".join([*["---"] * texts, *["---:"] * (len(cells[0]) - texts)])
    return "".join(f"| {line} |\n" for line in [rows[0], rule, *rows[1:]])


Measure = Callable[[Record], float]


def average(record: Record) -> float:
    """Zero-shot average in percent."""
    return float(record["average"])


def share_of(kind: str) -> Measure:
    """Percent of the pairs trained on that are of a kind."""

    def measure(record: Record) -> float:
        chosen = record["kinds"]["chosen"]
        return 100.0 * float(chosen.get(kind, 0.0)) / math.fsum(chosen.values())

    return measure


def task_of(name: str) -> Measure:
    """Main metric of a task in percent."""
    return lambda record: 100.0 * float(record["tasks"][name]["value"])


class Lines:
    """The finished runs of a study whose settings are those that the study has today.

    Args:
        name: of the study.
        more: whether the seeds that some rows have besides those of the study count too; without them, all means are
            over the same seeds.
    """

    def __init__(self, name: str, more: bool = False) -> None:
        self.study: Study = read_study(STUDIES / f"{name}.toml")
        self._more = more
        rows = {row.name: row for row in self.study.rows}
        self.records = [one for one in read_records(self.study.records) if self._current(one, rows)]

    def _current(self, record: Record, rows: dict[str, Any]) -> bool:
        row, point = rows.get(record["row"]), record["point"]
        if row is None or point not in self.study.points:
            return False
        if record["seed"] not in (self.study.seeds_of(row) if self._more else self.study.seeds):
            return False
        wanted = {**self.study.keys, **row.keys, **self.study.points[point]}
        given = dict(record["keys"])
        if row.time is not None:  # its steps were measured
            given.pop("train.steps", None)
            wanted.pop("train.steps", None)
        return bool(given == wanted)

    def of(self, row: str, point: str = "") -> list[Record]:
        """The runs of a row at a point, by seed."""
        found = {one["seed"]: one for one in self.records if (one["row"], one["point"]) == (row, point)}
        return [found[seed] for seed in sorted(found)]

    def rows(self, wanted: Sequence[str]) -> list[str]:
        """Names of the rows that have runs, in the study's order; those that are wanted, or all."""
        names = [row.name for row in self.study.rows if any(one["row"] == row.name for one in self.records)]
        return [name for name in wanted if name in names] if wanted else names

    def stat(self, row: str, point: str, measure: Measure = average) -> Stat | None:
        """Of a row at a point; None without a run."""
        return stat(map(measure, self.of(row, point)))

    def gain(self, row: str, over: str, point: str, measure: Measure = average) -> Stat | None:
        """Of a row over another at the same point, paired by seed; None without a pair."""
        return paired(self.of(row, point), self.of(over, point), measure)


def paired(runs: Sequence[Record], others: Sequence[Record], measure: Measure = average) -> Stat | None:
    """Differences of runs from others of the same seeds; None without a pair."""
    mine, theirs = ({one["seed"]: one for one in some} for some in (runs, others))
    return stat(measure(mine[seed]) - measure(theirs[seed]) for seed in sorted(mine.keys() & theirs.keys()))
