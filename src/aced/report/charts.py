"""Charts as inline SVG that follows the page's colours, light or dark.

Colours are drawn as marks (`#0f1e..`) that stand for CSS variables of the page and are replaced in the SVG text, so
one drawing serves both themes. Text stays text and takes the page's font. matplotlib is imported when the first
chart is drawn; only `Figure` objects are used, no state of pyplot.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING, Any

from aced.report.aggregate import KindShares, Points
from aced.report.numbers import compact

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SERIES = 9
"""Number of series colours of the page: `--s0` is the baseline's grey, `--s1` to `--s8` are told apart by all eyes."""
KINDS = 8
"""Number of colours for kinds of pairs, `--k0` to `--k7`."""

_VARIABLES = ["ink", "muted", "grid", "card", *(f"s{i}" for i in range(SERIES)), *(f"k{i}" for i in range(KINDS))]
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p")
_FONT = 12


@dataclass(frozen=True)
class Style:
    """How a series looks everywhere on the page."""

    colour: str
    marker: str
    dashed: bool = False


@dataclass(frozen=True)
class Series:
    """A method in a chart: its points (one for each seed) and its line."""

    label: str
    style: Style
    points: Points = field(default_factory=list)
    line: Points = field(default_factory=list)


def series_styles(baseline: Sequence[bool]) -> list[Style]:
    """A style for each group; `baseline` says which of them is the baseline, which is grey.

    Colours repeat after eight, and then lines are dashed and markers are others, so that no two look alike.
    """
    styles = []
    number = 0
    for plain in baseline:
        if plain:
            styles.append(Style("s0", "o"))
            continue
        turn, colour = divmod(number, SERIES - 1)
        marker = _MARKERS[(1 + number + 3 * turn) % len(_MARKERS)]
        styles.append(Style(f"s{1 + colour}", marker, turn % 2 == 1))
        number += 1
    return styles


def accuracy_chart(
    series: Sequence[Series], *, title: str, unit: Callable[[float], str], reference: float | None = None
) -> str:
    """Average accuracy (percent) against one budget: small points for seeds, a large one for their mean.

    Args:
        series: methods with points or a line, or both.
        title: what the chart shows, for those who cannot see it.
        unit: formats the budget.
        reference: the reference's average, drawn where it does not squeeze the rest.
    """
    series = [s for s in series if s.points or s.line]
    figure, axes = _figure(420, 300, left=36, right=_label_width(series), bottom=24)
    xs = [x for s in series for x, _ in (*s.points, *s.line) if x > 0]
    ys = [y for s in series for _, y in (*s.points, *s.line)]
    low, high = _padded(ys)
    if reference is not None and reference - high < 0.35 * (high - low):
        high = max(high, reference + 0.06 * (high - low))
        axes.axhline(reference, color=_c("muted"), linewidth=1, linestyle=(0, (2, 3)))
        _text(axes, 0.012, reference, "reference", ("axes", "data"), color="muted", va="bottom")
    axes.set_ylim(low, high)
    _x_scale(axes, xs, unit)
    ends = [_draw_series(axes, s) for s in series]
    _label_ends(axes, [s.label for s in series], [s.style for s in series], ends)
    return _svg(figure, title)


def lines_chart(series: Sequence[Series], *, title: str, unit: Callable[[float], str] = compact) -> str:
    """Curves over the steps with their names at the right."""
    series = [s for s in series if s.line]
    figure, axes = _figure(420, 290, left=40, right=_label_width(series), bottom=24)
    axes.set_ylim(*_padded([y for s in series for _, y in s.line]))
    axes.set_xlim(0, max(x for s in series for x, _ in s.line) * 1.02)
    _ticks(axes.xaxis, unit, 4)
    for s in series:
        _line(axes, s.line, s.style)
    _label_ends(axes, [s.label for s in series], [s.style for s in series], [s.line[-1] for s in series])
    return _svg(figure, title)


def kinds_chart(shares: KindShares, colours: dict[str, str], *, title: str) -> str:
    """Stacked shares of the chosen kinds over the steps, beside a bar with the pool's shares.

    Args:
        shares: of one method.
        colours: CSS variable of each kind, in the order of the stack from below.
        title: what the chart shows, for those who cannot see it.
    """
    figure, axes = _figure(220, 150, left=38, right=8, bottom=22, top=8, grid=False)
    first, last = shares.steps[0], shares.steps[-1]
    steps = shares.steps if last > first else [first, first + 1]
    span = steps[-1] - steps[0]
    bar, gap = 0.13 * span, 0.09 * span
    base = [0.0] * len(steps)
    pool_base = 0.0
    for kind, colour in colours.items():
        chosen = shares.chosen.get(kind, [])
        if chosen:
            chosen = chosen if last > first else chosen * 2
            top = [b + c for b, c in zip(base, chosen, strict=True)]
            axes.fill_between(steps, base, top, facecolor=_c(colour), edgecolor=_c("card"), linewidth=0.7)
            base = top
        share = shares.pool.get(kind, 0.0)
        if share:
            axes.bar(
                steps[0] - gap - bar / 2,
                share,
                width=bar,
                bottom=pool_base,
                facecolor=_c(colour),
                edgecolor=_c("card"),
                linewidth=0.7,
            )
            pool_base += share
    axes.set_ylim(0, 1)
    left = steps[0] - (gap + bar if shares.pool else 0)
    axes.set_xlim(left, steps[-1])
    ends = [(steps[0], "0" if first < 0.2 * last else compact(first), "left"), (steps[-1], compact(last), "right")]
    for x, text, side in ends:
        _text(axes, x, -0.04, text, ("data", "axes"), color="muted", ha=side, va="top")
    if shares.pool:
        _text(axes, left + bar / 2, -0.04, "pool", ("data", "axes"), color="ink", ha="center", va="top")
    axes.set_xticks([])
    axes.set_yticks([0, 0.5, 1], ["0 %", "50", "100"])
    axes.spines["bottom"].set_visible(False)
    return _svg(figure, title)


def scores_chart(chosen: Points, pool: Points, style: Style, *, title: str) -> str:
    """Mean score of the chosen pairs (coloured) and of all candidates (grey) over the steps."""
    figure, axes = _figure(220, 150, left=36, right=12, bottom=22, top=8)
    low, high = _padded([y for _, y in (*chosen, *pool)])
    axes.set_ylim(low, high)
    axes.set_xlim(0, max(x for x, _ in (*chosen, *pool)))
    axes.fill_between(
        [x for x, _ in pool],
        [y for _, y in pool],
        [y for _, y in chosen],
        facecolor=_c(style.colour),
        alpha=0.13,
        linewidth=0,
    )
    axes.plot(*zip(*pool, strict=True), color=_c("muted"), linewidth=1.4, linestyle=(0, (3, 2)))
    axes.plot(*zip(*chosen, strict=True), color=_c(style.colour), linewidth=2)
    _ticks(axes.xaxis, compact, 3)
    return _svg(figure, title)


def marker_svg(style: Style) -> str:
    """The series' line and marker, 26 x 12 pixels, for legends and tables; a decoration, hidden from readers."""
    figure, axes = _figure(26, 12, left=0, right=0, bottom=0, top=0, grid=False)
    axes.set_axis_off()
    axes.set_xlim(0, 26)
    axes.set_ylim(0, 12)
    _line(axes, [(1, 6), (25, 6)], style)
    axes.plot([13], [6], marker=style.marker, markersize=7.5, color=_c(style.colour), markeredgewidth=0)
    return _svg(figure, "", salt=f"{style.colour}{style.marker}{style.dashed}")


def spread(positions: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Move labels apart: at least `gap` between any two, in [low, high], in the same order, as near as may be.

    Where they do not fit at all, they are set at equal distances over the whole range.

    >>> spread([10.0, 11.0, 30.0], 4.0, 0.0, 40.0)
    [8.5, 12.5, 30.0]
    """
    order = sorted(range(len(positions)), key=lambda i: positions[i])
    if len(order) > 1 and gap * (len(order) - 1) >= high - low:
        step = (high - low) / (len(order) - 1)
        placed = [low + step * rank for rank in range(len(order))]
    else:
        placed = _blocks([positions[i] for i in order], gap, low, high)
    result = [0.0] * len(positions)
    for i, value in zip(order, placed, strict=True):
        result[i] = value
    return result


def _blocks(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Merge overlapping labels into blocks around the mean of what they want (ascending input)."""
    blocks: list[tuple[float, int]] = []  # start of the first label, number of labels

    def clamped(start: float, count: int) -> float:
        return min(max(start, low), high - gap * (count - 1))

    sums: list[float] = []
    for value in wanted:
        blocks.append((clamped(value, 1), 1))
        sums.append(value)
        while len(blocks) > 1 and blocks[-2][0] + gap * blocks[-2][1] > blocks[-1][0]:
            (_, a), (_, b) = blocks[-2:]
            # Best start: the mean of each label's wish less its place within the block.
            total = sums[-2] + sums[-1] - gap * a * b
            blocks[-2:] = [(clamped(total / (a + b), a + b), a + b)]
            sums[-2:] = [total]
    return [start + gap * i for start, count in blocks for i in range(count)]


def _c(variable: str) -> str:
    return f"#0f1e{_VARIABLES.index(variable):02x}"


def _figure(
    width: int, height: int, *, left: int, right: int, bottom: int, top: int = 10, grid: bool = True
) -> tuple[Figure, Axes]:
    """Sizes in CSS pixels (points at 72 dpi); the margins hold tick labels and names."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width / 72, height / 72), dpi=72)
    box = (left / width, bottom / height, (width - left - right) / width, (height - bottom - top) / height)
    axes = figure.add_axes(box)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(_c("muted"))
    axes.spines["bottom"].set_linewidth(0.8)
    axes.tick_params(length=0, labelsize=_FONT, labelcolor=_c("muted"), pad=5)
    axes.tick_params(axis="y", pad=4)
    if grid:
        axes.grid(axis="y", color=_c("grid"), linewidth=1)
    axes.set_axisbelow(True)
    return figure, axes


def _draw_series(axes: Axes, series: Series) -> tuple[float, float]:
    """Line, seeds and mean of one method; gives the point that its name belongs to."""
    if series.line:
        _line(axes, series.line, series.style)
    if not series.points:
        return series.line[-1]
    colour, marker = _c(series.style.colour), series.style.marker
    xs, ys = zip(*series.points, strict=True)
    if len(xs) > 1:
        axes.plot(xs, ys, linestyle="", marker=marker, markersize=4, color=colour, alpha=0.45, markeredgewidth=0)
    mean = (math.fsum(xs) / len(xs), math.fsum(ys) / len(ys))
    axes.plot(*mean, marker=marker, markersize=9, color=colour, markeredgecolor=_c("card"), markeredgewidth=1.2)
    return mean


def _line(axes: Axes, points: Points, style: Style) -> None:
    dashes: Any = (0, (4, 2)) if style.dashed else "-"
    axes.plot(*zip(*points, strict=True), color=_c(style.colour), linewidth=1.8, linestyle=dashes)


def _label_ends(
    axes: Axes, labels: Sequence[str], styles: Sequence[Style], ends: Sequence[tuple[float, float]]
) -> None:
    """Names at the right edge, moved apart, each tied to its point by a thin line."""
    if len(labels) < 2:
        return
    width, height = axes.get_window_extent().width, axes.get_window_extent().height
    to_axes = axes.transAxes.inverted()
    at = [to_axes.transform(axes.transData.transform(point)) for point in ends]
    gap = (_FONT + 3) / height
    for label, style, (x, y), place in zip(labels, styles, at, spread([p[1] for p in at], gap, 0.0, 1.0), strict=True):
        axes.plot(
            [x, 1.0, 1.0 + 6 / width],
            [y, place, place],
            transform=axes.transAxes,
            clip_on=False,
            color=_c(style.colour),
            linewidth=0.8,
            alpha=0.55,
            zorder=1,
        )
        axes.plot(
            [1.0 + 11 / width],
            [place],
            transform=axes.transAxes,
            clip_on=False,
            marker=style.marker,
            markersize=6,
            color=_c(style.colour),
            markeredgewidth=0,
        )
        _text(axes, 1.0 + 18 / width, place, label, ("axes", "axes"), color="ink", va="center")


def _label_width(series: Sequence[Series]) -> int:
    """Pixels for the longest name, a third of the chart at the most; a single series needs no name."""
    if len(series) < 2:
        return 12
    return round(min(26 + 6.0 * max(len(s.label) for s in series), 165))


def _text(
    axes: Axes,
    x: float,
    y: float,
    text: str,
    at: tuple[str, str],
    *,
    color: str,
    ha: str = "left",
    va: str = "baseline",
    size: int = _FONT,
) -> None:
    from matplotlib.transforms import blended_transform_factory

    systems = {"axes": axes.transAxes, "data": axes.transData}
    transform = blended_transform_factory(systems[at[0]], systems[at[1]])
    # Names come from users: a dollar sign is not the start of a formula.
    axes.text(
        x, y, text, transform=transform, color=_c(color), ha=ha, va=va, fontsize=size, parse_math=False, clip_on=False
    )


def _padded(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    room = (high - low) * 0.07 or abs(high) * 0.1 or 1.0
    return low - room, high + room


def _x_scale(axes: Axes, xs: Sequence[float], unit: Callable[[float], str]) -> None:
    """From zero where the budgets are of one order, logarithmic where they are not."""
    low, high = (min(xs), max(xs)) if xs else (0.0, 1.0)
    if xs and high / low > 30:
        axes.set_xscale("log")
        axes.set_xlim(low / 1.3, high * 1.3)
        axes.minorticks_off()
    else:
        axes.set_xlim(0, high * 1.05)
        _ticks(axes.xaxis, unit, 4)
        return
    from matplotlib.ticker import FuncFormatter, LogLocator

    axes.xaxis.set_major_locator(LogLocator(numticks=5))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: unit(value)))


def _ticks(axis: Any, unit: Callable[[float], str], most: int) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axis.set_major_locator(MaxNLocator(most, steps=[1, 2, 2.5, 5, 10]))
    axis.set_major_formatter(FuncFormatter(lambda value, _: unit(value)))


def _svg(figure: Figure, title: str, salt: str = "") -> str:
    """The figure as an SVG element without metadata, foreign fonts, fixed size or ids that nothing refers to."""
    import matplotlib

    buffer = io.StringIO()
    # The salt makes ids repeatable and keeps those of different charts apart.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": salt or title}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", text, flags=re.DOTALL)
    text = re.sub(r"<path d=\"[^\"]*\" style=\"fill: none\"/>", "", text)
    text = text.replace("xlink:href", "href")
    used = set(re.findall(r"(?:url\(|href=\")#([\w.-]+)", text))
    text = re.sub(r' id="([^"]+)"', lambda m: m.group(0) if m.group(1) in used else "", text)
    text = re.sub(r"font-family: [^;\"]*;? ?", "", text)
    text = re.sub(r' transform="rotate\(-?0 [^)]*\)"', "", text)
    text = re.sub(r' (?:d|x|y)="[^"]*"', lambda m: re.sub(r"(\.\d\d)\d+", r"\1", m.group(0)), text)
    text = re.sub(r"#0f1e([0-9a-f]{2})", lambda m: f"var(--{_VARIABLES[int(m.group(1), 16)]})", text)
    text = re.sub(r">\s+<", "><", text)
    size = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', text)
    assert size is not None
    name = f'role="img" aria-label="{escape(title)}"' if title else 'aria-hidden="true"'
    head = f'<svg viewBox="0 0 {size[1]} {size[2]}" {name} style="stroke-linejoin: round">'
    return head + text[text.index(">") + 1 :]
