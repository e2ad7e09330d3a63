"""The demo's sentences around its table: what it does, how to read the table, and what to try next."""

from __future__ import annotations

import shlex
from pathlib import Path

from aced.lab.demo.rows import REFERENCE, TEMPERATURE, DemoRow, Scale

WIDTH = 80
"""Maximum width of a printed command, if the names of folders permit."""
READING = (
    "How to read the table: Average is the mean zero-shot accuracy. Sound is the share of training pairs whose image "
    "and caption are both right. Trained counts the pairs that the student trained on, Loaded the candidates that they "
    "were chosen from, and Time is the training time.",
    "These are tiny models on drawn pictures: they show how the methods work but predict nothing about your data.",
)
QUICK_LOOK = "This was a quick look: far too short to rank the methods."
ENOUGH_SEEDS = 3
"""With fewer, the summary says that the order of neighbouring rows may be chance."""


def opening(rows: list[DemoRow], scale: Scale, *, trains: bool) -> list[str]:
    """A description of the demo, in plain sentences.

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
        f"{scale.pool:,} pictures with captions, about half of them corrupted. A method chooses the pairs of each step "
        f"with the help of a larger model, the reference, or imitates it, or both; IID takes random pairs. "
        f"The reference {source}.",
    ]


def cautions(rows: int, seeds: int, *, quick: bool) -> list[str]:
    """What a reader must not conclude from the table; terminal, results and page show the same sentences.

    Args:
        rows: of the table.
        seeds: that every row was trained with.
        quick: whether everything was scaled down.
    """
    if rows < 2:
        return []
    few = (
        f"{'One seed does' if seeds == 1 else f'{seeds} seeds do'} not rank neighbouring rows, since another seed may "
        f"swap them; --seeds {ENOUGH_SEEDS} shows how far each row varies."
    )
    return [QUICK_LOOK] * quick + [few] * (seeds < ENOUGH_SEEDS)


def next_commands(out: Path, *, referenced: bool) -> list[tuple[str, str]]:
    """Suggestions after the demo: for each a sentence and a complete command, or one for your own tars.

    Args:
        out: folder of the demo.
        referenced: whether the folder holds the large reference and its embeddings of the pool.
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
        ("To train on your own tars (KEY.jpg beside KEY.txt) in a FOLDER:", command(tars)),
        ("To train one such student yourself and see its scores while it learns:", command(words)),
    ]


def command(words: list[str]) -> str:
    """A shell command, split over several lines if it is wider than `WIDTH`."""
    lines = [f"  {words[0]}"]
    for word in words[1:]:
        if len(lines[-1]) + len(word) + 3 <= WIDTH:  # the space before it, and " \" after it
            lines[-1] += f" {word}"
        else:
            lines.append(f"    {word}")
    return " \\\n".join(lines)
