"""Output in narrow encodings, and files that are read and written as UTF-8 wherever `aced` runs."""

from __future__ import annotations

import ast
import io
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table

import aced
from aced.cli import cli_ending as ending
from aced.cli import main as run_main
from aced.config import load_config

ROOT = Path(__file__).parents[1]
PLACES = (Path(aced.__file__).parent, ROOT / "benchmarks", ROOT / "docs", ROOT / "examples")
SOURCES = sorted(path for place in PLACES for path in place.rglob("*.py"))


class Out(io.TextIOWrapper):
    """A stream that shows what was written to it."""

    def __init__(self, encoding: str, errors: str = "strict") -> None:
        self.raw_bytes = io.BytesIO()
        super().__init__(self.raw_bytes, encoding=encoding, errors=errors, write_through=True)

    @property
    def written(self) -> bytes:
        self.flush()
        return self.raw_bytes.getvalue()


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "koi8-r", "utf-8"])
@pytest.mark.parametrize("words", [("methods",), ("config",), ("status", "FOLDER"), ("train", "--help")])
def test_commands_end_well_whatever_the_encoding(
    encoding: str, words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "é ж ±"
    folder.mkdir()
    text = '[method]\nname = "iid"\n[run]\nseed = 0\n[train]\nsteps = 3\n'
    (folder / "config.toml").write_text(text, encoding="utf-8")
    out = Out(encoding)
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "argv", ["aced", *(str(folder) if word == "FOLDER" else word for word in words)])
    with pytest.raises(SystemExit) as ended:
        run_main()
    assert ended.value.code == 0
    shown = out.written.decode(encoding)
    assert shown
    if "FOLDER" in words:
        seen = "é ж ±".encode(encoding, "replace").decode(encoding)
        assert seen in shown


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
@pytest.mark.parametrize("errors", ["strict", "surrogateescape"])
def test_a_sentence_that_cannot_be_shown_is_shown_in_part(
    encoding: str, errors: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    err = Out(encoding, errors)
    monkeypatch.setattr(sys, "stderr", err)
    monkeypatch.setattr(sys, "argv", ["aced", "train", "ж±–.toml"])
    with pytest.raises(SystemExit) as ended:
        run_main()
    assert ended.value.code == 2
    shown = "ж±–.toml".encode(encoding, "replace").decode(encoding)
    assert shown in err.written.decode(encoding)
    assert err.written.count(b"\n") == 1


def test_a_name_that_is_no_utf_8_is_refused_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A run's config is UTF-8, and would name the folder."""
    folder = os.fsdecode(os.fsencode(tmp_path) + b"/run-\xff")
    words = ["train", "scenes", "method.name=iid", "data.scenes_size=100", "train.batch=8", "train.steps=1"]
    monkeypatch.setattr(sys, "argv", ["aced", *words, "run.threads=1", f"run.out={folder}"])
    with pytest.raises(SystemExit) as ended:
        run_main()
    assert ended.value.code == 2
    assert "UTF-8" in capfd.readouterr().err


def test_a_config_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_bytes(b'\xef\xbb\xbf[method]\nname = "iid"\n')
    assert load_config(str(tmp_path / "a.toml"), []).method.name == "iid"


def test_bytes_of_a_file_name_come_out_as_they_went_in(monkeypatch: pytest.MonkeyPatch) -> None:
    for encoding in ("utf-8", "ascii"):
        out = Out(encoding)
        monkeypatch.setattr(sys, "stdout", out)
        ending._forgive_output()
        print(b"a\xff\xfeb".decode("utf-8", "surrogateescape"), "\ud800", end="")
        assert out.written == b"a\xff\xfeb ?"


def test_closed_outputs_are_ones_that_nobody_reads(tmp_path: Path) -> None:
    """A status and no traceback, and none of the numbers 0 to 2 is a file of ours."""
    code = (
        "import os, sys\n"
        "from aced.cli import cli_ending as ending\n"
        "ending._forgive_output()\n"
        "taken = [os.fstat(number).st_rdev == os.stat(os.devnull).st_rdev for number in range(3)]\n"
        "print('words'); sys.stderr.write('words')\n"
        "sys.exit(7 if all(taken) else 8)\n"
    )
    env = os.environ | {"PYTHONPATH": str(Path(aced.__file__).parents[1])}
    ended = subprocess.run(
        ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", sys.executable, "-c", code], env=env, timeout=300
    )
    assert ended.returncode == 7


def test_tables_and_bars_of_an_ascii_terminal_are_ascii(monkeypatch: pytest.MonkeyPatch) -> None:
    out = Out("ascii")
    monkeypatch.setattr(sys, "stdout", out)
    ending._forgive_output()
    table = Table("± s.e.", title="a – b")
    table.add_row("1")
    Console().print(table)
    assert b"? s.e." in out.written
    assert out.written.count(b"?") == 2  # the box itself is drawn in other letters, not replaced


def text_files(tree: ast.AST) -> Iterator[ast.Call]:
    """Calls that open a file as text in the machine's own encoding."""
    for node in ast.walk(tree):
        # What comes by `**` may be an encoding.
        if isinstance(node, ast.Call) and not any(word.arg in ("encoding", None) for word in node.keywords):
            if isinstance(node.func, ast.Name) and node.func.id == "open" and "b" not in _mode(node, 1):
                yield node
            if isinstance(node.func, ast.Attribute) and _is_text(node, node.func):
                yield node


def _is_text(node: ast.Call, called: ast.Attribute) -> bool:
    if called.attr in ("read_text", "write_text"):
        return len(node.args) < 1 + (called.attr == "write_text")
    if called.attr in ("fdopen", "NamedTemporaryFile", "TemporaryFile"):
        return "b" not in _mode(node, int(called.attr == "fdopen"), "r" if called.attr == "fdopen" else "w+b")
    return called.attr == "open" and not _of_a_module(called) and "b" not in _mode(node, 0, "b")


def _mode(node: ast.Call, place: int, usual: str = "r") -> str:
    """The mode of an `open`, by position or by name; `usual` where there is none."""
    given = [word.value for word in node.keywords if word.arg == "mode"] + node.args[place : place + 1]
    return next((str(value.value) for value in given if isinstance(value, ast.Constant)), usual)


def _of_a_module(called: ast.expr) -> bool:
    """Whether it is tarfile's, gzip's, Pillow's or the system's `open`, which is none of text."""
    value = called.value if isinstance(called, ast.Attribute) else None
    return isinstance(value, ast.Name) and value.id in ("tarfile", "gzip", "Image", "os")


def test_the_search_for_text_files_sees_every_form() -> None:
    found = (
        """open(p); open(p, "w"); p.read_text(); p.write_text(x); p.open("a"); os.fdopen(1, "w"); open(p, mode="r")"""
    )
    fine = """open(p, "rb"); open(p, encoding="utf-8"); p.read_text("utf-8"); p.write_text(x, encoding="utf-8")
p.open("rb"); Image.open(p); tarfile.open(p, "w"); os.open(p, flags); p.read_bytes()"""
    assert len(list(text_files(ast.parse(found)))) == 7
    assert not list(text_files(ast.parse(fine)))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_every_text_file_has_its_encoding(path: Path) -> None:
    """Otherwise it is read and written by the locale: Latin-1 here, ASCII there."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert [f"line {node.lineno}" for node in text_files(tree)] == []
