"""The picture of a comparison, drawn from its results.json.

    python docs/figures.py runs/demo/results.json docs/img/demo.svg

Left: the average of the zero-shot tasks for each row, mean and standard deviation over the seeds. Right: the same
against wall time, because a method that wins at equal samples need not win by the clock. The SVG brings its own
background for light and dark pages.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from html import escape
from pathlib import Path

from aced.errors import AcedError
from aced.files.atomic import write_atomic
from aced.report import load_results
from aced.report.aggregate import Group, averaged_chances, group_rows
from aced.report.canvas import css, isolated, new_figure, plain, put_text, set_ticks, to_svg
from aced.report.charts import Series, Style, accuracy_chart, series_styles
from aced.report.numbers import duration
from aced.runs.records import Results
from aced.runs.run_results import parse_results

WIDTH, MARGIN, HEAD = 960, 16, 40
BARS, SCATTER, GAP = 500, 380, 20
EQUAL_TIME = re.compile(r"( \(lambda \d+\))? at ACED's wall time$")
LIGHTER = 0.42
"""Opacity of the bars of rows that trained on more samples than IID."""

STYLE = """
svg { color-scheme: light dark; font-family: system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue",
  "Noto Sans", "Liberation Sans", Arial, sans-serif;
  --card: #ffffff; --ink: #1d2026; --muted: #636a76; --grid: #e6e4df; --line: #dedbd4;
  --s0: #82878f; --s1: #0b6fb8; --s2: #cf5200; --s3: #00875f; --s4: #b4528f; --s5: #c08600; --s6: #3d9ad6;
  --s7: #5b4fb5; --s8: #7c6a12; }
@media (prefers-color-scheme: dark) { svg {
  --card: #1a1d23; --ink: #e9e9e5; --muted: #9ca3af; --grid: #2c3038; --line: #31363f;
  --s0: #9aa0a9; --s1: #55a8ec; --s2: #f08543; --s3: #2fbf92; --s4: #dd8fbf; --s5: #e8b23a; --s6: #9ad3f7;
  --s7: #a59bf0; --s8: #c9b458; } }
"""


def draw(results: Results, methods: Sequence[str] = ()) -> str:
    """The whole picture as SVG text.

    Args:
        results: of a demo.
        methods: titles of the methods that are drawn, with their rows at equal wall time; none: all rows.

    Raises:
        AcedError: no row has an average, or a method has none.
    """
    groups = [group for group in group_rows(results) if group.average]
    if methods:
        groups = [group for group in groups if EQUAL_TIME.sub("", group.title) in methods]
        lacks = [title for title in methods if title not in {group.title for group in groups}]
        if lacks:
            raise AcedError(f"--methods names {', '.join(lacks)}, of which the results have no average.")
    if not groups:
        raise AcedError("No row of the results has an average, so there is nothing to draw.")
    styles = series_styles([group.is_baseline for group in groups])
    reference = results.reference.average if results.reference else None
    bars = bar_chart(groups, styles, chance=mean_chance(results), reference=reference)
    series = [
        Series(
            _short(group.title), style, [(r.budgets["seconds"], r.average) for r in group.rows if r.average is not None]
        )
        for group, style in zip(groups, styles, strict=True)
    ]
    scatter = accuracy_chart(series, title="Average accuracy against wall time", unit=_seconds, reference=reference)
    seeds = max(len(group.rows) for group in groups)
    tasks = len(averaged_chances(results))
    over = f", {seeds} seeds" if seeds > 1 else ", one seed"
    left = (MARGIN, f"Average of {tasks} zero-shot tasks, %{over}", bars)
    right = (MARGIN + BARS + GAP, "The same against wall time of training", scatter)
    note = "Lighter bars: rows that train on more samples than IID. The reference's own cost is not in any row."
    return page([left, right], [BARS, SCATTER], note, "Accuracy of each method, and the same against wall time")


def mean_chance(results: Results) -> float | None:
    """What guessing scores on average, in percent."""
    chances = [chance for chance in averaged_chances(results).values() if chance is not None]
    return 100 * sum(chances) / len(chances) if chances else None


def _short(title: str) -> str:
    """A title that fits beside a chart."""
    return title.replace(" at ACED's wall time", ", ACED's time").replace("lambda ", "\u03bb ")


def _seconds(value: float) -> str:
    return duration(value) if value else "0"


@isolated
def bar_chart(
    groups: Sequence[Group], styles: Sequence[Style], *, chance: float | None, reference: float | None
) -> str:
    """A bar for each row in the order of the table, with its standard deviation."""
    names = round(12 + 6.3 * max(len(_short(group.title)) for group in groups))
    figure, axes = new_figure(BARS, 46 + 21 * len(groups), left=names, right=12, bottom=24, top=20, grid=False)
    base = next((group.budgets["samples_trained"].mean for group in groups if group.is_baseline), None)
    values = [group.average for group in groups if group.average]
    high = max([v.mean + (v.std or 0) for v in values] + [reference or 0])
    axes.set_xlim(0, high * (1.04 if high == reference else 1.2))
    axes.set_ylim(len(groups) - 0.4, -0.6)
    for y, (group, style, value) in enumerate(zip(groups, styles, values, strict=True)):
        longer = base is not None and group.budgets["samples_trained"].mean > 1.05 * base
        colour = css(style.colour)
        axes.barh(y, value.mean, height=0.66, facecolor=colour, alpha=LIGHTER if longer else 1.0)
        text = f"{value.mean:.1f}"
        end = value.mean
        if value.std is not None:
            axes.plot([value.mean - value.std, value.mean + value.std], [y, y], color=css("ink"), linewidth=1.3)
            text, end = f"{text} ± {value.std:.1f}", value.mean + value.std
        put_text(axes, end + 0.015 * high, y, text, ("data", "data"), color="ink", va="center")
        put_text(
            axes,
            -8 / (BARS - names - 12),
            y,
            _short(group.title),
            ("axes", "data"),
            color="ink",
            ha="right",
            va="center",
        )
    for level, name in ((chance, "guessing"), (reference, "reference")):
        if level is not None:
            axes.axvline(level, color=css("muted"), linewidth=1, linestyle=(0, (2, 3)), zorder=0)
            side = "right" if level > 0.8 * axes.get_xlim()[1] else "center"
            put_text(axes, level, 1.0, f"{name} {level:.1f}", ("data", "axes"), color="muted", ha=side)
    set_ticks(axes.xaxis, plain, 5)
    axes.set_yticks([])
    return to_svg(figure, "Average accuracy of each row")


def page(panels: Sequence[tuple[int, str, str]], widths: Sequence[int], note: str, label: str) -> str:
    """Charts side by side on a card, in several rows where a panel begins left of the one before it.

    Args:
        panels: of each its left edge, its title and its SVG.
        widths: of the panels.
        note: a sentence below them.
        label: what the picture shows, for those who cannot see it.
    """
    parts, top, bottom, before = [], 0.0, 0.0, -1
    for (x, title, svg), width in zip(panels, widths, strict=True):
        if x <= before:
            top = bottom
        before = x
        box = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg)
        assert box is not None
        height = width * float(box[2]) / float(box[1])
        bottom = max(bottom, top + HEAD + height)
        place = f'<svg x="{x}" y="{top + HEAD:.0f}" width="{width}" height="{height:.1f}" overflow="visible" '
        head = f'<text x="{x}" y="{top + 26:.0f}" font-size="14" font-weight="600" fill="var(--ink)">'
        parts.append(f"{head}{escape(title)}</text>")
        parts.append(svg.replace("<svg ", place, 1))
    height = round(bottom + 34)
    parts.append(f'<text x="{MARGIN}" y="{height - 14}" font-size="12" fill="var(--muted)">{escape(note)}</text>')
    size = f'width="{WIDTH - 1}" height="{height - 1}"'
    card = f'<rect x="0.5" y="0.5" {size} rx="10" fill="var(--card)" stroke="var(--line)"/>'
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        f'role="img" aria-label="{escape(label)}">'
    )
    return f"{head}\n<style>{STYLE}</style>\n{card}\n" + "\n".join(parts) + "\n</svg>\n"


def main() -> None:
    """Parse and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="a results.json")
    parser.add_argument("out", type=Path, help="the SVG to write")
    parser.add_argument("--methods", nargs="+", default=[], metavar="TITLE", help="draw these alone; none: all rows")
    options = parser.parse_args()
    try:
        results = parse_results(load_results(options.results), str(options.results))
        write_atomic(options.out, draw(results, options.methods))
    except AcedError as error:
        sys.exit(f"figures.py: {error}")
    print(f"Wrote {options.out}")


if __name__ == "__main__":
    main()
