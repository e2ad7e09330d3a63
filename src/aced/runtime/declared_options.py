"""The options of a command as fields of a dataclass: declared once, for the command line, Python and printed commands.

A field `dtype: Annotated[str, Option("float32, float16 or int8.")] = "float16"` becomes `--dtype` of the command.
Fields without an `Option` are not on the command line.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import MISSING, Field, dataclass, fields
from typing import Annotated, Any, get_type_hints

from aced.runtime.paths import expand_optional


@dataclass(frozen=True)
class Option:
    """A field's description for the command line.

    Attributes:
        help: one sentence, with the unit.
        name: the word without dashes, if it is not the field's name.
        argument: whether the value is an argument, without an option name before it.
        metavar: the value's name in the usage line; None for its type.
        least: smallest accepted number.
        most: largest accepted number.
        path: `expand_path` or `expand_optional` for a text that may be a path; a `Path` needs neither.
        show_default: whether the help shows the default.
    """

    help: str
    name: str = ""
    argument: bool = False
    metavar: str | None = None
    least: float | None = None
    most: float | None = None
    path: Callable[[str], str] | None = None
    show_default: bool = True


Checkpoint = Annotated[str, Option("Weights: a local file, or a tag of the name.", path=expand_optional)]
IndexDir = Annotated[
    str, Option("Folder for indexes of the tars; auto: the user's cache; empty: none.", path=expand_optional)
]
SpoolGigabytes = Annotated[float, Option("Maximum size of that folder, in 10^9 bytes.")]
Threads = Annotated[int, Option("CPU threads; 0 measures which number is fastest.", least=0, most=1024)]


@dataclass(frozen=True)
class OptionField:
    """A field that is on the command line.

    Attributes:
        name: of the field.
        word: its name on the command line, with `_` between its parts.
        kind: its type, without the `Option`.
        option: its description.
        default: of the field; `MISSING` if it is required.
    """

    name: str
    word: str
    kind: Any
    option: Option
    default: Any


def option_fields(kind: type[Any]) -> Iterator[OptionField]:
    """The fields of a dataclass that have an `Option`, in order."""
    hints = get_type_hints(kind, include_extras=True)
    for field in fields(kind):
        hint = hints[field.name]
        for option in getattr(hint, "__metadata__", ()):
            if isinstance(option, Option):
                word = option.name.replace("-", "_") or field.name
                yield OptionField(field.name, word, hint.__origin__, option, _default(field))


def command_line(command: str, options: Any, always: Collection[str] = ()) -> str:
    """The shell command for these options: the arguments, and every option that is not at its default.

    Args:
        command: its first words, such as `aced embed`.
        options: an instance of a dataclass with `Option` fields.
        always: names of fields to write even at their default.
    """
    arguments: list[str] = []
    words: list[str] = []
    for field in option_fields(type(options)):
        value = getattr(options, field.name)
        if value == field.default and field.name not in always:
            continue
        several = isinstance(value, Sequence) and not isinstance(value, str)
        texts = [f"{one:g}" if isinstance(one, float) else str(one) for one in (value if several else [value])]
        if field.option.argument:
            arguments += texts
        elif isinstance(value, bool):
            words += [f"--{dashed(field.word)}"] * value
        else:
            words += [part for text in texts for part in (f"--{dashed(field.word)}", text)]
    return f"{command} {shlex.join([*arguments, *words])}"


def dashed(word: str) -> str:
    """A word as typed on the command line."""
    return word.replace("_", "-")


def _default(field: Field[Any]) -> Any:
    return field.default_factory() if field.default_factory is not MISSING else field.default
