"""The command line: its manual, its lists, and what it costs to start."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import aced
from aced import cli as module
from aced.config import describe_keys, recipes
from aced.lab.demo.rows import ROWS
from aced.methods import METHODS
from cli_fakes import Cli

COMMANDS = (
    "demo",
    "train",
    "cost",
    "status",
    "index",
    "embed",
    "eval",
    "lit",
    "export",
    "latency",
    "report",
    "stable",
    "methods",
    "recipes",
    "config",
)


def test_the_manual_lists_every_command(cli: Cli) -> None:
    ended = cli("--help")
    assert ended.status == 0
    assert "aced demo" in ended.out
    known = {
        command.name or command.callback.__name__ for command in module.app.registered_commands if command.callback
    }
    assert known == set(COMMANDS)
    for name in COMMANDS:
        assert f" {name} " in ended.out


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_shows_how_it_is_used(name: str, cli: Cli) -> None:
    ended = cli(name, "--help")
    assert ended.status == 0
    assert "Example" in ended.out
    assert re.search(rf"^ +aced {name}\b(?! \[)", ended.out, re.MULTILINE)
    assert cli(name, "-h").out == ended.out


def test_no_command_at_all_shows_the_manual(cli: Cli) -> None:
    ended = cli()
    assert ended.status != 0
    assert "Usage: aced" in ended.out + ended.err


def test_the_version_is_the_packages(cli: Cli) -> None:
    ended = cli("--version")
    assert (ended.status, ended.out) == (0, f"aced {aced.__version__}\n")


def test_all_methods_are_listed(cli: Cli) -> None:
    ended = cli("methods")
    assert ended.status == 0
    for method in METHODS.values():
        assert f" {method.name} " in ended.out
        assert method.title in ended.out


def test_all_rows_of_the_demo_are_listed(cli: Cli) -> None:
    ended = cli("demo", "--list")
    assert ended.status == 0
    assert [line.split()[0] for line in ended.out.splitlines()] == list(ROWS)


def test_all_recipes_are_listed(cli: Cli) -> None:
    ended = cli("recipes")
    assert ended.status == 0
    assert recipes()
    for name in recipes():
        assert f" {name} " in ended.out


def test_all_keys_are_listed(cli: Cli) -> None:
    ended = cli("config")
    assert ended.status == 0
    for key, default, _ in describe_keys():
        assert f" {key} " in ended.out
        assert default in ended.out


def test_the_manual_loads_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['aced', '--help']\n"
        "from aced.cli import main\n"
        "try: main()\n"
        "except SystemExit as ended: assert ended.code == 0\n"
        "print('modules:', *sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(run.stdout.rpartition("modules:")[2].split())
    assert {"aced", "typer"} <= loaded
    assert not loaded & {
        "torch",
        "open_clip",
        "torchvision",
        "timm",
        "numpy",
        "PIL",
        "pydantic",
        "matplotlib",
        "jinja2",
    }


def test_a_reader_that_leaves_is_no_error() -> None:
    command = f"{shlex.quote(sys.executable)} -c 'from aced.cli import main; main()' config | head -c 10"
    run = subprocess.run(["bash", "-c", command], capture_output=True, env=os.environ | {"COLUMNS": "200"})
    assert run.stderr == b""


def test_a_report_of_two_runs(cli: Cli, tmp_path: Path) -> None:
    for seed in (0, 1):
        words = ["data.scenes_size=400", "train.steps=2", "train.batch=16", "run.threads=1", f"run.seed={seed}"]
        ended = cli("train", "scenes", *words, f"run.out={tmp_path / 'runs [x]' / str(seed)}")
        assert ended.status == 0, ended.err
        assert "runs [x]" in ended.out  # a path's brackets are no markup
    page = tmp_path / "both.html"
    ended = cli("report", tmp_path / "runs [x]" / "0", tmp_path / "runs [x]" / "1", "--out", page)
    assert ended.status == 0, ended.err
    assert "IID" in ended.out
    assert page.read_text(encoding="utf-8").startswith("<!")
