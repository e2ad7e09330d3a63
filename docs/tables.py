"""Fills the tables of docs/results.md from results, so that no figure in it is typed by hand.

    python docs/tables.py runs/demo/results.json docs/results.md
    python docs/tables.py runs/photos-iid-s* runs/photos-aced-s* docs/results.md --block photos-table \\
        --reference runs/photos-reference

The text between `<!-- NAME -->` and `<!-- /NAME -->` of the page is replaced. Results are a demo's results.json, or
the folders of runs made one by one; runs that differ only in their seed share a row. With `-` for the page the table
is printed.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aced.errors import AcedError
from aced.files.atomic import write_atomic
from aced.methods import METHODS
from aced.report import load_results, load_run, results_of
from aced.report.aggregate import Group, averaged_chances, group_rows
from aced.report.numbers import DASH, budget_text, signed
from aced.runs.records import BUDGETS, ReferenceScore, Results
from aced.runs.run_results import parse_results

HEADS = {"samples_trained": "Trained", "samples_loaded": "Loaded", "flops": "FLOPs", "seconds": "Wall time"}


def read_results(paths: Sequence[Path], references: Sequence[Path]) -> Results:
    """One results.json as it is, or several runs put together.

    Args:
        paths: results.json files or the folders that hold them.
        references: folders of the runs that made the reference, the finished one last.

    Raises:
        AcedError: a file is missing or malformed.
    """
    if len(paths) == 1 and not references:
        return parse_results(load_results(paths[0]), str(paths[0]))
    folders = [path if path.is_dir() else path.parent for path in paths]
    first = load_results(folders[0]).get("environment", {}) if (folders[0] / "results.json").is_file() else {}
    order = list(METHODS)
    runs = sorted((load_run(folder) for folder in folders), key=lambda run: (order.index(run.method), run.seed))
    results: dict[str, Any] = results_of(runs, first)
    if references:
        rows = [parse_results(load_results(folder), str(folder)).rows[0] for folder in references]
        embedding = results.get("reference", {})
        results["reference"] = embedding | ReferenceScore(
            average=rows[-1].average,
            tasks=rows[-1].tasks,
            train_seconds=sum(row.budgets["seconds"] for row in rows),
            train_flops=sum(row.budgets["flops"] for row in rows),
        ).model_dump(exclude_none=True)
    return parse_results(results)


def table(results: Results) -> str:
    """The rows as a Markdown table, and below it what they have in common."""
    groups = group_rows(results)
    gains = any(group.is_baseline for group in groups) and len(groups) > 1
    sound = any(group.clean for group in groups)
    heads = ["Method", "Average, %", *["vs IID"] * gains, *["Sound pairs"] * sound, *HEADS.values()]
    lines = [" | ".join(heads), " | ".join(["---", *["--:"] * (len(heads) - 1)])]
    lines += [" | ".join(_cells(group, gains=gains, sound=sound)) for group in groups]
    return "\n".join([*(f"| {line} |" for line in lines), "", _notes(results, groups)])


def _cells(group: Group, *, gains: bool, sound: bool) -> list[str]:
    cells = [group.title.replace("|", "\\|"), _average(group)]
    if gains:
        cells.append(signed(group.gain) if group.gain is not None else DASH)
    if sound:
        cells.append(f"{100 * group.clean.mean:.1f} %" if group.clean else DASH)
    return cells + [budget_text(name, group.budgets[name].mean) if name in group.budgets else DASH for name in BUDGETS]


def _average(group: Group) -> str:
    if group.average is None:
        return DASH
    spread = "" if group.average.std is None else f" ± {group.average.std:.1f}"
    return f"{group.average.mean:.1f}{spread}"


def _notes(results: Results, groups: Sequence[Group]) -> str:
    counts = sorted({len(group.rows) for group in groups})
    chances = averaged_chances(results)
    seeds = "One seed" if counts == [1] else f"Mean ± standard deviation over {' to '.join(map(str, counts))} seeds"
    sentences = [f"{seeds}, {len(chances)} zero-shot task{'s' * (len(chances) != 1)}"]
    known = [chance for chance in chances.values() if chance is not None]
    levels = [f"guessing scores {100 * sum(known) / len(known):.1f} %"] if known else []
    reference = results.reference
    if reference and reference.average is not None:
        levels.append(f"the reference {reference.average:.1f} %")
    sentences[0] += f"; {' and '.join(levels)}." if levels else "."
    if reference and (cost := _cost(reference)):
        sentences.append(f"{cost}; the rows do not include it.")
    machine = [str(results.environment[key]) for key in ("cpu", "device") if results.environment.get(key)]
    machine = machine[:1] if machine[1:] == ["cpu"] else machine
    if machine:
        threads = results.environment.get("threads")
        used = f" on {threads} thread{'s' * (threads != 1)}" if threads else ""
        sentences.append(f"{', '.join(machine)}; torch {results.environment.get('torch', DASH)}{used}.")
    return " ".join(sentences)


def _cost(reference: ReferenceScore) -> str:
    """What the reference cost, in words; empty where it is not known."""
    found = []
    for name, seconds, flops in (
        ("training it", reference.train_seconds, reference.train_flops),
        ("embedding the pool once", reference.embed_seconds, reference.embed_flops),
    ):
        parts = [
            budget_text(k, v) + unit
            for k, v, unit in (("seconds", seconds, ""), ("flops", flops, " FLOPs"))
            if v is not None
        ]
        if parts:
            where = (
                f" (processor time, {reference.trained_on})" if name == "training it" and reference.trained_on else ""
            )
            found.append(f"{name} {' and '.join(parts)}{where}")
    return f"The reference's cost: {', '.join(found)}" if found else ""


def fill(page: str, name: str, text: str) -> str:
    """The page with the block `name` replaced.

    Raises:
        AcedError: the page has no such block.
    """
    block = re.compile(rf"(<!-- {re.escape(name)} -->\n).*?(<!-- /{re.escape(name)} -->)", re.DOTALL)
    if not block.search(page):
        raise AcedError(f"The page has no block <!-- {name} --> ... <!-- /{name} -->.")
    return block.sub(lambda match: f"{match[1]}{text}\n{match[2]}", page)


def main() -> None:
    """Parse and fill."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="+", type=Path, help="a results.json, or run folders")
    parser.add_argument("page", help="the Markdown page to fill, or - to print")
    parser.add_argument("--block", default="demo-table", help="name of the block")
    parser.add_argument("--reference", nargs="+", type=Path, default=[], help="folders of the reference's runs")
    options = parser.parse_args()
    try:
        text = table(read_results(options.results, options.reference))
        if options.page == "-":
            print(text)
            return
        page = Path(options.page)
        if not page.is_file():
            raise AcedError(f"There is no page {page}.")
        write_atomic(page, fill(page.read_text(encoding="utf-8"), options.block, text))
    except AcedError as error:
        sys.exit(f"tables.py: {error}")
    print(f"Filled {options.block} in {page}")


if __name__ == "__main__":
    main()
