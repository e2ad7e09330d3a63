"""A ladder of references from public packages: each is built and scored, and one table is written.

    python benchmarks/public_ladder.py --curated data/curated --tasks data/eval --out runs/ladder \
        --also "trained here=runs/photos-reference" --imagenet data/en_classnames.json

Each rung is a folder of `public_reference.py` under `--out`; one that is there already is taken as it is. `--also` adds
models from elsewhere, and `--imagenet` a rung with ImageNet's class names. The table goes to `--out/ladder.md`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import public_reference
from public_features import remembering
from rich.console import Console

from aced.errors import AcedError
from aced.files.atomic import write_atomic
from aced.models import load_tower
from aced.runtime.threads import set_threads

RUNGS: dict[str, tuple[str, ...]] = {
    "lite0-minilm": ("--images", "lite0"),
    "lite2-words": ("--images", "lite2", "--texts", "words"),
    "lite2-minilm": ("--images", "lite2"),
    "lite012-minilm": ("--images", "lite012"),
}
"""By name of the folder, the options of `public_reference.py`."""


def rung(name: str, own: Sequence[str], options: argparse.Namespace, console: Console) -> dict[str, Any]:
    """What reference.json of a rung holds; the rung is built where it is not there, and scored where it was not."""
    file, features = options.out / name / "reference.json", options.out / "features"
    if not file.is_file():
        given = ["--curated", *options.curated, "--tasks", *options.tasks, "--features", features]
        public_reference.main([*own, *map(str, given), "--out", str(options.out / name)])
    facts = dict(json.loads(file.read_text(encoding="utf-8")))
    if "tasks" not in facts:
        tower, settings = load_tower(options.out / name), facts["settings"]
        with remembering(tower, settings["images"], settings["texts"], features):
            facts["tasks"] = public_reference.scored(tower, options.tasks, console)
        write_atomic(file, json.dumps(facts, indent=2) + "\n")
    return facts


def elsewhere(folder: str, options: argparse.Namespace, console: Console) -> dict[str, Any]:
    """As `rung`, of a model that is there."""
    tower = load_tower(folder)
    tasks = public_reference.scored(tower, options.tasks, console)
    parameters = sum(one.numel() for one in tower.model.parameters())
    return {"tasks": tasks, "parameters": parameters, "milliseconds": {}}


def table(found: dict[str, dict[str, Any]]) -> str:
    """A row for each task, a column for each reference, in Markdown."""
    tasks = list(next(iter(found.values()))["tasks"])
    lines = ["| | " + " | ".join(found) + " |", "| --- |" + " ---: |" * len(found)]
    for task in tasks:
        lines.append(f"| {task} | " + " | ".join(f"{one['tasks'][task]:.1f}" for one in found.values()) + " |")
    lines.append(
        "| parameters, millions | " + " | ".join(f"{one['parameters'] / 1e6:.1f}" for one in found.values()) + " |"
    )
    spent = [{name: ms for name, ms in one["milliseconds"].items() if ms} for one in found.values()]
    lines.append("| ms a picture | " + " | ".join(_sum(one, text=False) for one in spent) + " |")
    lines.append("| ms a text | " + " | ".join(_sum(one, text=True) for one in spent) + " |")
    return "\n".join(lines) + "\n"


def _sum(spent: dict[str, float], *, text: bool) -> str:
    """Processor milliseconds of the text trunk, or of all image trunks together."""
    own = [ms for name, ms in spent.items() if (name in public_reference.TEXTS) == text]
    return f"{sum(own):.1f}" if own else "-"


def main() -> None:
    """Parse, build, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--curated", nargs="+", required=True)
    parser.add_argument("--tasks", nargs="+", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="+", choices=tuple(RUNGS), default=list(RUNGS), help="these rungs")
    parser.add_argument("--also", nargs="*", default=[], help="NAME=FOLDER of other models")
    parser.add_argument("--imagenet", type=Path, help="class names, for one rung more")
    parser.add_argument("--threads", type=int, default=1)
    options, console = parser.parse_args(), Console()
    set_threads(options.threads)
    rungs = {name: RUNGS[name] for name in options.only}
    if options.imagenet is not None:
        rungs["lite2-minilm-imagenet"] = ("--images", "lite2", "--imagenet", str(options.imagenet))
    try:
        found = {
            name: elsewhere(folder, options, console)
            for name, _, folder in (text.partition("=") for text in options.also)
        }
    except AcedError as error:
        sys.exit(f"public_ladder.py: {error}")
    found |= {name: rung(name, own, options, console) for name, own in rungs.items()}
    write_atomic(options.out / "ladder.md", table(found))
    console.print(table(found), markup=False, highlight=False)


if __name__ == "__main__":
    main()
