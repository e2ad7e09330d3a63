"""The page about decoders on frozen encoders: scores beside those without images, and the texts of each."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aced.files.atomic import write_atomic
from aced.report.numbers import DASH
from aced.report.templates import environment, stylesheet

_BASELINES = {
    "no image": "Decoder without images",
    "constant": "One constant text",
    "shuffled": "Another picture's caption",
    "human": "Caption 1 (on photos a person's)",
}


@dataclass(frozen=True)
class ScoreStat:
    """Mean and, of two or more, sample standard deviation."""

    mean: float
    std: float | None

    def text(self, digits: int = 3) -> str:
        """As shown in a table."""
        mean = f"{self.mean:.{digits}f}"
        return mean if self.std is None else f"{mean} ± {self.std:.{digits}f}"


def stat(values: Sequence[float]) -> ScoreStat:
    """Mean and spread of the seeds' values."""
    return ScoreStat(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)


def title_of(results: dict[str, Any]) -> str:
    """The name of a decoder's encoder: its method, if the run records it, and its architecture."""
    from aced.methods import METHODS  # with torch, which the rest of a page does without

    method = results.get("method")
    title = METHODS[method].title if isinstance(method, str) and method in METHODS else method
    return f"{title} ({results['tower']})" if title else str(results["tower"])


def grouped(results: Sequence[dict[str, Any]], titles: Sequence[str] | None = None) -> dict[str, list[dict[str, Any]]]:
    """Results by the title of their encoder, in the order of their first."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for i, one in enumerate(results):
        groups.setdefault(titles[i] if titles else title_of(one), []).append(one)
    return groups


def score_tables(groups: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """For each test set and score a mean over the seeds of each group, and those of the baselines.

    Returns:
        entries of `name`, `kind`, `n`, `scores` (their names), `rows` (title, is it a baseline, cells) and `best`, the
        position of the best group by the first score.
    """
    first = next(iter(groups.values()))[0]
    tables = []
    for task in first["tasks"]:
        names = list(task["scores"])
        rows = [_row(title, _values(runs, task["name"], names, None), False) for title, runs in groups.items()]
        best = max(range(len(rows)), key=lambda i: rows[i]["cells"][0].mean) if len(rows) > 1 else None
        everything = [run for runs in groups.values() for run in runs]
        for key, title in _BASELINES.items():
            if key in task["baselines"]:
                rows.append(_row(title, _values(everything, task["name"], names, key), True))
        if task.get("chance") is not None:
            rows.append(_row("Chance", [ScoreStat(task["chance"], None)], True))
        tables.append(
            {"name": task["name"], "kind": task["kind"], "n": task["n"], "scores": names, "rows": rows, "best": best}
            | {"constant": task["constant"], "references": task.get("references")}
        )
    return tables


def _row(title: str, cells: list[ScoreStat], baseline: bool) -> dict[str, Any]:
    return {"title": title, "cells": cells, "baseline": baseline}


def _values(runs: Sequence[dict[str, Any]], task: str, names: Sequence[str], baseline: str | None) -> list[ScoreStat]:
    found = []
    for run in runs:
        entry = next(one for one in run["tasks"] if one["name"] == task)
        found.append(entry["scores"] if baseline is None else entry["baselines"][baseline])
    # A baseline that does not depend on the seed has no spread: the same value every time.
    stats = [stat([scores[name] for scores in found]) for name in names]
    return [ScoreStat(one.mean, None) if baseline and not one.std else one for one in stats]


def type_tables(groups: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """For each test set of questions the accuracy by kind, of each group and of the decoder without images."""
    first = next(iter(groups.values()))[0]
    tables = []
    for task in first["tasks"]:
        if not task.get("types"):
            continue
        rows = []
        for sort, facts in task["types"].items():
            cells = [stat([_typed(run, task["name"], sort, "accuracy") for run in runs]) for runs in groups.values()]
            everything = [run for runs in groups.values() for run in runs]
            blind = stat([_typed(run, task["name"], sort, "no image") for run in everything])
            best = max(cell.mean for cell in cells)
            rows.append(
                {
                    "name": sort,
                    "n": facts["n"],
                    "cells": [{"stat": cell, "best": len(cells) > 1 and cell.mean == best} for cell in cells],
                    "blind": blind.mean,
                }
            )
        tables.append({"name": task["name"], "titles": list(groups), "rows": rows})
    return tables


def _typed(run: dict[str, Any], task: str, sort: str, key: str) -> float:
    entry = next(one for one in run["tasks"] if one["name"] == task)
    return float(entry["types"][sort][key])


def gallery_parts(titles: Sequence[str], galleries: Sequence[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """The same images of each gallery side by side, with the text of each encoder's decoder."""
    parts: dict[str, dict[tuple[str, str | None], dict[str, Any]]] = {}
    for title, gallery in zip(titles, galleries, strict=True):
        for entry in gallery:
            place = parts.setdefault(entry["task"], {})
            picture = place.setdefault((entry["key"], entry["question"]), {**entry, "texts": []})
            picture["texts"].append({"title": title, "text": entry["written"] or DASH})
    return [{"name": name, "pictures": list(found.values())} for name, found in parts.items()]


def write_lit_report(
    out_html: Path,
    results: Sequence[dict[str, Any]],
    galleries: Sequence[list[dict[str, Any]]],
    titles: Sequence[str] | None = None,
) -> Path:
    """Write one self-contained page about one decoder or many.

    Args:
        out_html: the file to write.
        results: of each decoder, as in its `results.json`; all on the same data.
        galleries: of each decoder, as in its `gallery.json`; for decoders with one title the first is shown.
        titles: of each decoder; decoders with one title are seeds of one row. Default: the encoders' names.

    Raises:
        AcedError: the page cannot be written.
    """
    groups = grouped(results, titles)
    title = f"Decoders on {len(groups)} frozen encoders" if len(groups) > 1 else f"A decoder on {next(iter(groups))}"
    lit = lit_parts(results, galleries, titles)
    write_atomic(out_html, lit_html("lit.html", css=stylesheet(), title=title, lit=lit))
    return out_html


def lit_html(template: str, **values: Any) -> str:
    """A filled-in template of this folder."""
    return environment(Path(__file__).parent).get_template(template).render(**values)


def lit_parts(
    results: Sequence[dict[str, Any]],
    galleries: Sequence[list[dict[str, Any]]],
    titles: Sequence[str] | None = None,
) -> dict[str, Any]:
    """The templates' view of decoders; the arguments are those of `write_lit_report`."""
    groups = grouped(results, titles)
    named = titles or [title_of(one) for one in results]
    first = dict(reversed(list(zip(named, galleries, strict=True))))
    return {
        "seeds": max(len(runs) for runs in groups.values()),
        "tables": score_tables(groups),
        "types": type_tables(groups),
        "gallery": gallery_parts(list(groups), [first[title] for title in groups]),
        "facts": _facts(results[0]),
    }


def _facts(results: dict[str, Any]) -> list[tuple[str, str]]:
    decoder, training = results["decoder"], results["training"]
    facts = [
        ("Decoder", f"{decoder['layers']} layers of width {decoder['width']}, {decoder['parameters']:,} parameters"),
        ("Vocabulary", f"{decoder['vocabulary']:,} words and special tokens"),
        ("Training", f"{training['steps']:,} steps of {training['batch']} examples, learning rate {training['lr']:g}"),
        ("Captions", f"beam search of {training['beams']}" if training["beams"] > 1 else "greedy"),
        ("Data", ", ".join(Path(name).name or name for name in results["data"])),
    ]
    if training.get("where"):
        facts.append(("Only samples with", training["where"]))
    return facts
