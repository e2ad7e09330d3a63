"""Decoders on frozen encoders, compared: trains one on each run that is named, then writes the table and the page.

    python benchmarks/lit.py train --data scenes --out runs/lit runs/demo/runs/iid-s0 runs/demo/runs/aced-s0 ...
    python benchmarks/lit.py table --out runs/lit
    python benchmarks/lit.py lines --out runs/lit-photos --study benchmarks/studies/methods.toml

`train` skips runs whose decoder is there already; a run's seed is that of its folder's name (`...-s2`), and is the
decoder's too. `table` takes what is there: mean and sample standard deviation over the seeds of each encoder, paired
differences to IID at the same size, and the page with the gallery. `lines` is for runs that `benchmarks/study.py` kept:
it writes a line for each decoder to `--to`, by the names of the study's rows, for docs/evidence.md.
`benchmarks/lit_photos.py` makes captions and questions on photos.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from study_records import jobs_of, read_study

from aced.errors import AcedError
from aced.files.atomic import write_atomic
from aced.lab.lit.lit_page import grouped, score_tables, type_tables, write_lit_report
from aced.runs.environment import environment
from aced.runtime.threads import set_threads

LINES = Path(__file__).parent / "studies/lit.jsonl"
SPENT = "spent.json"
"""What a decoder cost, and where, beside its results."""
KEPT = ("tower", "tower_fingerprint", "decoder", "training", "split")
SAME = ("training", "data", "split")
"""Fields of results that a line has, and those in which all lines agree."""
ORDER = ("iid", "softmax-kd", "h-acid", "i-aced", "aced", "columns-kd", "d-aced")


def main() -> None:
    """Parse the command line and do what it says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("train", "table", "lines"))
    parser.add_argument("runs", nargs="*", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data", action="append", default=[])
    parser.add_argument("--where")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--split", default="test")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--study", type=Path, help="for lines: the study whose runs the encoders are")
    parser.add_argument("--to", type=Path, default=LINES, help="for lines: the file to write")
    options = parser.parse_intermixed_args()
    try:
        if options.what == "train":
            for run in options.runs:
                train(run, options)
        elif options.what == "table":
            table(options.out)
        elif options.study is None:
            raise AcedError("lines needs --study, which has the names of the rows.")
        else:
            lines(options.out, options.study, options.to)
    except AcedError as error:
        sys.exit(f"lit.py: {error}")


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
    set_threads(options.threads)
    began = time.process_time()
    lit_program(chosen, Console())
    spent = {"processor_seconds": time.process_time() - began, "environment": environment(torch.device("cpu"))}
    write_atomic(out / SPENT, json.dumps(spent, indent=1) + "\n")


def lines(out: Path, study_file: Path, to: Path) -> None:
    """Write a line for each decoder, in the order of the study's rows.

    Raises:
        AcedError: an encoder is no run of the study, or two decoders had other settings or data.
    """
    study = read_study(study_file)
    jobs = {job.folder: job for job in jobs_of(study, [])}
    places = {row.name: place for place, row in enumerate(study.rows)}
    found: list[dict[str, Any]] = []
    for folder in (path.parent for path in sorted(out.glob("*/results.json"))):
        run = json.loads((folder / "results.json").read_text(encoding="utf-8"))
        job = jobs.get(folder.name)
        if job is None:
            raise AcedError(f"{folder}: {study_file} has no run of this name; keep such decoders in another --out.")
        line = {"row": job.row, "seed": job.seed} | {name: run[name] for name in KEPT}
        line["data"] = [Path(name).name for name in run["data"]]
        line["tasks"] = [{"types": {}} | {k: v for k, v in task.items() if k != "constant"} for task in run["tasks"]]
        spent = json.loads((folder / SPENT).read_text(encoding="utf-8"))
        line["processor_seconds"] = spent["processor_seconds"]
        line["environment"] = {name: spent["environment"][name] for name in ("cpu", "torch")}
        if found and any(line[name] != found[0][name] for name in SAME):
            raise AcedError(f"{folder} had other settings or data than {found[0]['row']}: train it anew.")
        found.append(line)
    found.sort(key=lambda line: (places[line["row"]], line["seed"]))
    write_atomic(to, "".join(json.dumps(line) + "\n" for line in found))
    print(f"Wrote {len(found)} lines: {to}")


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
