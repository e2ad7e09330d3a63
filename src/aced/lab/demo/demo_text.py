"""What the demo says around its table: what it does, how to read it, and which command comes next."""

from __future__ import annotations

import shlex
from pathlib import Path

from aced.lab.demo.rows import REFERENCE, TEMPERATURE, DemoRow, Scale

WIDTH = 80
"""Columns that a printed command keeps within, where the names of folders let it."""
READING = (
    "How to read the table: Average is the mean zero-shot accuracy. Sound is the share of the trained pairs whose "
    "picture and caption are both right. Trained counts the pairs that the student trained on, Loaded those that were "
    "looked at to choose them, and Time is that of training alone.",
    "These are tiny models on drawn pictures: they show how the methods work, and predict nothing about your data.",
)
QUICK_LOOK = "This was a quick look: far too short for the differences to mean anything."


def opening(rows: list[DemoRow], scale: Scale, *, trains: bool) -> list[str]:
    """What is about to happen, in plain sentences.

    Args:
        rows: of the table.
        scale: sizes and lengths.
        trains: whether the reference is trained anew.
    """
    many = len(rows) > 1
    source = "is trained first, on clean pairs" if trains else "comes with the package"
    return [
        "Which pairs should a small model learn from, and does a large model help?",
        f"The demo trains the same small image-text model {f'in {len(rows)} ways' if many else 'once'} on a pool of "
        f"{scale.pool:,} pictures with captions, about half of them spoilt. A method chooses the pairs of each step "
        f"with the help of a larger model, the reference, or imitates it, or both; IID takes pairs at random. "
        f"The reference {source}.",
    ]


def next_commands(out: Path, *, referenced: bool) -> list[tuple[str, str]]:
    """What to try after the demo: for each a sentence, and a command that runs as it stands, or on tars.

    Args:
        out: folder of the demo.
        referenced: whether the large reference and its embeddings of the pool lie in there.
    """
    if referenced:
        words = [
            "aced train scenes method.name=aced",
            f"method.temperature={TEMPERATURE}",
            "eval.every=100",
            shlex.quote(f"reference.model={out / 'reference' / REFERENCE}"),
            shlex.quote(f"reference.cache={out / 'cache'}"),
            "run.out=runs/scenes-aced",
        ]
    else:
        words = ["aced train scenes method.name=iid eval.every=100 run.out=runs/scenes-iid"]
    tars = ["aced train photos method.name=iid", "data.shards=FOLDER", "run.out=runs/first"]
    return [
        ("To train on tars of your own, KEY.jpg beside KEY.txt, in a FOLDER:", command(tars)),
        ("To train one such student yourself, and see its scores while it learns, type:", command(words)),
    ]


def command(words: list[str]) -> str:
    """A shell command, continued on further lines where it would be wider than `WIDTH`."""
    lines = [f"  {words[0]}"]
    for word in words[1:]:
        if len(lines[-1]) + len(word) + 3 <= WIDTH:  # the blank before it, and " \" after it
            lines[-1] += f" {word}"
        else:
            lines.append(f"    {word}")
    return " \\\n".join(lines)
