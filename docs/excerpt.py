"""Fills the README's table with figures of docs/results.md and of a study, so that none of them is typed.

    python docs/excerpt.py

The scenes' columns are those of docs/results.md; the photos' are averages of the study `methods`, as docs/evidence.md
has them. A dash stands where a row was not run there, or not with all of the study's seeds.
"""

from __future__ import annotations

import re
import sys
from itertools import dropwhile, takewhile
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "docs"))

from evidence import Lines, text_of  # noqa: E402

from aced.files.atomic import write_atomic  # noqa: E402
from aced.report.numbers import DASH  # noqa: E402

SOURCE, STUDY, PAGE, BLOCK = ROOT / "docs/results.md", "methods", ROOT / "README.md", "results-table"
ROWS = ("IID", "Softmax-KD", "H-ACID", "I-ACED", "ACED", "CLIP filter with KD", "Columns-KD", "D-ACED")
"""I-ACID would be the ninth: it is I-ACED without distillation."""
HEADS = (
    "Method",
    "Scenes, equal samples",
    "Scenes, equal time",
    "Photos, equal samples",
    "Photos, equal time",
    "Loaded",
    "FLOPs",
    "Wall time",
)
BUDGETS = HEADS[5:]
SCENES_TIME, PHOTOS_TIME = " at ACED's wall time", " at ACED's time"

Rows = dict[str, dict[str, str]]
"""Cells of a table by the row's method and the column's head."""


def page() -> str:
    """The README with its table filled.

    Raises:
        ValueError: a page has no such block.
    """
    text = PAGE.read_text(encoding="utf-8")
    start, end = _block(text, BLOCK).span()
    return f"{text[:start]}\n{table(SOURCE.read_text(encoding='utf-8'), Lines(STUDY))}\n{text[end:]}"


def table(source: str, photos: Lines) -> str:
    """The README's table, from the text of docs/results.md and the study's runs; budgets are those on scenes."""
    scenes = rows_of(source, "demo-table")
    lines = [" | ".join(HEADS), " | ".join(["---", *["--:"] * (len(HEADS) - 1)])]
    for name in ROWS:
        own = scenes.get(name, {})
        longer = name if name == "ACED" else name + PHOTOS_TIME
        averages = [own.get("Average, %", DASH), _at_equal_time(name, scenes), _photo(name, photos)]
        lines.append(" | ".join([name, *averages, _photo(longer, photos), *(own.get(head, DASH) for head in BUDGETS)]))
    return "\n".join(f"| {line} |" for line in lines)


def _photo(row: str, photos: Lines) -> str:
    """The average of a row of the study, if all its seeds have run."""
    one = photos.stat(row, "")
    return text_of(one if one is not None and one.n == len(photos.study.seeds) else None)


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
    tried = [rows[row]["Average, %"] for row in rows if re.sub(r" \(lambda \d+\)", "", row) == name + SCENES_TIME]
    return max(tried, key=lambda cell: float(cell.split()[0]), default=DASH)


def _block(text: str, name: str) -> re.Match[str]:
    found = re.search(rf"(?<=<!-- {re.escape(name)} -->).*?(?=<!-- /{re.escape(name)} -->)", text, re.DOTALL)
    if not found:
        raise ValueError(f"The page has no block <!-- {name} -->.")
    return found


if __name__ == "__main__":
    write_atomic(PAGE, page())
    print(f"Filled {BLOCK} in {PAGE.name}")
