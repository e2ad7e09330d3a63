"""The picture of accuracy against processor time and FLOPs, drawn from lines of benchmarks/cheap.py.

    python docs/frontier.py docs/img/frontier.svg LINES.jsonl...

A curve joins the mean over the seeds of a row at each of its lengths; small points are the seeds of the longest. Both
budgets are relative to 400 steps of IID: processor time, because the rows took turns on a machine that did other work
too.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from figures import MARGIN, page

from aced.files.atomic import write_atomic
from aced.methods import METHODS
from aced.report.canvas import plain
from aced.report.charts import Series, accuracy_chart, series_styles

PANEL, GAP = 452, 24
BUDGETS = {"cpu_ratio": "processor time", "flops_ratio": "FLOPs"}
POOLS = {"pool": "The demo's pool", "redundant": "Redundant pool"}


def draw(lines: Sequence[dict[str, Any]]) -> str:
    """The whole picture as SVG text."""
    panels = []
    names = list(dict.fromkeys(name_of(line["row"]) for line in lines))
    styles = dict(zip(names, series_styles([name == "IID" for name in names]), strict=True))
    for pool, title in POOLS.items():
        for place, (budget, unit) in enumerate(BUDGETS.items()):
            series = []
            for name in names:
                mine = [line for line in lines if line["pool"] == pool and name_of(line["row"]) == name]
                lengths = [[x for x in mine if x["row"] == row] for row in dict.fromkeys(x["row"] for x in mine)]
                if not lengths:
                    continue
                means = [[statistics.mean(x[key] for x in same) for key in (budget, "average")] for same in lengths]
                longest = max(zip(means, lengths, strict=True), key=lambda pair: pair[0][0])[1]
                points = [(x[budget], x["average"]) for x in longest]
                series.append(Series(name, styles[name], points, sorted((x, y) for x, y in means)))
            if series:
                chart = accuracy_chart(series, title=f"{title}: accuracy against {unit}", unit=times)
                panels.append((MARGIN + place * (PANEL + GAP), f"{title}: average, % against {unit}", chart))
    note = "Budgets as multiples of 400 steps of IID; the reference's own cost is in no row. Small points: seeds."
    return page(panels, [PANEL] * len(panels), note, "Accuracy against processor time and FLOPs")


def name_of(row: str) -> str:
    """What the curve of a benchmark's row is called: its method, lambda where there are several, cheap or not."""
    method, *keys = row.split("+")
    title = METHODS[method.partition("@")[0]].title
    options = dict(key.split("=", 1) for key in keys)
    weight = options.get("method.weight")
    cheap = ", cheap" if "reuse" in options else ""
    columns = ", columns" if options.get("method.columns", "0") != "0" else ""
    return f"{title}{cheap}{columns}" + (f", λ {weight}" if weight and not columns else "")


def times(value: float) -> str:
    """A multiple of IID's budget."""
    return f"{plain(value)}x"


def main() -> None:
    """Parse and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="the SVG to write")
    parser.add_argument("lines", type=Path, nargs="+", help="what benchmarks/cheap.py wrote with --out")
    options = parser.parse_args()
    lines = [json.loads(line) for file in options.lines for line in file.read_text(encoding="utf-8").splitlines()]
    if not lines:
        sys.exit("frontier.py: there is no line to draw.")
    write_atomic(options.out, draw(lines))
    print(f"Wrote {options.out}")


if __name__ == "__main__":
    main()
