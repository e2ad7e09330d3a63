"""Decoders on frozen encoders, compared: trains one on each run that is named, then writes the table and the page.

    python benchmarks/lit.py train --data scenes --out runs/lit runs/demo/runs/iid-s0 runs/demo/runs/aced-s0 ...
    python benchmarks/lit.py table --out runs/lit

`train` skips runs whose decoder is there already; a run's seed is that of its folder's name (`...-s2`), and is the
decoder's too. `table` takes what is there: mean and sample standard deviation over the seeds of each encoder, paired
differences to IID at the same size, and the page with the gallery.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
from pathlib import Path
from typing import Any

from rich.console import Console

from aced.lab.lit.lit_page import grouped, score_tables, type_tables, write_lit_report

ORDER = ("iid", "softmax-kd", "h-acid", "i-aced", "aced", "columns-kd", "d-aced")


def main() -> None:
    """Parse the command line and do what it says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("train", "table"))
    parser.add_argument("runs", nargs="*", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data", action="append", default=[])
    parser.add_argument("--where")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--split", default="test")
    options = parser.parse_intermixed_args()
    if options.what == "train":
        for run in options.runs:
            train(run, options)
    else:
        table(options.out)


def train(run: Path, options: argparse.Namespace) -> None:
    """One decoder; its cache is shared by all, so that the decoder without images is trained once for each seed."""
    from aced.lab.lab_options import LitOptions
    from aced.lab.lit.lit_program import lit_program

    out = options.out / run.resolve().name
    if (out / "results.json").is_file():
        print(f"{out} is there already.")
        return
    seed = int(found[1]) if (found := re.search(r"-s(\d+)$", run.resolve().name)) else 0
    chosen = LitOptions(
        str(run),
        options.data,
        out,
        steps=options.steps,
        seed=seed,
        where=options.where,
        split=options.split,
        cache=options.out / "cache",
    )
    lit_program(chosen, Console())


def table(out: Path) -> None:
    """Print the tables in Markdown and write `report.html` and `lit.json`."""
    folders = sorted(path.parent for path in out.glob("*/results.json"))
    runs = [json.loads((folder / "results.json").read_text(encoding="utf-8")) for folder in folders]
    order = sorted(range(len(runs)), key=lambda i: place(runs[i]))
    runs, folders = [runs[i] for i in order], [folders[i] for i in order]
    groups = grouped(runs)
    for one in score_tables(groups):
        print(f"\n{one['name']} (n = {one['n']})\n")
        print("| encoder | " + " | ".join(one["scores"]) + " |\n| --- |" + " --- |" * len(one["scores"]))
        for row in one["rows"]:
            print(f"| {row['title']} | " + " | ".join(cell.text() for cell in row["cells"]) + " |")
    for one in type_tables(groups):
        print(f"\n{one['name']}, accuracy in percent by sort\n")
        print("| sort | n | " + " | ".join(one["titles"]) + " | no image |\n| --- |" + " --- |" * (len(groups) + 2))
        for row in one["rows"]:
            cells = [f"{100 * cell['stat'].mean:.1f}" for cell in row["cells"]]
            print(f"| {row['name']} | {row['n']} | " + " | ".join(cells) + f" | {100 * row['blind']:.1f} |")
    print_differences(groups)
    seconds = [run["seconds"] for run in runs]
    print("\nSeconds, mean of the runs:", {k: round(statistics.fmean(s[k] for s in seconds), 1) for k in seconds[0]})
    galleries = [json.loads((folder / "gallery.json").read_text(encoding="utf-8")) for folder in folders]
    print("Page:", write_lit_report(out / "report.html", runs, galleries))
    (out / "lit.json").write_text(json.dumps(runs, indent=1), encoding="utf-8")


def place(run: dict[str, Any]) -> tuple[str, int, int]:
    """Small encoders first, methods in the paper's order, then seeds."""
    method = ORDER.index(run["method"]) if run["method"] in ORDER else len(ORDER)
    return ("-s" not in run["tower"] and run["tower"]) or "", method, run["seed"]


def print_differences(groups: dict[str, list[dict[str, Any]]]) -> None:
    """Each encoder against the first of the table, seed by seed: mean, spread, and in how many seeds it is above."""
    base, *others = groups.items()
    print(f"\nDifferences to {base[0]}, seed by seed\n\n| test | score | encoder | mean | std | above |")
    print("|" + " --- |" * 6)
    for t, task in enumerate(base[1][0]["tasks"]):
        score = next(iter(task["scores"]))
        own = {run["seed"]: run["tasks"][t]["scores"][score] for run in base[1]}
        for title, runs in others:
            pairs = [run["tasks"][t]["scores"][score] - own[run["seed"]] for run in runs if run["seed"] in own]
            if pairs:
                spread = f"{statistics.stdev(pairs):.3f}" if len(pairs) > 1 else "–"
                above = f"{sum(d > 0 for d in pairs)} of {len(pairs)}"
                print(f"| {task['name']} | {score} | {title} | {statistics.fmean(pairs):+.3f} | {spread} | {above} |")


if __name__ == "__main__":
    main()
