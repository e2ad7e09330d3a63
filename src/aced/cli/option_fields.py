"""Commands whose options are the fields of one dataclass."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import MISSING
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import typer

from aced.cli.path_words import as_path, as_place, as_place_or_none
from aced.runtime.declared_options import OptionField, dashed, option_fields
from aced.runtime.paths import expand_optional, expand_path

Options = TypeVar("Options")

_PARSERS: dict[Any, Callable[[Any], Any]] = {expand_path: as_place, expand_optional: as_place_or_none}


def takes_options(command: Callable[[Options], None]) -> Callable[..., None]:
    """A command whose only parameter is a dataclass; each field that has an `Option` becomes a parameter.

    Fields that are not given keep their defaults.

    Raises:
        TypeError: the command has more or fewer parameters than one.
    """
    (kind,) = (hint for name, hint in get_type_hints(command).items() if name != "return")
    declared = list(option_fields(kind))

    def run(**words: Any) -> None:
        given = {field.name: words[field.word] for field in declared}
        command(kind(**{name: value for name, value in given.items() if value not in (None, [])}))

    keyword = inspect.Parameter.KEYWORD_ONLY
    parameters = [
        inspect.Parameter(one.word, keyword, default=_default(one), annotation=Annotated[_kind(one.kind), _info(one)])
        for one in declared
    ]
    run.__name__, run.__doc__, run.__module__ = command.__name__, command.__doc__, command.__module__
    run.__annotations__ = {one.name: one.annotation for one in parameters}
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return run


def _is_list(kind: Any) -> bool:
    return get_origin(kind) is Sequence


def _kind(kind: Any) -> Any:
    """The type that typer gets: lists for sequences, text where the program checks a choice itself."""
    if _is_list(kind):
        return list[get_args(kind)[0]]  # type: ignore[misc]
    return str if get_origin(kind) is Literal else kind


def _default(field: OptionField) -> Any:
    if field.default is MISSING:
        return inspect.Parameter.empty
    # The help text gives the default of a list: typer's own display of it is unclear.
    return None if _is_list(field.kind) else field.default


def _holds_path(kind: Any) -> bool:
    return kind is Path or any(map(_holds_path, get_args(kind)))


def _info(field: OptionField) -> Any:
    """The parameter as typer describes it."""
    option = field.option
    parser = as_path if _holds_path(field.kind) else _PARSERS.get(option.path)
    known: dict[str, Any] = {"help": option.help, "metavar": option.metavar, "show_default": option.show_default}
    known |= {"parser": parser, "min": option.least, "max": option.most}
    return typer.Argument(**known) if option.argument else typer.Option(f"--{dashed(field.word)}", **known)
