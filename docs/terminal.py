"""A picture of a terminal: what a command printed, as SVG that needs nothing else.

    FORCE_COLOR=1 TTY_INTERACTIVE=0 COLUMNS=100 aced demo --quick --threads 1 > runs/quick.txt
    python docs/terminal.py "aced demo --quick --threads 1" runs/quick.txt docs/img/terminal.svg

Blank lines in a row become one. The picture brings its own background for light and dark pages.
"""

from __future__ import annotations

import argparse
import re
from html import escape
from pathlib import Path

from rich.text import Text

from aced.files.atomic import write_atomic

CHARACTER, LINE, MARGIN = 7.83, 17, 18
"""Width of a character, height of a line, and the margin, in pixels."""

STYLE = """
svg { color-scheme: light dark; --card: #ffffff; --ink: #1d2026; --line: #dedbd4; }
@media (prefers-color-scheme: dark) { svg { --card: #1a1d23; --ink: #e9e9e5; --line: #31363f; } }
text { font: 13px ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; white-space: pre; fill: var(--ink); }
.typed { font-weight: 700; }
"""


def draw(command: str, output: str) -> str:
    """The picture as SVG text.

    Args:
        command: the line that was typed.
        output: what it printed; colours and other escape sequences are left out.
    """
    printed = re.sub(r"\n\s*\n", "\n\n", Text.from_ansi(output.rstrip("\n")).plain)
    rows = [f"$ {command}", "", *printed.splitlines()]
    width = round(max(map(len, rows)) * CHARACTER + 2 * MARGIN)
    height = len(rows) * LINE + 2 * MARGIN
    card = f'<rect x="0.5" y="0.5" width="{width - 1}" height="{height - 1}" rx="10"'
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
            f'height="{height}" role="img" aria-label="What {escape(command)} prints">',
            f"<style>{STYLE}</style>",
            f'{card} fill="var(--card)" stroke="var(--line)"/>',
            *(_line(number, row) for number, row in enumerate(rows) if row.strip()),
            "</svg>\n",
        ]
    )


def _line(number: int, row: str) -> str:
    """One line; its length is given, so that the boxes of tables meet in every font."""
    row = row.rstrip()
    typed = ' class="typed"' if number == 0 else ""
    place = f'x="{MARGIN}" y="{MARGIN + 13 + number * LINE}" textLength="{len(row) * CHARACTER:.1f}"'
    return f'<text {place} xml:space="preserve"{typed}>{escape(row)}</text>'


def main() -> None:
    """Parse and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", help="the line that was typed")
    parser.add_argument("output", type=Path, help="a file with what it printed")
    parser.add_argument("out", type=Path, help="the SVG to write")
    options = parser.parse_args()
    write_atomic(options.out, draw(options.command, options.output.read_text(encoding="utf-8")))
    print(f"Wrote {options.out}")


if __name__ == "__main__":
    main()
