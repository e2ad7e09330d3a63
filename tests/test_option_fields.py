"""Options that are declared once: the same fields for the command line, Python and commands that are printed."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from aced.cache.embed_options import EmbedOptions, embed_command
from aced.cli.option_fields import takes_options
from aced.lab.lab_options import DemoOptions, LitOptions
from aced.programs.command_options import EvalOptions, ExportOptions, IndexOptions, LatencyOptions, StableOptions
from aced.runtime.declared_options import Option, command_line, option_fields
from aced.runtime.paths import expand_path


@dataclasses.dataclass(frozen=True)
class Words:
    """Options of every sort."""

    place: Annotated[str, Option("A place.", argument=True, path=expand_path)]
    more: Annotated[Sequence[str], Option("More.", argument=True)] = ()
    file: Annotated[Path | None, Option("A file.")] = None
    many: Annotated[Sequence[int], Option("Numbers.", name="number", least=1)] = (1, 8)
    share: Annotated[float, Option("A share.", most=1.0)] = 0.5
    choice: Annotated[Literal["stop", "skip"], Option("What to do.")] = "stop"
    loud_one: Annotated[bool, Option("A flag.")] = False
    hidden: int = 3


def run(*said: str) -> tuple[int, list[Words]]:
    """The exit status of a command with these words, and what it was called with."""
    app, called = typer.Typer(), list[Words]()

    @app.command()
    @takes_options
    def act(words: Words) -> None:
        """Act."""
        called.append(words)

    return CliRunner().invoke(app, list(said)).exit_code, called


def test_what_is_not_given_keeps_its_default() -> None:
    assert run("here") == (0, [Words("here")])


def test_every_word_reaches_its_field(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    said = ["~/x", "a", "b", "--file", "~/f", "--number", "2", "--number", "3", "--share", "0.25", "--loud-one"]
    expected = Words(f"{tmp_path}/x", ["a", "b"], tmp_path / "f", many=[2, 3], share=0.25, choice="skip", loud_one=True)
    assert run(*said, "--choice", "skip") == (0, [expected])


@pytest.mark.parametrize(
    "said", [[], ["x", "--number", "0"], ["x", "--share", "2"], ["x", "--hidden", "1"], ["x", "--no-loud-one"], [""]]
)
def test_what_is_not_declared_is_refused(said: list[str]) -> None:
    assert run(*said) == (2, [])


def test_a_command_line_has_what_is_not_the_default() -> None:
    assert command_line("do it", Words("here")) == "do it here"
    assert (
        command_line("do it", Words("a b", share=1e-3), always=["choice"]) == "do it 'a b' --share 0.001 --choice stop"
    )


@settings(max_examples=60, deadline=None)
@given(
    st.builds(
        Words,
        st.sampled_from(["x", "a b", "{0..3}.tar", "it's"]),
        st.lists(st.sampled_from(["p", "q r"]), max_size=2),
        st.none() | st.just(Path("f g")),
        st.lists(st.integers(1, 9), min_size=1, max_size=3),
        st.sampled_from([0.5, 0.25, 1e-3]),
        st.sampled_from(["stop", "skip"]),
        st.booleans(),
    )
)
def test_a_command_line_is_read_back_as_the_same_options(words: Words) -> None:
    status, (found,) = run(*shlex.split(command_line("", words)))

    def plain(options: Words) -> dict[str, Any]:
        return {key: list(value) if isinstance(value, (list, tuple)) else value for key, value in vars(options).items()}

    assert status == 0
    assert plain(found) == plain(words)


def test_the_command_that_embeds_says_where_side_cars_go() -> None:
    options = EmbedOptions("m", ["p/*.tar"], dtype="int8", views=2)
    assert embed_command(options) == "aced embed m 'p/*.tar' --out runs/cache --dtype int8 --views 2"


@pytest.mark.parametrize(
    "kind",
    [EmbedOptions, EvalOptions, ExportOptions, IndexOptions, LatencyOptions, StableOptions, DemoOptions, LitOptions],
)
def test_every_field_of_a_command_is_documented(kind: type[Any]) -> None:
    names = {field.name for field in option_fields(kind)}
    assert names | {"passing", "scenes"} >= {field.name for field in dataclasses.fields(kind)}
    about = (kind.__doc__ or "").partition("Attributes:")[2]
    heads = [line.strip().partition(":")[0] for line in about.splitlines() if line.startswith(" " * 8) and ":" in line]
    assert names <= {name.strip() for head in heads for name in head.split(",")}
