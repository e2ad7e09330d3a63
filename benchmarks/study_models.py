"""How large the references and students of a study are, and what its references score: benchmarks/studies/models.json.

    python benchmarks/study_models.py benchmarks/studies/ladder.toml --place data=data \\
        --place references=runs/references --features runs/features

Models are known by what the study's keys call them (`{references}/lite2-words`, `aced-photo-s`). FLOPs are those of a
picture and of a text of the full length; a multiply-add counts as 2. Scores are those of the study's tasks, as computed
by `aced eval`. What the file has is not computed again: remove a model from it to have it measured anew. For references
of `public_reference.py`, what their trunks gave is kept in `--features`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from public_features import remembering
from public_reference import scored
from rich.console import Console
from study_records import Study, read_study

from aced.config import load_config
from aced.errors import AcedError
from aced.files.atomic import write_atomic
from aced.models import Tower, import_open_clip, load_tower
from aced.runtime.threads import set_threads


def named(study: Study, key: str) -> list[str]:
    """The values of a key in a study, each once; the student of its recipe among them."""
    found = [str(value) for name, value in study.all_keys() if name == key]
    if key == "student.model":
        found.insert(0, load_config(study.recipe).student.model)
    return list(dict.fromkeys(found))


def filled(text: str, places: dict[str, str]) -> str:
    """A value of a study's key with its places.

    Raises:
        AcedError: one has no folder.
    """
    try:
        return text.format(**places)
    except KeyError as error:
        name = error.args[0]
        raise AcedError(f"The study names '{text}'; give --place {name}=FOLDER.") from None


def size(tower: Tower) -> dict[str, Any]:
    """Parameters, and FLOPs of a picture and of a text."""
    flops = tower.flops(tower.context_length)
    parameters = sum(one.numel() for one in tower.model.parameters())
    return {"parameters": parameters, "flops": {"image": flops.image, "text": flops.text}}


@contextmanager
def helped(tower: Tower, folder: Path, features: Path) -> Iterator[None]:
    """Let a reference of `public_reference.py` look up what its trunks gave; another model is left as it is."""
    file = folder / "reference.json"
    if not file.is_file():
        yield
        return
    settings = json.loads(file.read_text(encoding="utf-8"))["settings"]
    with remembering(tower, settings["images"], settings["texts"], features):
        yield


def measured(study: Study, places: dict[str, str], options: argparse.Namespace, console: Console) -> None:
    """Add to the file what it lacks, a model at a time."""
    found: dict[str, dict[str, Any]] = {"references": {}, "students": {}}
    if options.out.is_file():
        found |= json.loads(options.out.read_text(encoding="utf-8"))
    given = study.keys["eval.tasks"]
    tasks = [filled(word, places) for word in ([given] if isinstance(given, str) else given)]
    for name in named(study, "student.model"):
        if name not in found["students"]:
            found["students"][name] = size(load_tower(filled(name, places), seed=0))
            console.print(name, markup=False, highlight=False)
    for name in named(study, "reference.model"):
        if name not in found["references"]:
            folder = Path(filled(name, places))
            tower = load_tower(folder)
            own = size(tower)  # before trunks are looked up, which costs nothing
            console.print(folder.name, markup=False, highlight=False)
            with helped(tower, folder, options.features):
                scores = scored(tower, tasks, console)
            found["references"][name] = own | {"average": scores.pop("average"), "tasks": scores}
        write_atomic(options.out, json.dumps(found, indent=1, sort_keys=True) + "\n")


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, help="a TOML file")
    parser.add_argument("--place", action="append", default=[], metavar="NAME=FOLDER", help="what {NAME} stands for")
    parser.add_argument("--features", type=Path, default=Path("runs/public-features"))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "studies/models.json")
    parser.add_argument("--threads", type=int, default=1)
    options, console = parser.parse_args(arguments), Console()
    set_threads(options.threads)
    import_open_clip()  # before transformers, which imports torchvision
    try:
        study, places = read_study(options.study), dict(word.partition("=")[::2] for word in options.place)
        measured(study, places, options, console)
    except AcedError as error:
        sys.exit(f"study_models.py: {error}")


if __name__ == "__main__":
    main()
