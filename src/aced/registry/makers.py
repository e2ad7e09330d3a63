"""Registration of makers: sources, towers, tasks, trackers, architectures, panels that configs or commands name.

Each is a function that is called when its name is used. Nothing heavy is imported here.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from aced.core.named import Table, caller
from aced.errors import AcedError

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Maker:
    """A registered maker.

    Attributes:
        about: one line for `aced methods`.
        function: makes the object; its arguments differ by kind, see the functions of this module.
    """

    about: str
    function: Callable[..., Any]


@dataclass(frozen=True)
class Panel:
    """A section of the report.

    Attributes:
        anchor: its name in links, a word.
        name: its entry in the page's list of sections.
        html: the section's contents, heading included; inserted unchanged.
    """

    anchor: str
    name: str
    html: str


SOURCES: Table[Maker] = Table("source")
TOWERS: Table[Maker] = Table("tower")
TASKS: Table[Maker] = Table("task")
TRACKERS: Table[Maker] = Table("tracker")
ARCHITECTURES: Table[Maker] = Table("architecture")
PANELS: Table[Maker] = Table("panel")
BOARDS = ("tensorboard", "wandb", "trackio")
"""The built-in trackers."""


def made(table: Table[Maker], name: str, *arguments: Any, **offered: Any) -> Any:
    """The object made by the maker of that name.

    Args:
        table: the table of its kind.
        name: of the maker.
        arguments: the arguments of every maker of the kind.
        offered: optional arguments, passed if the function has a parameter of that name.

    Raises:
        AcedError: there is no such maker, or it fails.
    """
    maker = table.find(name)
    try:
        known = inspect.signature(maker.function).parameters
        return maker.function(*arguments, **{key: value for key, value in offered.items() if key in known})
    except AcedError:
        raise
    except Exception as error:
        said = " ".join(str(error).split())
        raise AcedError(
            f"The {table.kind} '{name}' of {table.origin(name)} cannot be made ({type(error).__name__}: {said})."
        ) from error


def register_source(name: str, *, about: str = "") -> Callable[[F], F]:
    """Add a source for `data.source`; a decorator of a function of the run's `Config` that returns a `Source`.

    A parameter called `counting`, if the function has one, gets a context manager: `with counting(words) as progress`
    shows a bar that `progress(done, total)` moves.
    """
    return _maker(SOURCES, name, about, caller())


def register_tower(name: str, *, about: str = "") -> Callable[[F], F]:
    """Add a model for `student.model`, `reference.model` and `teacher.model`; a decorator of a function.

    The function gets the `checkpoint` of the same section (a text, empty if none is named) and the seed of the run,
    and returns a `Tower` on the CPU. A registered name takes precedence over open_clip's.
    """
    return _maker(TOWERS, name, about, caller())


def register_task(name: str, *, about: str = "") -> Callable[[F], F]:
    """Add a task for `eval.tasks` and `aced eval`; a decorator of a function that returns a task or a list of them.

    A parameter called `split`, if the function has one, gets `test` or `validation`: `NAME:validation` asks for it.
    """
    return _maker(TASKS, name, about, caller())


def register_tracker(name: str, *, about: str = "") -> Callable[[F], F]:
    """Add a tracker for `run.trackers`; a decorator of a function of the run's folder and its settings, a nested dict.

    It returns a `aced.runs.trackers.tracker.Tracker`: `name`, `where`, `log(kind, step, values)`, `close(failed=)`.

    Raises:
        AcedError: the name is taken.
    """
    if name in BOARDS:
        raise AcedError(f"{caller()} registers the tracker '{name}', which is built in: choose another name.")
    return _maker(TRACKERS, name, about, caller())


def register_architectures(name: str, *, about: str = "") -> Callable[[F], F]:
    """Add architectures that open_clip lacks; a decorator of a function without arguments.

    The function registers vision towers in timm, if its configs need any, and returns the folder of the open_clip
    configs, `NAME.json` each. Word lists, `*-vocab.txt`, in that folder serve configs with a matching `vocab_size`. It
    is called once, when open_clip is imported.
    """
    return _maker(ARCHITECTURES, name, about, caller())


def register_panel(name: str, *, about: str = "") -> Callable[[F], F]:
    """Add a section to the report; a decorator of a function of the runs that returns a `Panel`, or None.

    The runs are pairs of a title, shared by the seeds of one method, and the run's folder.
    """
    return _maker(PANELS, name, about, caller())


def _maker(table: Table[Maker], name: str, about: str, origin: str) -> Callable[[F], F]:
    def add(function: F) -> F:
        table.add(name, Maker(about, function), origin)
        return function

    return add
