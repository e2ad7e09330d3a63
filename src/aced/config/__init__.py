"""A training run's config: from a TOML file and overrides to checked values, and back.

A run is described by a TOML file; keys that it omits have the defaults in `aced.config.sections`. `aced train FILE
section.key=value` overrides single keys, and the resolved file is written into the run folder.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tomli_w
from pydantic import ValidationError, model_validator

from aced.config.checks import check_together
from aced.config.removed import why_not_key, why_not_value, without_defaults
from aced.config.resume import Resume
from aced.config.sections import Sections
from aced.config.types import PathText, as_words
from aced.errors import AcedError, nearest
from aced.registry.plugins import load_plugins
from aced.runtime.paths import expand_path

if TYPE_CHECKING:
    from aced.methods import Method


class Config(Sections):
    """The config of a whole run; its keys are checked together."""

    @model_validator(mode="after")
    def _together(self) -> Config:
        from aced.registry.objectives import LOSSES

        try:
            LOSSES.find(self.method.loss)
            method = self.row
        except AcedError as error:
            own = "" if self.run.imports else " If it is your own, name its module in run.imports."
            raise ValueError(why_not_value("method.name", self.method.name) or f"{error}{own}") from None
        check_together(self, method, self.super_batch)
        return self

    @property
    def row(self) -> Method:
        """The row of the methods table, with the config's own lambdas, columns and loss; else an AcedError."""
        from aced.methods import get_method

        own = self.method
        return get_method(
            own.name, weight=own.weight, second_weight=own.second_weight, columns=own.columns, loss=own.loss
        )

    @property
    def loss(self) -> str:
        """The contrastive loss: that of the method's row if it brings its own, otherwise `method.loss`."""
        return self.row.loss or self.method.loss

    @property
    def super_batch(self) -> int:
        """B: candidates loaded at each step; b itself for a method that does not select."""
        from aced.methods import METHODS

        if not METHODS[self.method.name].chooses:
            return self.train.batch
        return round(self.train.batch / (1 - self.method.filtering_ratio))


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read a TOML file, or a packaged recipe by name, and apply `section.key=value` overrides.

    Raises:
        AcedError: no such file or recipe, invalid TOML, an unknown key (names the nearest), or a value out of bounds.
    """
    text, where = _read(path)
    try:
        values: dict[str, Any] = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise AcedError(f"{where} is not valid TOML: {error}.") from None
    for override in overrides:
        _override(values, override)
    return make_config(values, where)


def make_config(values: Mapping[str, Any], where: str = "config") -> Config:
    """Check a nested mapping and make a `Config` of it, with the entries that its `run.imports` register.

    Raises:
        AcedError: every problem, a sentence each; or a module of `run.imports` fails.
    """
    run = values.get("run")
    load_plugins(as_words(run.get("imports")) if isinstance(run, Mapping) else ())
    try:
        return Config.model_validate(without_defaults(values))
    except ValidationError as error:
        raise AcedError(f"{where}: " + " ".join(_sentence(e) for e in error.errors())) from None


def dump_config(config: Config) -> str:
    """The resolved TOML text."""
    return tomli_w.dumps(config.model_dump(exclude_none=True, mode="json"))


def recipes() -> dict[str, Path]:
    """The packaged recipes by name."""
    return {p.stem: p for p in sorted((Path(__file__).parents[1] / "recipes").glob("*.toml"))}


def describe_keys() -> list[tuple[str, str, str]]:
    """Every key with its default (as TOML) and its documentation."""
    rows = []
    for section, field in Config.model_fields.items():
        for key, inner in field.annotation.model_fields.items():  # type: ignore[union-attr]
            default = "" if inner.default is None else tomli_w.dumps({"v": inner.default})[4:].strip()
            rows.append((f"{section}.{key}", " ".join(default.split()), " ".join((inner.description or "").split())))
    return rows


def resume_rules() -> dict[str, Resume | None]:
    """What each key permits at `--resume`; None: it must stay the same."""
    return {
        f"{section}.{key}": next((mark for mark in inner.metadata if isinstance(mark, Resume)), None)
        for section, field in Config.model_fields.items()
        for key, inner in field.annotation.model_fields.items()  # type: ignore[union-attr]
    }


def _read(path: str | Path) -> tuple[str, str]:
    try:
        file = Path(expand_path(str(path)))
    except ValueError as error:
        raise AcedError(f"The config '{path}' cannot be read: {error}.") from None
    if not file.is_file():
        known = recipes()
        if str(path) not in known:
            raise AcedError(f"There is no config file and no recipe '{path}'.{nearest(str(path), known)}")
        file = known[str(path)]
    try:
        return file.read_text(encoding="utf-8-sig"), str(path)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not a text file"
        raise AcedError(f"The config {path} cannot be read: {reason}.") from None


def _override(values: dict[str, Any], text: str) -> None:
    key, equals, raw = text.partition("=")
    parts = key.strip().split(".")
    if not equals or len(parts) != 2 or not all(parts):
        raise AcedError(f"Cannot read the override '{text}': write section.key=value, for example train.steps=100.")
    try:
        value = tomllib.loads(f"v = {raw}")["v"]
    except tomllib.TOMLDecodeError:
        value = raw  # a bare word is a string: method.name=aced
    if not isinstance(value, (str, list)) and _is_text(*parts):
        value = raw  # run.out=2026-01-31 is a name, and neither a date nor a number
    section = values.setdefault(parts[0], {})
    if isinstance(section, dict):  # the check of the whole reports an entry that is not a table
        section[parts[1]] = value


def _is_text(section: str, key: str) -> bool:
    """Whether a key takes text."""
    table = Config.model_fields.get(section)
    field = table.annotation.model_fields.get(key) if table else None  # type: ignore[union-attr]
    return field is not None and field.annotation in (str, list[PathText], str | list[str])


def _sentence(error: Any) -> str:
    where = ".".join(str(p) for p in error["loc"])
    if error["type"] == "extra_forbidden":
        if gone := why_not_key(where):
            return gone
        section: Any = Config
        for part in error["loc"][:-1]:
            section = section.model_fields[part].annotation
        return f"There is no key '{where}'.{nearest(str(error['loc'][-1]), section.model_fields)}"
    if gone := why_not_value(where, error["input"]):
        return gone
    message = error["msg"].removeprefix("Value error, ")
    if not where:
        return str(message)
    if error["type"] == "model_type":
        message = f"[{where}] must be a table"
    return f"{where} = {error['input']!r} is not allowed: {message[0].lower()}{message[1:]}."
