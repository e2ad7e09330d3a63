"""Types of a config's keys: bounds, paths, lists that a single word may abbreviate, and `auto`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)

from aced.errors import nearest
from aced.files.several import several, several_of
from aced.registry.makers import BOARDS, TRACKERS
from aced.runtime.paths import expand_optional, expand_path

Positive = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Beta = Annotated[float, Field(ge=0, lt=1)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
# Every key that is a path, a pattern of paths or a name that may be a path has one of these types, or Paths.
PathText = Annotated[str, AfterValidator(expand_path)]
PathOrNone = Annotated[str, AfterValidator(expand_optional)]


def _entries(value: object) -> object:
    """A single word means a list of one (`data.shards=pool/`); `::` separates several."""
    return several(value) if isinstance(value, str) else several_of(value) if isinstance(value, list) else value


def _or_auto(what: str) -> WrapValidator:
    """One sentence for a value that is neither `auto` nor `what`; pydantic would write one for each."""

    def check(value: Any, inner: ValidatorFunctionWrapHandler) -> Any:
        try:
            return inner(value)
        except ValidationError:
            raise ValueError(f"input should be {what} or 'auto'") from None

    return WrapValidator(check)


CountOrAuto = Annotated[Literal["auto"] | Annotated[int, Field(ge=0)], _or_auto("a whole number, 0 or more,")]
OneOrAuto = Annotated[Literal["auto"] | Annotated[int, Field(ge=1)], _or_auto("a whole number, 1 or more,")]
SwitchOrAuto = Annotated[Literal["auto"] | bool, _or_auto("true, false")]
_one_or_more = BeforeValidator(_entries)


def _tracker(name: str) -> str:
    if name not in BOARDS and name not in TRACKERS:
        raise ValueError(f"there is no such tracker.{nearest(name, [*BOARDS, *TRACKERS])}".rstrip("."))
    return name


TrackerNames = Annotated[list[Annotated[str, AfterValidator(_tracker)]], _one_or_more]


def as_words(value: Any) -> list[str]:
    """The words of a key that has not been checked yet; none if they are not words."""
    words = _words(value)
    return [word for word in words if isinstance(word, str)] if isinstance(words, list) else []


def _words(value: Any) -> Any:
    """A single word means a list of one; commas separate several."""
    if not isinstance(value, str):
        return value
    inside = value[1:-1] if value.startswith("[") and value.endswith("]") and "," in value else value
    return [word.strip().strip("'\"") for word in inside.split(",") if word.strip()]


Words = Annotated[list[str], BeforeValidator(_words)]


def _places(value: Any) -> Any:
    """A word, or a list of several; on a command line the list may lack quotes."""
    words = _words(value) if isinstance(value, str) and value.startswith("[") else value
    if isinstance(words, list):
        return [expand_optional(word) if isinstance(word, str) else word for word in words]
    return expand_optional(words) if isinstance(words, str) else words


PlaceText = Annotated[str | list[str], BeforeValidator(_places)]
"""One path or name, or a list of them."""


def _some_paths(value: Any) -> Any:
    if value == "":  # probably an unset variable: do not silently train on other data
        raise ValueError("the path is empty; write [] for none")
    return _entries(value)


Paths = Annotated[list[PathText], BeforeValidator(_some_paths)]
