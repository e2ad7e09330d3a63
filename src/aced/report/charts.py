"""Charts as inline SVG, drawn with `canvas`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from aced.report.aggregate import KindShares, Points
from aced.report.canvas import (
    FONT,
    SERIES,
    css,
    isolated,
    new_figure,
    plain,
    put_text,
    set_ticks,
    to_svg,
)
from aced.report.numbers import compact

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p")
_SMALL, _WIDE = (220, 150), (420, 230)
_BETWEEN = FONT + 3
"""Pixels from one name beside a chart to the next."""


@dataclass(frozen=True)
class Style:
    """The appearance of a series, the same everywhere on the page."""

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

    Colours repeat after eight; then lines are dashed and markers differ, so that no two look alike.
    """
    styles = []
    number = 0
    for grey in baseline:
        if grey:
            styles.append(Style("s0", "o"))
            continue
        turn, colour = divmod(number, SERIES - 1)
        marker = _MARKERS[(1 + number + 3 * turn) % len(_MARKERS)]
        styles.append(Style(f"s{1 + colour}", marker, turn % 2 == 1))
        number += 1
    return styles


@isolated
def accuracy_chart(
    series: Sequence[Series], *, title: str, unit: Callable[[float], str], reference: float | None = None
) -> str:
    """Average accuracy (percent) against one budget: small points for seeds, a large one for their mean.

    Args:
        series: methods with points or a line, or both.
        title: the content of the chart, for readers who cannot see it.
        unit: formats the budget.
        reference: the reference's average, drawn if it does not squeeze the rest.
    """
    series = [s for s in series if s.points or s.line]
    height = max(300, 32 + _BETWEEN * len(series))  # room for the names
    figure, axes = new_figure(420, height, left=36, right=_label_width(series), bottom=24)
    xs = [x for s in series for x, _ in (*s.points, *s.line) if x > 0]
    ys = [y for s in series for _, y in (*s.points, *s.line)]
    low, high = _padded(ys)
    if reference is not None and reference - high < 0.35 * (high - low):
        high = max(high, reference + 0.06 * (high - low))
        axes.axhline(reference, color=css("muted"), linewidth=1, linestyle=(0, (2, 3)))
        put_text(axes, 0.012, reference, "reference", ("axes", "data"), color="muted", va="bottom")
    axes.set_ylim(low, high)
    set_ticks(axes.yaxis, plain, 7)
    _x_scale(axes, xs, unit)
    ends = [_draw_series(axes, s) for s in series]
    _label_ends(axes, [s.label for s in series], [s.style for s in series], ends)
    return to_svg(figure, title)


@isolated
def lines_chart(series: Sequence[Series], *, title: str, unit: Callable[[float], str] = compact) -> str:
    """Curves over the steps with their names at the right."""
    series = [s for s in series if s.line]
    figure, axes = new_figure(420, 290, left=40, right=_label_width(series), bottom=24)
    axes.set_ylim(*_padded([y for s in series for _, y in s.line]))
    axes.set_xlim(0, max(x for s in series for x, _ in s.line) * 1.02)
    set_ticks(axes.xaxis, unit, 4)
    set_ticks(axes.yaxis, plain, 7)
    for s in series:
        _line(axes, s.line, s.style)
    _label_ends(axes, [s.label for s in series], [s.style for s in series], [s.line[-1] for s in series])
    return to_svg(figure, title)


@isolated
def kinds_chart(shares: KindShares, colours: dict[str, str], *, title: str, wide: bool = False) -> str:
    """Stacked shares of the chosen kinds over the steps, beside a bar with the pool's shares.

    Args:
        shares: of one method.
        colours: CSS variable of each kind, in the order of the stack from below.
        title: the content of the chart, for readers who cannot see it.
        wide: for a chart that stands alone and not among many.
    """
    size = _WIDE if wide else _SMALL
    figure, axes = new_figure(*size, left=38, right=8, bottom=22, top=8, grid=False)
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
            axes.fill_between(steps, base, top, facecolor=css(colour), edgecolor=css("card"), linewidth=0.7)
            base = top
        share = shares.pool.get(kind, 0.0)
        if share:
            axes.bar(
                steps[0] - gap - bar / 2,
                share,
                width=bar,
                bottom=pool_base,
                facecolor=css(colour),
                edgecolor=css("card"),
                linewidth=0.7,
            )
            pool_base += share
    axes.set_ylim(0, 1)
    left = steps[0] - (gap + bar if shares.pool else 0)
    axes.set_xlim(left, steps[-1])
    ends = [
        (steps[0], "0" if first < 0.2 * last else compact(first), "left"),
        (steps[-1], compact(last), "right"),
    ]
    for x, text, side in ends:
        put_text(axes, x, -0.04, text, ("data", "axes"), color="muted", ha=side, va="top")
    if shares.pool:
        put_text(axes, left + bar / 2, -0.04, "pool", ("data", "axes"), color="ink", ha="center", va="top")
    axes.set_xticks([])
    axes.set_yticks([0, 0.5, 1], ["0 %", "50", "100"])
    axes.spines["bottom"].set_visible(False)
    return to_svg(figure, title)


@isolated
def scores_chart(chosen: Points, pool: Points, style: Style, *, title: str, wide: bool = False) -> str:
    """Mean score of the chosen pairs (coloured) and of all candidates (grey) over the steps."""
    size = _WIDE if wide else _SMALL
    figure, axes = new_figure(*size, left=36, right=12, bottom=22, top=8)
    low, high = _padded([y for _, y in (*chosen, *pool)])
    axes.set_ylim(low, high)
    axes.set_xlim(0, max(x for x, _ in (*chosen, *pool)))
    axes.fill_between(
        [x for x, _ in pool],
        [y for _, y in pool],
        [y for _, y in chosen],
        facecolor=css(style.colour),
        alpha=0.13,
        linewidth=0,
    )
    axes.plot(*zip(*pool, strict=True), color=css("muted"), linewidth=1.4, linestyle=(0, (3, 2)))
    axes.plot(*zip(*chosen, strict=True), color=css(style.colour), linewidth=2)
    set_ticks(axes.xaxis, compact, 3)
    set_ticks(axes.yaxis, plain, 4)
    return to_svg(figure, title)


@isolated
def marker_svg(style: Style) -> str:
    """The series' line and marker, 26 x 12 pixels, for tables; a decoration, hidden from screen readers."""
    figure, axes = new_figure(26, 12, left=0, right=0, bottom=0, top=0, grid=False)
    axes.set_axis_off()
    axes.set_xlim(0, 26)
    axes.set_ylim(0, 12)
    _line(axes, [(1, 6), (25, 6)], style)
    axes.plot([13], [6], marker=style.marker, markersize=7.5, color=css(style.colour), markeredgewidth=0)
    return to_svg(figure, "", salt=f"{style.colour}{style.marker}{style.dashed}")


def spread(positions: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Move labels apart: at least `gap` between any two, within [low, high], in order, with little movement.

    If they do not fit at all, they are spaced equally over the whole range.

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
    """Merge overlapping labels into blocks around the mean of their positions (ascending input)."""
    blocks: list[tuple[float, int]] = []  # start of the first label, number of labels

    def clamped(start: float, count: int) -> float:
        return min(max(start, low), high - gap * (count - 1))

    sums: list[float] = []
    for value in wanted:
        blocks.append((clamped(value, 1), 1))
        sums.append(value)
        while len(blocks) > 1 and blocks[-2][0] + gap * blocks[-2][1] > blocks[-1][0]:
            (_, a), (_, b) = blocks[-2:]
            # Best start: the mean of each label's position less its place within the block.
            total = sums[-2] + sums[-1] - gap * a * b
            blocks[-2:] = [(clamped(total / (a + b), a + b), a + b)]
            sums[-2:] = [total]
    return [start + gap * i for start, count in blocks for i in range(count)]


def _draw_series(axes: Axes, series: Series) -> tuple[float, float]:
    """Line, seeds and mean of one method; returns the point that its name belongs to."""
    if series.line:
        _line(axes, series.line, series.style)
    if not series.points:
        return series.line[-1]
    colour, marker = css(series.style.colour), series.style.marker
    xs, ys = zip(*series.points, strict=True)
    if len(xs) > 1:
        axes.plot(xs, ys, linestyle="", marker=marker, markersize=4, color=colour, alpha=0.45, markeredgewidth=0)
    mean = (math.fsum(xs) / len(xs), math.fsum(ys) / len(ys))
    axes.plot(*mean, marker=marker, markersize=9, color=colour, markeredgecolor=css("card"), markeredgewidth=1.2)
    return mean


def _line(axes: Axes, points: Points, style: Style) -> None:
    dashes: Any = (0, (4, 2)) if style.dashed else "-"
    axes.plot(*zip(*points, strict=True), color=css(style.colour), linewidth=1.8, linestyle=dashes)


def _label_ends(
    axes: Axes, labels: Sequence[str], styles: Sequence[Style], ends: Sequence[tuple[float, float]]
) -> None:
    """Names at the right edge, moved apart, each tied to its point by a thin line."""
    if len(labels) < 2:
        return
    width, height = axes.get_window_extent().width, axes.get_window_extent().height
    to_axes = axes.transAxes.inverted()
    at = [to_axes.transform(axes.transData.transform(point)) for point in ends]
    gap = _BETWEEN / height
    for label, style, (x, y), place in zip(labels, styles, at, spread([p[1] for p in at], gap, 0.0, 1.0), strict=True):
        axes.plot(
            [x, 1.0, 1.0 + 6 / width],
            [y, place, place],
            transform=axes.transAxes,
            clip_on=False,
            color=css(style.colour),
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
            color=css(style.colour),
            markeredgewidth=0,
        )
        put_text(axes, 1.0 + 18 / width, place, label, ("axes", "axes"), color="ink", va="center")


def _label_width(series: Sequence[Series]) -> int:
    """Pixels for the longest name, at most a third of the chart; a single series needs no name."""
    if len(series) < 2:
        return 12
    return round(min(26 + 6.0 * max(len(s.label) for s in series), 165))


def _padded(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    room = (high - low) * 0.07 or abs(high) * 0.1 or 1.0
    return low - room, high + room


def _x_scale(axes: Axes, xs: Sequence[float], unit: Callable[[float], str]) -> None:
    """From zero if the budgets have one order of magnitude, otherwise logarithmic."""
    low, high = (min(xs), max(xs)) if xs else (0.0, 1.0)
    if xs and high / low > 30:
        axes.set_xscale("log")
        axes.set_xlim(low / 1.3, high * 1.3)
        axes.minorticks_off()
    else:
        axes.set_xlim(0, high * 1.05)
        set_ticks(axes.xaxis, unit, 4)
        return
    from matplotlib.ticker import FuncFormatter, LogLocator

    axes.xaxis.set_major_locator(LogLocator(numticks=5))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: unit(value)))
