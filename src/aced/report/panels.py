"""The page's charts and bars, section by section; a section with an empty list is left out."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from aced.report import aggregate, charts
from aced.report.aggregate import Group, Points
from aced.report.canvas import KINDS
from aced.report.charts import Series, Style
from aced.report.numbers import budget_text, compact, duration, ratio
from aced.runs.records import BUDGETS, Pair, ReferenceScore, StepLine

BUDGET_TITLES = {
    "samples_trained": "Trained samples",
    "samples_loaded": "Loaded samples",
    "flops": "FLOPs",
    "seconds": "Wall time",
}

# In the order of the stack from below: sound pairs first. Unlisted kinds follow.
_KINDS = {
    "clean": "image and caption right",
    "duplicate": "near-copy of one of a few scenes, caption right",
    "noisy": "picture spoilt",
    "partial": "one wrong attribute in the caption",
    "vague": "caption that fits every image",
    "junk": "file name or web scraps as caption",
    "shuffled": "caption of another image",
}

_PHASES = {
    "train": ("training", "s1"),
    "score": ("scoring", "s5"),
    "select": ("selection", "s4"),
    "load": ("loading", "s0"),
    "fetch": ("waiting for tars", "s6"),
    "forward_backward": ("forward and backward", "s1"),
    "scoring": ("scoring", "s5"),
    "selection": ("selection", "s4"),
    "reference": ("reference", "s3"),
    "teacher": ("teacher", "s2"),
}


@dataclass(frozen=True)
class ChartPanel:
    """A chart with its heading and a remark beside it."""

    title: str
    svg: Markup
    note: str = ""


def accuracy_panels(
    groups: Sequence[Group], styles: Sequence[Style], reference: ReferenceScore | None
) -> list[ChartPanel]:
    """Average accuracy against each measured budget."""
    panels = []
    for budget in BUDGETS:
        series = []
        for group, style in zip(groups, styles, strict=True):
            points = [
                (row.budgets[budget], row.average)
                for row in group.rows
                if row.average is not None and math.isfinite(row.average) and budget in row.budgets
            ]
            line = _ending_at(aggregate.accuracy_over(group, budget), group, budget)
            if points or line:
                series.append(Series(group.title, style, points, line))
        # A single mark without a line says no more than its number.
        if sum(len(s.points) + len(s.line) for s in series) > 1:
            name = BUDGET_TITLES[budget]
            svg = charts.accuracy_chart(
                series,
                title=f"Average accuracy against {name[0].lower() + name[1:] if name != 'FLOPs' else name}",
                unit=_unit(budget),
                reference=reference.average if reference else None,
            )
            panels.append(ChartPanel(name, Markup(svg)))
    return panels


def kinds_section(groups: Sequence[Group]) -> dict[str, Any] | None:
    """Legend, and one panel per method, of the kinds of chosen pairs; None if no kinds are known."""
    found = [(group, shares) for group in groups if (shares := aggregate.kind_shares(group)) is not None]
    if not found:
        return None
    seen = list(dict.fromkeys(kind for _, shares in found for kind in (*shares.pool, *shares.chosen)))
    kinds = [k for k in _KINDS if k in seen] + [k for k in seen if k not in _KINDS]
    places = {kind: i for i, kind in enumerate(_KINDS)}
    unknown = [k for k in kinds if k not in places]
    for kind in unknown:
        # Without any known kind all colours are free; otherwise the remaining ones.
        places[kind] = unknown.index(kind) if len(unknown) == len(kinds) else KINDS - 1
    colours = {kind: f"k{min(places[kind], KINDS - 1)}" for kind in kinds}
    panels = []
    wide = len(found) == 1
    for group, shares in found:
        note = f"{100 * group.clean.mean:.0f}\u00a0% sound" if group.clean else ""
        title = f"{group.title}: shares of the kinds of pairs among those chosen, by step"
        svg = charts.kinds_chart(shares, colours, title=title, wide=wide)
        panels.append(ChartPanel(group.title, Markup(svg), note))
    legend = [{"name": kind, "colour": colours[kind], "meaning": _KINDS.get(kind, "")} for kind in kinds]
    return {"legend": legend, "panels": panels}


def score_panels(groups: Sequence[Group], styles: Sequence[Style]) -> list[ChartPanel]:
    """Mean score of the chosen pairs and of all candidates, for each method that scores."""
    found = []
    for group, style in zip(groups, styles, strict=True):
        chosen = aggregate.curve(group, lambda line: line.learnability.chosen if line.learnability else None, 50)
        pool = aggregate.curve(group, lambda line: line.learnability.pool if line.learnability else None, 50)
        if len(chosen) > 1 and len(chosen) == len(pool):
            found.append((group, style, chosen, pool))
    panels = []
    for group, style, chosen, pool in found:
        title = f"{group.title}: mean score of the chosen pairs and of all candidates, by step"
        svg = charts.scores_chart(chosen, pool, style, title=title, wide=len(found) == 1)
        panels.append(ChartPanel(group.title, Markup(svg)))
    return panels


def loss_panels(groups: Sequence[Group], styles: Sequence[Style]) -> list[ChartPanel]:
    """The contrastive and the distillation loss over the steps."""
    parts: list[tuple[str, Callable[[StepLine], float | None]]] = [
        ("Contrastive loss", lambda line: line.contrastive if line.contrastive is not None else line.loss),
        ("Distillation loss", lambda line: line.kd or None),
    ]
    panels = []
    for title, read in parts:
        series = [
            Series(group.title, style, line=line)
            for group, style in zip(groups, styles, strict=True)
            if len(line := aggregate.curve(group, read)) > 1
        ]
        if series:
            panels.append(ChartPanel(title, Markup(charts.lines_chart(series, title=f"{title} by step"))))
    return panels


def phase_blocks(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """Wall time of a step and FLOPs of a trained sample by phase, as stacked bars."""
    blocks = [
        _bars("Wall time of a step", groups, aggregate.seconds_per_step, duration),
        _bars("FLOPs for each trained sample", groups, aggregate.flops_per_sample, compact),
    ]
    return [block for block in blocks if block]


def gallery_parts(groups: Sequence[Group]) -> tuple[str, list[dict[str, Any]]]:
    """The pairs of one run, and their method; full ACED if there is a choice."""
    found = [(group, run.gallery) for group in groups for run in group.runs if run.gallery]
    if not found:
        return "", []
    group, gallery = min(found, key=lambda pair: (pair[0].method != "aced", pair[0].method != "h-acid"))
    sides: list[tuple[str, list[Pair]]] = [
        ("Highest", gallery.most),
        ("Lowest", gallery.least),
    ]
    return group.title, [{"title": title, "pairs": pairs} for title, pairs in sides if pairs]


def _ending_at(line: Points, group: Group, budget: str) -> Points:
    """The line up to the final scores: evaluations during training may stop short of the end."""
    spent = group.budgets.get(budget)
    if not line or spent is None or group.average is None or spent.mean <= line[-1][0] * 1.001:
        return line
    return [*line, (spent.mean, group.average.mean)]


def _unit(budget: str) -> Callable[[float], str]:
    return lambda value: "0" if value == 0 else budget_text(budget, value)


def _bars(
    title: str,
    groups: Sequence[Group],
    read: Callable[[Group], dict[str, float]],
    unit: Callable[[float], str],
) -> dict[str, Any] | None:
    found = [(group, parts) for group in groups if sum((parts := read(group)).values()) > 0]
    if not found:
        return None
    longest = max(sum(parts.values()) for _, parts in found)
    base = next((sum(parts.values()) for group, parts in found if group.is_baseline), None)
    known = list(_PHASES)
    names = sorted(
        {name for _, parts in found for name, value in parts.items() if value > 0},
        key=lambda name: (known.index(name) if name in known else len(known), name),
    )
    looks = {name: _PHASES.get(name, (name.replace("_", " "), "s7")) for name in names}
    bars = []
    for group, parts in found:
        total = sum(parts.values())
        used = [(name, parts[name]) for name in names if parts.get(name, 0.0) > 0]
        bars.append(
            {
                "title": group.title,
                "parts": [{"width": 100 * value / longest, "colour": looks[name][1]} for name, value in used],
                "total": unit(total),
                "ratio": ratio(total / base) if base and len(found) > 1 else "",
                "text": ", ".join(f"{looks[name][0]}\u00a0{_share(value / total)}" for name, value in used),
            }
        )
    return {"title": title, "legend": [{"name": n, "colour": c} for n, c in looks.values()], "bars": bars}


def _share(value: float) -> str:
    return f"{100 * value:.0f}\u00a0%" if value >= 0.01 else "under 1\u00a0%"
