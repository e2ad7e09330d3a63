"""Draws the pictures of docs/evidence.md from the lines of the studies.

    python docs/evidence_figures.py

`docs/img/share.svg`: gains over random batches against the clean share of the pool. `docs/img/ladder.svg`: gains by
reference and method. `docs/img/capacity.svg`: gains over random batches by reference, student and method.
`docs/img/domains.svg`: how much of each domain is kept. A study without runs has no picture.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).parent))

from evidence_fit import Ladder
from evidence_lines import BASELINE, ROOT, Lines, gain_text, share_of, text_of
from figures import page

from aced.files.atomic import write_atomic
from aced.report.aggregate import Stat, stat
from aced.report.canvas import css, isolated, new_figure, plain, put_text, set_ticks, to_svg
from aced.report.charts import series_styles, spread

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH = 926
"""Of a panel that fills the page of `figures.page`."""
NAMES = 190
"""Pixels for the names of rows."""
DOMAINS = {"brain_mri": "brain MRI", "rsscn7": "aerial scenes", "neu_det": "steel defects"}


@isolated
def share_chart(lines: Lines, rows: Sequence[str]) -> str:
    """Gain over random batches of the same pool against the share of right captions; bars are standard deviations."""
    figure, axes = new_figure(WIDTH, 370, left=40, right=NAMES, bottom=56, top=16)
    names = list(lines.study.points)
    styles = series_styles([False] * len(rows))
    axes.axhline(0, color=css("muted"), linewidth=1, linestyle=(0, (2, 3)))
    ends = []
    for row, style in zip(rows, styles, strict=True):
        found = [(x, one) for x, point in enumerate(names) if (one := lines.gain(row, BASELINE, point))]
        xs, means = [x for x, _ in found], [one.mean for _, one in found]
        dashes = (0, (4, 2)) if style.dashed else "-"
        axes.plot(xs, means, color=css(style.colour), marker=style.marker, linewidth=1.8, linestyle=dashes)
        for x, one in found:
            half = one.std or 0.0
            axes.plot([x, x], [one.mean - half, one.mean + half], color=css(style.colour), linewidth=1, alpha=0.6)
        ends.append(means[-1])
    low, high = axes.get_ylim()
    for row, style, y in zip(rows, styles, spread(ends, 0.055 * (high - low), low, high), strict=True):
        put_text(axes, len(names) - 0.88, y, row, ("data", "data"), color=style.colour, va="center")
    axes.set_xlim(-0.2, len(names) - 0.95)
    axes.set_xticks(range(len(names)), names)
    set_ticks(axes.yaxis, plain, 7)
    put_text(axes, 0.5, -0.11, "right captions in the pool", ("axes", "axes"), color="muted", ha="center", va="top")
    return to_svg(figure, "Gain over random batches against the clean share of the pool")


Cell = tuple[str, str]


def drawn_points(lines: Lines) -> list[str]:
    """The points that have runs."""
    return [point for point in lines.study.points if any(one["point"] == point for one in lines.records)]


def heat(axes: Axes, values: Mapping[Cell, Stat], ys: Mapping[str, float], columns: Sequence[str], gains: bool) -> None:
    """Cells of a heat map with their figures.

    Args:
        axes: where to draw.
        values: by row and column.
        ys: the rows, from above, with their heights.
        columns: from left to right.
        gains: differences, blue above 0 and orange below; otherwise the lowest is palest.
    """
    means = [one.mean for one in values.values()]
    low, high = (0.0, max(map(abs, means))) if gains else (min(means), max(means))
    for (row, column), one in values.items():
        depth = ((abs(one.mean) if gains else one.mean) - low) / max(high - low, 1e-9)
        x, y = columns.index(column), ys[row]
        colour = css("s2" if gains and one.mean < 0 else "s1")
        axes.bar(x, 0.94, bottom=y - 0.47, width=0.97, facecolor=colour, alpha=0.08 + 0.5 * depth)
        text = gain_text(one) if gains else text_of(one)
        put_text(axes, x, y, text, ("data", "data"), color="ink", ha="center", va="center")
    for x, column in enumerate(columns):
        head = column.replace(" and ", "\nand ").replace(", ", ",\n")
        put_text(axes, x, min(ys.values()) - 0.6, head, ("data", "data"), color="muted", ha="center", va="bottom")
    axes.set_xlim(-0.5, len(columns) - 0.5)
    axes.set_ylim(max(ys.values()) + 0.5, min(ys.values()) - 0.5)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines["bottom"].set_visible(False)


@isolated
def ladder_chart(lines: Lines, rows: Sequence[str]) -> str:
    """Averages as a heat map: references from left to right, methods and students from above."""
    names = drawn_points(lines)
    figure, axes = new_figure(WIDTH, 60 + 40 * len(rows), left=NAMES, right=10, bottom=10, top=40, grid=False)
    values = {(row, point): one for row in rows for point in names if (one := lines.stat(row, point))}
    ys = {row: float(y) for y, row in enumerate(rows)}
    heat(axes, values, ys, names, gains=False)
    for row, y in ys.items():
        put_text(axes, -0.01, y, row, ("axes", "data"), color="ink", ha="right", va="center")
    return to_svg(figure, "Average by reference and method")


def capacity_chart(lines: Lines, rows: Sequence[str]) -> str:
    """Gains over random batches as heat maps, one a method: references from left to right, students from above.

    Empty where no row has them.
    """
    ladder, names = Ladder(lines), drawn_points(lines)
    found: dict[str, dict[str, dict[str, Stat]]] = {}
    for method in (name for name in ladder.methods if name in rows):
        for student in ladder.students:
            gains = {point: stat(ladder.gains(method, student, point).values()) for point in names}
            if known := {point: one for point, one in gains.items() if one}:
                found.setdefault(method, {})[student] = known
    return capacity_panels(found, names) if found else ""


@isolated
def capacity_panels(found: Mapping[str, Mapping[str, Mapping[str, Stat]]], names: Sequence[str]) -> str:
    """Draw gains by method, student and reference; `names` are those of the references."""
    values: dict[Cell, Stat] = {}
    ys: dict[str, float] = {}
    y, left = 0.0, NAMES + 60
    heads = {}
    for method, students in found.items():
        heads[method] = y
        for student, gains in students.items():
            own = f"{method}/{student}"
            ys[own] = y
            values |= {(own, point): one for point, one in gains.items()}
            y += 1
        y += 0.5
    figure, axes = new_figure(WIDTH, round(50 + 36 * y), left=left, right=10, bottom=10, top=40, grid=False)
    heat(axes, values, ys, names, gains=True)
    for own, at in ys.items():
        put_text(axes, -0.01, at, own.partition("/")[2], ("axes", "data"), color="muted", ha="right", va="center")
    for method, at in heads.items():
        put_text(axes, -left / (WIDTH - left - 10), at, method, ("axes", "data"), color="ink", va="center")
    return to_svg(figure, "Gain over random batches by reference, student and method")


@isolated
def domain_chart(lines: Lines, rows: Sequence[str]) -> str:
    """Sound pairs of each domain among those trained on, relative to their share of the pool."""
    figure, axes = new_figure(
        WIDTH, 60 + 22 * len(rows) * len(DOMAINS), left=NAMES, right=150, bottom=24, top=10, grid=False
    )
    styles, y, kinds = (
        series_styles([False] * len(DOMAINS)),
        0.0,
        {kind for one in lines.records for kind in one["kinds"]["pool"]},
    )
    for row in rows:
        put_text(axes, -0.01, y + 1, row, ("axes", "data"), color="ink", ha="right", va="center")
        for (domain, title), style in zip(DOMAINS.items(), styles, strict=True):
            own = f"{domain}/clean"
            if own in kinds:
                kept, there = lines.stat(row, "", share_of(own)), lines.stat(BASELINE, "", share_of(own))
                assert kept is not None
                assert there is not None
                ratio = kept.mean / there.mean
                axes.barh(y, ratio, height=0.8, facecolor=css(style.colour))
                put_text(axes, ratio + 0.02, y, f"{ratio:.2f}  {title}", ("data", "data"), color="muted", va="center")
            y += 1
        y += 0.8
    axes.axvline(1, color=css("muted"), linewidth=1, linestyle=(0, (2, 3)))
    axes.set_ylim(y - 0.9, -0.7)
    axes.set_xlim(0, None)
    axes.set_yticks([])
    set_ticks(axes.xaxis, plain, 6)
    return to_svg(figure, "Sound pairs of each domain that are trained on, relative to random batches")


PICTURES = {
    "share": (
        share_chart,
        "Gain over random batches, points",
        "Gains are paired by seed; bars are standard deviations.",
    ),
    "ladder": (ladder_chart, "Zero-shot average, %", "References grow stronger from left to right."),
    "capacity": (
        capacity_chart,
        "Gain over random batches of the same student, points",
        "References grow stronger from left to right, students larger downwards; gains are paired by seed.",
    ),
    "domains": (
        domain_chart,
        "Sound pairs of three domains in the batches, relative to random batches",
        "1: as many as in random batches.",
    ),
}


STUDIES_OF = {"capacity": "ladder"}
"""Pictures that are not called as their study."""


def main() -> None:
    """Draw what has runs."""
    for name, (chart, title, note) in PICTURES.items():
        lines = Lines(STUDIES_OF.get(name, name))
        rows = [row for row in lines.rows([]) if row != BASELINE]
        if rows and (drawn := chart(lines, rows)):
            path = ROOT / f"docs/img/{name}.svg"
            write_atomic(path, page([(16, title, drawn)], [WIDTH], note, title))
            print(f"Wrote {path.name}")


if __name__ == "__main__":
    main()
