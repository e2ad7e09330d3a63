"""Fills the README's table with figures of docs/results.md, so that each of them stands in one place.

    python docs/excerpt.py

A row for each method that both tables of docs/results.md have, in their order.
"""

from __future__ import annotations

import re
from itertools import dropwhile, takewhile
from pathlib import Path

from aced.files.atomic import write_atomic

ROOT = Path(__file__).parents[1]
SOURCE, PAGE, BLOCK = ROOT / "docs/results.md", ROOT / "README.md", "results-table"
HEADS = (
    "Method",
    "Scenes, equal samples",
    "Scenes, equal time",
    "Photos, equal samples",
    "Loaded",
    "FLOPs",
    "Wall time",
)
EQUAL_TIME = " at ACED's wall time"

Rows = dict[str, dict[str, str]]
"""Cells of a table by the row's method and the column's head."""


def page() -> str:
    """The README with its table filled.

    Raises:
        ValueError: a page has no such block.
    """
    text = PAGE.read_text(encoding="utf-8")
    start, end = _block(text, BLOCK).span()
    return f"{text[:start]}\n{table(SOURCE.read_text(encoding='utf-8'))}\n{text[end:]}"


def table(source: str) -> str:
    """The README's table, from the text of docs/results.md; budgets are those on scenes."""
    scenes, photos = rows_of(source, "demo-table"), rows_of(source, "photos-table")
    lines = [" | ".join(HEADS), " | ".join(["---", *["--:"] * (len(HEADS) - 1)])]
    for name in (name for name in scenes if name in photos):
        budgets = [scenes[name][head] for head in HEADS[4:]]
        averages = [scenes[name]["Average, %"], _at_equal_time(name, scenes), photos[name]["Average, %"]]
        lines.append(" | ".join([name, *averages, *budgets]))
    return "\n".join(f"| {line} |" for line in lines)


def rows_of(source: str, block: str) -> Rows:
    """The rows of the first table of a block by their first cell.

    Raises:
        ValueError: the text has no such block.
    """
    lines = dropwhile(lambda line: not line.startswith("|"), _block(source, block)[0].splitlines())
    table = takewhile(lambda line: line.startswith("|"), lines)
    heads, _, *rows = ([cell.strip() for cell in line.strip().split("|")[1:-1]] for line in table)
    return {row[0]: dict(zip(heads, row, strict=True)) for row in rows}


def _at_equal_time(name: str, rows: Rows) -> str:
    """What a method scores in ACED's wall time, with the best of the lambdas that were tried."""
    if name == "ACED":
        return rows[name]["Average, %"]
    tried = [rows[row]["Average, %"] for row in rows if re.sub(r" \(lambda \d+\)", "", row) == name + EQUAL_TIME]
    return max(tried, key=lambda cell: float(cell.split()[0]), default="–")


def _block(text: str, name: str) -> re.Match[str]:
    found = re.search(rf"(?<=<!-- {re.escape(name)} -->).*?(?=<!-- /{re.escape(name)} -->)", text, re.DOTALL)
    if not found:
        raise ValueError(f"The page has no block <!-- {name} -->.")
    return found


if __name__ == "__main__":
    write_atomic(PAGE, page())
    print(f"Filled {BLOCK} in {PAGE.name}")
