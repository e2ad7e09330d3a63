"""Paths as people write them, in every key of a run and in every word of a command."""

from __future__ import annotations

import json
import os
import typing
from pathlib import Path
from typing import Any, get_args

import pytest

from aced import cli as package
from aced.cli.path_words import as_path, as_place, as_place_or_none
from aced.config import Config, load_config, make_config, resume_rules
from aced.config.resume import Resume
from aced.config.types import PathOrNone, Paths, PathText, PlaceText
from aced.errors import AcedError
from aced.runtime.paths import expand_optional, expand_path
from cli_fakes import Cli

NOBODY = "~a-user-that-there-is-not/x"
WORDS = {
    "run.device", "run.trackers", "data.caption", "data.kind_field", "data.concept_field", "data.source", "method.name",
    "method.loss",
}  # fmt: skip
"""Keys of free text that are no path; a new one must be added here, or be one."""
NO_PATHS = {
    ("demo", "methods"), ("demo", "split"), ("train", "overrides"), ("cost", "overrides"), ("eval", "prompts"),
    ("eval", "precision"),
    ("embed", "precision"), ("methods", "imports"), ("export", "format"), ("latency", "runtime"), ("latency", "device"),
    ("eval", "device"), ("embed", "dtype"), ("embed", "caption"), ("embed", "caption_choice"), ("embed", "decoding"),
    ("embed", "bad_tars"), ("embed", "device"), ("embed", "share"), ("lit", "where"), ("lit", "split"),
    ("stable", "recipe_column"), ("stable", "repeat_pattern"), ("stable", "ignore"), ("stable", "missing"),
}  # fmt: skip
"""Words of the commands that are no path."""


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home folder, and an empty folder to be in."""
    (tmp_path / "home ü").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home ü"))
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "home ü"


# -- what a path becomes -----------------------------------------------------------------------------------------------


def test_home_is_expanded_at_the_beginning_alone(home: Path) -> None:
    assert expand_path("~") == str(home)
    assert expand_path("~/a b/{0..3}.tar") == f"{home}/a b/{{0..3}}.tar"
    assert expand_path("~root/x") == f"{os.path.expanduser('~root')}/x" != "~root/x"
    for same in (
        "a/~/b",
        "a~",
        "./~",
        "ViT-B-32",
        "aced-demo-s",
        "s3://bucket/~/$x",
        "price$5.tar",
        "a$",
        "https://h/a?$k",
    ):
        assert expand_path(same) == same


@pytest.mark.parametrize("text", [NOBODY, "", "   ", "$HOME/x", "runs/$JOB", "${A}/b", "a/b-${A}.tar", "a\0b"])
def test_what_would_be_another_place_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        expand_path(text)


def test_what_is_there_under_a_name_is_taken_as_it_is() -> None:
    for name in ("~a-user-that-there-is-not", "$HOME"):
        Path(name).mkdir()
        assert expand_path(f"{name}/x") == f"{name}/x"
    Path("~").mkdir()  # which an older version left behind
    assert expand_path("~/x") == f"{os.environ['HOME']}/x"
    assert (expand_optional(""), expand_optional("~")) == ("", os.environ["HOME"])


# -- keys --------------------------------------------------------------------------------------------------------------


def path_keys() -> list[str]:
    """The keys that take paths, by their types."""
    kinds = {PathText: "", PathOrNone: "", Paths: "", PlaceText: ""}
    found = []
    for section, table in Config.model_fields.items():
        hints = typing.get_type_hints(table.annotation, include_extras=True)
        for key in table.annotation.model_fields:  # type: ignore[union-attr]
            own = get_args(hints[key])
            if any(own[: len(get_args(kind))] == get_args(kind) for kind in kinds):
                found.append(f"{section}.{key}")
    return found


def text_keys() -> set[str]:
    """The keys of free text."""
    return {
        f"{section}.{key}"
        for section, table in Config.model_fields.items()
        for key, field in table.annotation.model_fields.items()  # type: ignore[union-attr]
        if field.annotation in (str, str | list[str])
        or str in get_args(get_args(field.annotation)[:1] and get_args(field.annotation)[0])
    }


def test_every_key_of_free_text_is_a_path_or_known_not_to_be() -> None:
    assert text_keys() == set(path_keys()) | WORDS
    assert {"run.out", "data.shards", "data.spool_dir", "teacher.checkpoint", "eval.tasks"} <= set(path_keys())


def test_no_path_is_compared_as_words_when_a_run_is_resumed() -> None:
    rules = resume_rules()
    assert {key: rules[key] for key in path_keys() if rules[key] not in (Resume.FREE, Resume.PLACE, Resume.MODEL)} == {}


@pytest.mark.parametrize("key", path_keys())
def test_every_path_of_a_config_is_expanded(key: str, home: Path) -> None:
    section, name = key.split(".")
    config = make_config({"method": {"name": "iid"}, section: {name: "~/x y"}})
    value = getattr(getattr(config, section), name)
    assert value == ([f"{home}/x y"] if isinstance(value, list) else f"{home}/x y")
    for wrong in (NOBODY, "$HOME/x"):
        with pytest.raises(AcedError, match=rf"{section}\.{name}"):
            make_config({"method": {"name": "iid"}, section: {name: wrong}})


def test_a_file_and_overrides_expand_alike(home: Path) -> None:
    (home / "my.toml").write_text('run.out = "~/runs/a"\nmethod.name = "iid"\n[data]\nshards = ["~/p", "~/q/*.tar"]\n')
    config = load_config("~/my.toml", ["data.index_dir=~/i", "reference.cache='~/c'"])
    assert (config.run.out, config.data.shards) == (f"{home}/runs/a", [f"{home}/p", f"{home}/q/*.tar"])
    assert (config.data.index_dir, config.reference.cache) == (f"{home}/i", f"{home}/c")
    with pytest.raises(AcedError, match="a-user-that-there-is-not"):
        load_config(NOBODY)


@pytest.mark.parametrize(
    "override", ["run.out=", "run.out=''", "student.model=", "data.shards=", "eval.tasks=['a', '']"]
)
def test_an_empty_path_is_refused(override: str) -> None:
    with pytest.raises(AcedError, match=override.partition("=")[0].replace(".", r"\.")):
        load_config("scenes", [override])


def test_a_name_that_looks_like_something_else_stays_a_name() -> None:
    words = ["run.out=2026-01-31", "eval.tasks=07", "data.spool_dir=1e3", "student.model=true"]
    config = load_config("scenes", words)
    assert (config.run.out, config.eval.tasks) == ("2026-01-31", ["07"])
    assert (config.data.spool_dir, config.student.model) == ("1e3", "true")


def test_of_a_key_that_is_given_twice_the_last_counts() -> None:
    assert load_config("scenes", ["train.lr=1", "run.out=a", "train.lr=2", "run.out=b"]).train.lr == 2
    Path("twice.toml").write_text("[train]\nlr = 1\nlr = 2\n")
    with pytest.raises(AcedError, match="TOML"):
        load_config("twice.toml")


# -- commands ----------------------------------------------------------------------------------------------------------


def parameters() -> dict[tuple[str, str], tuple[Any, Any]]:
    """For each word of a command that is free text or a path: its type, and what typer knows of it."""
    found = {}
    for command in package.app.registered_commands:
        assert command.callback is not None
        name = command.name or command.callback.__name__
        for key, hint in typing.get_type_hints(command.callback, include_extras=True).items():
            annotated = next((one for one in (hint, *get_args(hint)) if hasattr(one, "__metadata__")), None)
            if annotated is not None and ("str" in repr(annotated.__origin__) or "Path" in repr(annotated.__origin__)):
                found[name, key] = (annotated.__origin__, annotated.__metadata__[0])
    return found


def test_every_word_that_may_be_a_path_is_parsed_as_one() -> None:
    found = parameters()
    assert len(found) > 30
    for word, (kind, info) in found.items():
        if word in NO_PATHS:
            assert info.parser is None, word
        elif "Path" in repr(kind):
            assert info.parser is as_path, word
        else:
            assert info.parser in (as_place, as_place_or_none), word
    assert set(found) >= NO_PATHS


@pytest.mark.parametrize("word", [word for word in parameters() if word not in NO_PATHS], ids="-".join)
def test_an_unknown_home_is_one_sentence_in_every_command(word: tuple[str, str], cli: Cli) -> None:
    command, key = word
    info = parameters()[word][1]
    is_option = type(info).__name__ == "OptionInfo"
    needed = {"train": ["scenes"], "status": ["x"], "embed": ["m", "p"], "lit": ["x"], "report": ["x"], "stable": ["x"]}
    if is_option:
        values = [NOBODY] * (2 if "tuple" in repr(parameters()[word][0]) else 1)
        said = [*needed.get(command, []), f"--{key.replace('_', '-')}", *values]
    else:
        names = [k for (c, k), (_, i) in parameters().items() if c == command and type(i).__name__ == "ArgumentInfo"]
        said = [NOBODY if name == key else "x" for name in names if name != "overrides"]
    ended = cli(command, *said)
    assert ended.status == 2
    assert ended.err.count("\n") == 1
    assert "a-user-that-there-is-not" in ended.err
    assert list(Path.cwd().iterdir()) == []


def test_words_of_a_command_become_paths(home: Path) -> None:
    assert as_path("~/x") == home / "x"
    assert (as_place("~/x"), as_place("scenes"), as_place_or_none("")) == (f"{home}/x", "scenes", "")


def test_a_run_in_the_home_folder_is_looked_at(home: Path, cli: Cli) -> None:
    (home / "run").mkdir()
    (home / "run/config.toml").write_text('method.name = "iid"\nrun.seed = 3\ntrain.steps = 7\n')
    ended = cli("status", "~/run", "--json")
    assert ended.status == 0, ended.err
    assert json.loads(ended.out)[0]["steps"] == 7


# -- models ------------------------------------------------------------------------------------------------------------


def test_models_are_found_in_the_home_folder(home: Path) -> None:
    from aced.models import load_tower, save_tower

    tower = load_tower("aced-demo-s", seed=1)
    save_tower(tower, home / "m")
    assert load_tower("~/m").fingerprint() == tower.fingerprint()
    assert load_tower("aced-demo-s", "~/m/model.safetensors").fingerprint() == tower.fingerprint()
    with pytest.raises(AcedError, match="a-user-that-there-is-not"):
        load_tower(NOBODY)


@pytest.mark.parametrize("key", ["hf_tokenizer_name", "hf_model_name"])
def test_folders_that_a_models_config_names_are_expanded(key: str, home: Path) -> None:
    from aced.models.recipes import _levels

    (home / "bert").mkdir()
    config = {"embed_dim": 8, "vision_cfg": {}, "text_cfg": {key: "~/bert"}}
    Path("m.json").write_text(json.dumps(config))
    assert _levels(Path("m.json"))[0]["text_cfg"][key] == str(home / "bert")
