"""Zero-shot tasks by name or folder, as in `eval.tasks`, `--data` and `aced.evaluate`."""

from __future__ import annotations

from pathlib import Path

from aced.evaluate.task_folders import find_task_folders, load_task_folder
from aced.evaluate.tasks import Task
from aced.registry.makers import TASKS, made
from aced.registry.plugins import load_plugins

SPLITS = ("test", "validation")


def named_tasks(place: str, split: str = "test") -> list[Task] | None:
    """The registered tasks that a word names, `NAME` or `NAME:SPLIT`; None if it names none, or a folder.

    Raises:
        AcedError: they cannot be made, or a plugin fails.
    """
    load_plugins()
    name, colon, asked = place.partition(":")
    if name not in TASKS or (colon and asked not in SPLITS) or Path(place).is_dir():
        return None
    found = made(TASKS, name, split=asked or split)
    return list(found) if isinstance(found, list) else [found]


def tasks_of(place: str) -> list[Task]:
    """The tasks that a word names, or those in a folder.

    Raises:
        AcedError: there are none, or one is damaged.
    """
    named = named_tasks(place)
    if named is not None:
        return named
    return [task for folder in find_task_folders([place]) for task in load_task_folder(folder)]
