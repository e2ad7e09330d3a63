"""The report: one self-contained HTML page, which needs neither a network nor scripts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup, escape

from aced.errors import AcedError
from aced.evaluate.stability.stable_tasks import Stability
from aced.registry.makers import PANELS, Panel, made
from aced.registry.plugins import load_plugins
from aced.report import aggregate, charts, numbers, panels, shared_tasks
from aced.report.aggregate import Group
from aced.report.stability_page import stability_parts
from aced.report.templates import environment, stylesheet
from aced.runs.records import BUDGETS, ReferenceScore, Results, RunRecord
from aced.runs.run_results import parse_results


def write_report(
    out_html: Path, results: dict[str, Any], runs: Sequence[RunRecord], *, stability: Stability | None = None
) -> Path:
    """Write the page about one run or many, with the sections that other code registers (`register_panel`).

    Args:
        out_html: the file to write; its folder is created if missing.
        results: in the form of `results.json` (`load_results`, or `results_of` for runs made one by one).
        runs: the run folders that the rows name; curves, kinds, phases and pairs come from them, and parts without
            data are left out.
        stability: the stable tasks, if known.

    Returns:
        The path of the page.

    Raises:
        AcedError: the results are malformed, or the page cannot be written.
    """
    load_plugins()
    page = render(parse_results(results), runs, stability)
    out_html = Path(out_html)
    try:
        out_html.parent.mkdir(parents=True, exist_ok=True)
        out_html.write_text(page, encoding="utf-8")
    except OSError as error:
        raise AcedError(f"The report cannot be written to {out_html} ({error.strerror}); choose another.") from None
    return out_html


def render(results: Results, runs: Sequence[RunRecord], stability: Stability | None = None) -> str:
    """The page as text; see `write_report`."""
    templates = environment()
    templates.filters.update(
        breakable=_breakable,
        budget=lambda value, name: numbers.budget_text(name, value),
        clamp=lambda value: min(max(value, 0.0), 100.0),
        ratio=numbers.ratio,
        score=lambda value: f"{value:.2f}".replace("-", "−"),
        signed=numbers.signed,
        unbroken=lambda text: text.replace(" %", "\u00a0%"),
    )
    context = _context(results, runs, stability)
    context["css"] = stylesheet()
    return templates.get_template("page.html").render(context)


def _context(results: Results, runs: Sequence[RunRecord], stability: Stability | None) -> dict[str, Any]:
    results, runs = shared_tasks.on_shared_tasks(results, runs)
    groups = aggregate.group_rows(results, runs)
    styles = charts.series_styles([group.is_baseline for group in groups])
    gallery_of, gallery = panels.gallery_parts(groups)
    context: dict[str, Any] = {
        "groups": groups,
        "best": _best(groups),
        "styles": styles,
        "markers": [Markup(charts.marker_svg(style)) for style in styles],
        "reference": results.reference,
        "reference_costs": _reference_costs(results.reference),
        "summary": results.summary,
        "dash": numbers.DASH,
        "budget_titles": panels.BUDGET_TITLES,
        "chance": _mean_chance(results),
        "accuracy": panels.accuracy_panels(groups, styles, results.reference),
        "tasks": _task_rows(results, groups),
        "kinds": panels.kinds_section(groups),
        "scores": panels.score_panels(groups, styles),
        "losses": panels.loss_panels(groups, styles),
        "phases": panels.phase_blocks(groups),
        "gallery": gallery,
        "further": _further(groups),
        "stability": stability_parts(stability) if stability else None,
        "environment": [(k, v) for k, v in results.environment.items() if v not in (None, "")],
        "configs": [{"title": g.title, "text": g.runs[0].config_text.strip()} for g in groups if g.runs],
        "footer": "Written by aced. This page is self-contained.",
    }
    context |= _flags(results, groups)
    context |= _words(results, groups, gallery_of)
    context["tiles"] = _tiles(results, groups)
    context["sections"] = _sections(context)
    return context


def _further(groups: Sequence[Group]) -> list[Panel]:
    """The sections that other code adds: see `register_panel`."""
    runs = [(group.title, run.folder) for group in groups for run in group.runs]
    return [panel for name in PANELS if (panel := made(PANELS, name, runs)) is not None]


def _flags(results: Results, groups: Sequence[Group]) -> dict[str, Any]:
    """The content of the page, and the name of the baseline."""
    tasks = aggregate.task_chances(results)
    baseline = next((group.title for group in groups if group.is_baseline), "")
    return {
        "baseline": baseline,
        "has": {
            # One run's numbers are all in the tiles.
            "table": len(results.rows) > 1 or results.reference is not None,
            "average": any(group.average for group in groups),
            "gain": bool(baseline) and len(groups) > 1,
            "clean": any(group.clean for group in groups),
            "budgets": [name for name in BUDGETS if any(name in group.budgets for group in groups)],
            "chance": any(chance is not None for chance in tasks.values()),
            "reference_tasks": bool(results.reference and results.reference.tasks.keys() & tasks.keys()),
        },
    }


def _task_rows(results: Results, groups: Sequence[Group]) -> list[dict[str, Any]]:
    """A row for each task; `heat` runs from 0 at chance to 1 at the row's best (100 % for a single method)."""
    rows = []
    averaged = aggregate.averaged_chances(results)
    for name, chance in aggregate.task_chances(results).items():
        known = results.reference.tasks.get(name) if results.reference else None
        reference = known.value if known else None
        values = [group.tasks[name].mean for group in groups if name in group.tasks]
        best, low = max(values), chance or 0.0
        alone = len(groups) == 1 and reference is None
        span = (1.0 if alone else max(best, reference or 0.0)) - low
        cells: list[dict[str, Any] | None] = []
        for group in groups:
            stat = group.tasks.get(name)
            if stat is None:
                cells.append(None)
                continue
            heat = min(max((stat.mean - low) / span, 0.0), 1.0) if span > 0 else 0.0
            cells.append({"stat": stat, "heat": heat, "best": len(values) > 1 and stat.mean == best})
        row = {"name": name, "chance": chance, "reference": reference, "cells": cells}
        rows.append(row | {"averaged": name in averaged})
    return rows


def _mean_chance(results: Results) -> float | None:
    chances = [chance for chance in aggregate.averaged_chances(results).values() if chance is not None]
    return 100 * sum(chances) / len(chances) if chances else None


def _reference_costs(reference: ReferenceScore | None) -> dict[str, str]:
    """The joint cost of training the reference and embedding the data, by budget."""
    if reference is None:
        return {}
    costs = {}
    for name, parts in {
        "flops": (reference.train_flops, reference.embed_flops),
        "seconds": (reference.train_seconds, reference.embed_seconds),
    }.items():
        known = [part for part in parts if part is not None]
        if known:
            costs[name] = numbers.budget_text(name, sum(known))
    return costs


def _tiles(results: Results, groups: Sequence[Group]) -> list[dict[str, str]]:
    """The few most important numbers."""
    scored = [group for group in groups if group.average]
    best = max(scored, key=lambda g: g.average.mean if g.average else 0.0, default=None)
    tiles = []
    if best and best.average:
        gain = f"{numbers.signed(best.gain)} points over IID" if best.gain is not None else "mean of the tasks"
        tiles.append(_tile(best.title if len(groups) > 1 else "Average", best.average.mean, best.average.std, gain))
    for group in scored:
        if group.is_baseline and group is not best and group.average:
            tiles.append(_tile(group.title, group.average.mean, group.average.std, "random batches"))
    if results.reference and results.reference.average is not None:
        tiles.append(_tile("Reference", results.reference.average, None, "the larger, frozen model"))
    chance = _mean_chance(results)
    if chance is not None:
        tiles.append(_tile("Guessing", chance, None, "the score of chance"))
    if len(groups) == 1:
        for name, stat in groups[0].budgets.items():
            value = numbers.budget_text(name, stat.mean)
            tiles.append({"label": panels.BUDGET_TITLES[name], "value": value, "unit": "", "note": ""})
    return tiles


def _best(groups: Sequence[Group]) -> int | None:
    """Index of the group with the highest average, if there are several to compare."""
    scored = [(group.average.mean, group.index) for group in groups if group.average]
    return max(scored)[1] if len(scored) > 1 else None


def _tile(label: str, value: float, std: float | None, note: str) -> dict[str, str]:
    unit = "%" if std is None else f"± {std:.1f} %"
    return {"label": label, "value": f"{value:.1f}", "unit": unit, "note": note}


def _sections(context: dict[str, Any]) -> list[tuple[str, str]]:
    names = {
        "budgets": ("accuracy", "Budgets"),
        "tasks": ("tasks", "Tasks"),
        "kinds": ("kinds", "What was kept"),
        "scores": ("scores", "Scores"),
        "losses": ("losses", "Losses"),
        "phases": ("phases", "Time and compute"),
        "pairs": ("gallery", "Pairs"),
        "stable": ("stability", "Stable tasks"),
    }
    found = [(anchor, name) for anchor, (key, name) in names.items() if context[key]]
    at = len(found) - ("stability" in context and bool(context["stability"]))
    found[at:at] = [(panel.anchor, panel.name) for panel in context["further"]]
    setup = [("setup", "Setup")] if context["environment"] or context["configs"] else []
    return [("results", "Results")] * context["has"]["table"] + found + setup


def _words(results: Results, groups: Sequence[Group], gallery_of: str) -> dict[str, Any]:
    """Title, lead and the explanations of the sections, worded for the data at hand."""
    many = len(groups) > 1
    seeds = max(len(group.rows) for group in groups)
    tasks = len(aggregate.averaged_chances(results))
    on_tasks = f" Accuracy is the average over {tasks} zero-shot task{'s' * (tasks != 1)}." if tasks else ""
    if many:
        title = f"Active data curation: {len(groups)} methods compared"
        lead = (
            "Each row is a way to choose the training batches of a small image-text model: at every step a "
            "super-batch is loaded, its pairs are scored, and only the most useful ones are trained on; some "
            f"methods also distil a larger, frozen reference.{on_tasks} Whether a method is better "
            "depends on the budget, so each is compared on all four: samples trained, samples loaded, "
            "FLOPs and wall time."
        )
    else:
        group = groups[0]
        title = f"{group.title}: " + (f"seed {group.rows[0].seed}" if seeds == 1 else f"{seeds} seeds")
        lead = (
            f"A small image-text model trained with {group.title}.{on_tasks} The page shows its scores, "
            "its cost in samples, FLOPs and wall time, and the pairs that it learned from."
        )
    return {
        "title": title,
        "lead": lead,
        "about": _about(groups, gallery_of),
        "notes": _notes(results, groups),
    }


def _about(groups: Sequence[Group], gallery_of: str) -> dict[str, str]:
    many = len(groups) > 1
    several = any(len(group.rows) > 1 for group in groups)
    curves = any(run.evals for group in groups for run in group.runs)
    return {
        "results": "Averages over the tasks, in percent, and the cost of each method."
        if many
        else "The average over the tasks, in percent, and the cost of the run.",
        "budgets": ("Large marks are means over the seeds, small ones single seeds." if several else "")
        + (" Lines follow the evaluations during training." if curves else ""),
        "tasks": "Percent correct; the shading runs from chance to the best score in the row, "
        "including the reference's, and the best method for each task is bold."
        if many
        else "Percent correct; the shading runs from chance to the reference's score, or to 100 without one.",
        "kinds": "Shares of the kinds of pairs in the training batches, over the steps; the bar at the left "
        "of each chart is the pool that they were chosen from.",
        "scores": "Mean score of the chosen pairs (solid) and of all candidates (dashed) by step."
        + (" Methods score differently, so compare heights only within a chart." if many else ""),
        "losses": ("Means over the seeds. " if several else "")
        + "The loss is that of the training batches, and harder batches have a higher loss: "
        + ("these curves show whether training runs smoothly, not which method is better." if many else "")
        + ("the curve shows whether training runs smoothly." if not many else ""),
        "pairs": f"The pairs that {gallery_of} ranks highest and lowest, with their scores.",
    }


def _notes(results: Results, groups: Sequence[Group]) -> dict[str, list[str]]:
    notes = []
    first = []
    if any(group.average and group.average.std is not None for group in groups):
        first.append("± is the sample standard deviation over the seeds.")
    baseline = next((group.title for group in groups if group.is_baseline), None)
    if baseline and len(groups) > 1:
        first.append(
            f"“vs {baseline}” is in percentage points, the mean over the seeds that both have; budgets are "
            f"multiples of {baseline}'s, with the amount below."
        )
    if any(group.clean for group in groups):
        first.append("Sound pairs: the share of trained pairs whose image and caption are both right.")
    if first:
        notes.append(" ".join(first))
    if results.reference and _reference_costs(results.reference):
        known = results.reference
        parts = {
            "training it": (known.train_seconds, known.train_flops),
            "embedding the data once": (known.embed_seconds, known.embed_flops),
        }
        what = " and ".join(name for name, costs in parts.items() if any(cost is not None for cost in costs))
        notes.append(
            f"The reference's cost is that of {what}; any number of runs can share it, so it is not included in theirs."
        )
    return {"results": notes, "unscored": list(shared_tasks.notes(results))}


def _breakable(text: str) -> Markup:
    """Lets long names break after hyphens, underscores and slashes, but not within names like I-ACID."""
    name = re.sub(r"\b(\w)-(?=\w)", "\\1\u2060-\u2060", str(escape(text)))
    return Markup(re.sub(r"([-_/])(?=\w)", r"\1<wbr>", name))
