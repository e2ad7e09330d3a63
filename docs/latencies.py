"""Fills the tables of docs/latency.md from latency.json files, as ratios, so that no figure in it is typed by hand.

    python docs/latencies.py eager-table runs/latency-eager/latency.json
    python docs/latencies.py runtimes-table runs/latency-runtimes/latency.json
    python docs/latencies.py compiled-table runs/latency-compiled-*/latency.json

`eager-table` compares models within one run, `runtimes-table` models and runtimes; `compiled-table` compares each model
compiled with itself in plain torch, both in turns of one run. The lowest and the highest ratio that the rounds' medians
allow show how much the machine's other work blurred a figure.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aced.files.atomic import write_atomic

PAGE, AGAINST = Path(__file__).parent / "latency.md", "ViT-B-32"
TOWERS = ("image", "text")
Row = dict[str, Any]


def ratio(row: Row, other: Row) -> str:
    """`0.72 (0.61 to 0.90)`: of the medians, and of the slowest and quickest rounds against each other."""
    low, high = row["low"] / other["high"], row["high"] / other["low"]
    return f"{row['median'] / other['median']:.2g} ({low:.2g} to {high:.2g})"


def find(rows: Sequence[Row], **facts: Any) -> Row:
    """The one row with these facts."""
    (found,) = [row for row in rows if all(row[key] == value for key, value in facts.items())]
    return found


def eager(rows: Sequence[Row]) -> list[list[str]]:
    """Each model against `AGAINST`, for each number of threads."""
    threads = sorted({row["threads"] for row in rows})
    times = [f"time, {count} thread{'s' * (count > 1)}" for count in threads]
    table = [["model", *(head for side in TOWERS for head in (f"{side}: multiply-adds", *times))]]
    for model in dict.fromkeys(row["model"] for row in rows):
        cells = [Path(model).stem]
        for side in TOWERS:
            pairs = [
                [find(rows, model=name, tower=side, threads=count) for name in (model, AGAINST)] for count in threads
            ]
            own, other = pairs[0]
            cells += [f"{own['multiply_adds'] / other['multiply_adds']:.2g}", *(ratio(*pair) for pair in pairs)]
        table.append(cells)
    return table


def runtimes(rows: Sequence[Row]) -> list[list[str]]:
    """Each model by each runtime against `AGAINST` in plain torch."""
    names = list(dict.fromkeys(row["runtime"] for row in rows))
    table = [["model", *(f"{side}: {name}" for side in TOWERS for name in names)]]
    for model in dict.fromkeys(row["model"] for row in rows):
        cells = [Path(model).stem]
        for side in TOWERS:
            base = find(rows, model=AGAINST, tower=side, runtime="eager")
            cells += [ratio(find(rows, model=model, tower=side, runtime=name), base) for name in names]
        table.append(cells)
    return table


def compiled(rows: Sequence[Row]) -> list[list[str]]:
    """Each model compiled against itself in plain torch."""
    table = [["model", *TOWERS]]
    for model in dict.fromkeys(row["model"] for row in rows):
        pairs = [
            [find(rows, model=model, tower=side, runtime=name) for name in ("compiled", "eager")] for side in TOWERS
        ]
        table.append([model, *(ratio(*pair) for pair in pairs)])
    return table


TABLES = {"eager-table": eager, "runtimes-table": runtimes, "compiled-table": compiled}


def main() -> None:
    """Fill one block of the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("block", choices=TABLES)
    parser.add_argument("results", type=Path, nargs="+", help="latency.json files")
    options = parser.parse_args()
    files = [json.loads(path.read_text(encoding="utf-8")) for path in options.results]
    cells = TABLES[options.block]([row for file in files for row in file["rows"]])
    rows = [cells[0], ["---", *["--:"] * (len(cells[0]) - 1)], *cells[1:]]
    text = "".join(f"| {' | '.join(row)} |\n" for row in rows)
    machine = " and ".join(sorted({file["environment"]["cpu"] for file in files}))
    page = PAGE.read_text(encoding="utf-8")
    block = re.compile(rf"(<!-- {options.block} -->\n).*?(<!-- /{options.block} -->)", re.DOTALL)
    if not block.search(page):
        parser.error(f"{PAGE.name} has no block <!-- {options.block} -->")
    write_atomic(PAGE, block.sub(lambda found: f"{found[1]}{text}\n{machine}.\n{found[2]}", page))


if __name__ == "__main__":
    main()
