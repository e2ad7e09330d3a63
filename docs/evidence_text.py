"""Figures of docs/evidence.md as text: means with their spreads, paired differences, tables."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from aced.report.aggregate import Stat, stat
from aced.report.numbers import DASH, signed

Record = dict[str, Any]
"""A finished run, as a line of a study's .jsonl has it; `seed` is what differences are paired by."""
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


Measure = Callable[[Record], float]


def average(record: Record) -> float:
    """Zero-shot average in percent."""
    return float(record["average"])


def paired(runs: Sequence[Record], others: Sequence[Record], measure: Measure = average) -> Stat | None:
    """Differences of runs from others of the same seeds; None without a pair."""
    mine, theirs = ({one["seed"]: one for one in some} for some in (runs, others))
    return stat(measure(mine[seed]) - measure(theirs[seed]) for seed in sorted(mine.keys() & theirs.keys()))


def gain_text(gain: Stat | None) -> str:
    """`+3.1 ± 0.4`, mean and standard deviation of paired differences."""
    if gain is None:
        return DASH
    return signed(gain.mean) if gain.std is None else f"{signed(gain.mean)} ± {gain.std:.1f}"


def markdown(cells: Sequence[Sequence[str]], texts: int = 1) -> str:
    """A table whose first columns are text and whose others are figures."""
    rows = [" | ".join(cell.replace("|", "\\|") for cell in row) for row in cells]
    rule = " | ".join([*["---"] * texts, *["---:"] * (len(cells[0]) - texts)])
    return "".join(f"| {line} |\n" for line in [rows[0], rule, *rows[1:]])
