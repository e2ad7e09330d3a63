"""The charts of `aced stable`: each task's spread over seeds, and the spread of the average of N tasks."""

from __future__ import annotations

from collections.abc import Sequence

from aced.evaluate.stability.stable_tasks import Stability, TaskStability
from aced.report.canvas import css, isolated, new_figure, plain, put_text, set_ticks, to_svg

COLOURS = {"kept": "s1", "noisy": "s2", "chance": "s0"}
"""Colour of each verdict on the page."""
_NAMES, _ROW = 190, 21


@isolated
def sigma_chart(tasks: Sequence[TaskStability]) -> str:
    """A row for each task: a dot at sigma on its interval, and a bar at the sampling error; in points."""
    longest = max(len(task.name) for task in tasks)
    names = min(_NAMES, round(16 + 6.2 * longest))
    figure, axes = new_figure(560, 34 + _ROW * len(tasks), left=names, right=14, bottom=26, top=8, grid=False)
    axes.grid(axis="x", color=css("grid"), linewidth=1)
    ends = [v for t in tasks for v in (t.sigma, t.sigma_high, t.sampling) if v is not None]
    axes.set_xlim(0, 105 * max(ends) or 1.0)
    axes.set_ylim(len(tasks) - 0.4, -0.6)
    axes.set_yticks([])
    set_ticks(axes.xaxis, plain, 6)
    for y, task in enumerate(tasks):
        colour = css(COLOURS[task.verdict])
        if task.sigma_low is not None and task.sigma_high is not None:
            axes.plot([100 * task.sigma_low, 100 * task.sigma_high], [y, y], color=colour, linewidth=2.4, alpha=0.45)
        if task.sampling is not None:
            axes.plot([100 * task.sampling] * 2, [y - 0.3, y + 0.3], color=css("muted"), linewidth=2)
        axes.plot([100 * task.sigma], [y], marker="o", markersize=7, color=colour, markeredgewidth=0)
        name = task.name if len(task.name) <= 27 else task.name[:26] + "…"
        place = -8 / (560 - names - 14)
        put_text(axes, place, y, name, ("axes", "data"), color="ink", ha="right", va="center")
    return to_svg(figure, "Standard deviation of each task over the seeds, and its sampling error, in points")


@isolated
def curve_chart(found: Stability) -> str:
    """The whole std(N) curve with its interval, the curve for independent tasks, and the chosen N; in points."""
    at = [point.tasks for point in found.curve]
    figure, axes = new_figure(560, 300, left=44, right=16, bottom=26, top=22)
    tops = [v for p in found.curve for v in (p.std, p.independent, p.high) if v is not None]
    axes.set_ylim(0, 105 * max(tops) or 1.0)
    axes.set_xlim(0.5, len(at) + 0.5)
    if found.chosen_low is not None and found.chosen_high is not None:
        axes.axvspan(found.chosen_low - 0.4, found.chosen_high + 0.4, facecolor=css("grid"), alpha=0.55, linewidth=0)
    band = [(p.tasks, 100 * p.low, 100 * p.high) for p in found.curve if p.low is not None and p.high is not None]
    if band:
        x, low, high = zip(*band, strict=True)
        axes.fill_between(x, low, high, facecolor=css("s1"), alpha=0.16, linewidth=0)
    axes.axvline(found.chosen, color=css("muted"), linewidth=1, linestyle=(0, (2, 3)))
    independent = [100 * p.independent for p in found.curve]
    axes.plot(at, independent, color=css("s5"), linewidth=1.6, linestyle=(0, (4, 2)))
    axes.plot(at, [100 * p.std for p in found.curve], color=css("s1"), linewidth=2, marker="o", markersize=4)
    side = "right" if found.chosen > 0.7 * len(at) else "left" if found.chosen < 0.3 * len(at) else "center"
    put_text(axes, found.chosen, 1.02, f"N = {found.chosen}", ("data", "axes"), color="ink", ha=side)
    set_ticks(axes.xaxis, plain, 10)
    set_ticks(axes.yaxis, plain, 6)
    return to_svg(figure, "Standard deviation of the average of the N most stable tasks, by N, in points")
