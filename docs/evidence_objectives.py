"""The block `objectives` of docs/evidence.md: other objectives, from benchmarks/studies/objectives.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import evidence_lines
from evidence_lines import markdown, paired, separable, text_of

from aced.report.aggregate import Stat, stat
from aced.report.numbers import DASH

PLACES = {
    "hard-student": ("samples/hard-student", "samples/random"),
    "easy-reference": ("samples/easy-reference {}", "samples/random"),
    "learnability": ("samples/learnability {}", "samples/random"),
    "learnability, equal time": ("samples/learnability {}", "long/random"),
    "easy-reference, equal time": ("long/easy-reference {}", "long/random"),
}
"""Columns: the runs, and those at random with as many samples or in learnability's time; {} is a reference."""
REFERENCES = {"curated": "", "larger": ", larger reference"}
Runs = Mapping[str, Any]


def objectives_block() -> str:
    """Experiments against ways to choose, as differences from random batches that are better when positive."""
    found = json.loads((evidence_lines.STUDIES / "objectives.json").read_text(encoding="utf-8"))["experiments"]
    table = [["", "reference", "random", *(f"{name} ahead by" for name in PLACES)]]
    for name, runs in found.items():
        for reference, words in REFERENCES.items():
            if any(key.startswith(f"samples/learnability {reference}/") for key in runs):
                table.append([f"{name}: {_unit(runs)}{words}", *_cells(runs, reference)])
    return markdown(table)


def _unit(runs: Runs) -> str:
    return "accuracy, %" if runs["facts"]["sign"] > 0 else "loss"


def _cells(runs: Runs, reference: str) -> list[str]:
    goal, sign = runs["facts"]["goal"], int(runs["facts"]["sign"])
    digits = 1 if sign > 0 else 2

    def of(place: str) -> list[dict[str, Any]]:
        own = [(key, run) for key, run in runs.items() if key.rpartition("/")[0] == place]
        return [{"seed": key.rpartition("/")[2], "score": run["scores"][goal]} for key, run in own]

    known = stat([runs[f"reference/{reference}"]["scores"][goal]])
    cells = [text_of(known, digits), text_of(stat(run["score"] for run in of("samples/random")), digits)]
    for place, base in PLACES.values():
        gain = paired(of(place.format(reference)), of(base), lambda run: sign * float(run["score"]))
        cells.append(_difference(gain, digits))
    return cells


def _difference(gain: Stat | None, digits: int) -> str:
    """In bold where its interval leaves 0 out."""
    if gain is None or gain.std is None:
        return DASH
    text = f"{gain.mean:+.{digits}f} ± {gain.std:.{digits}f}".replace("-", "−")
    return f"**{text}**" if separable(gain) else text
