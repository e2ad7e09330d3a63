"""The pages say what is so: commands parse, links lead somewhere, snippets run, lists are complete."""

from __future__ import annotations

import importlib
import importlib.util
import re
import shlex
import sys
import textwrap
import warnings
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import typer

import aced
from aced.cli import app
from aced.config import Config, describe_keys, load_config, recipes
from aced.core.score_models import SCORES
from aced.methods import METHODS
from aced.registry import plugins
from doc_pages import ROOT, script, text_of

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
GROUP: Any = typer.main.get_command(app)


def blocks(page: Path, language: str) -> list[str]:
    """The code blocks of a page, those of its lists too."""
    text = page.read_text(encoding="utf-8")
    found = re.findall(rf"^( *)```{language}\n(.*?)^\1```$", text, re.DOTALL | re.MULTILINE)
    return [textwrap.dedent(block) for _, block in found]


# --- commands -------------------------------------------------------------------------------------------------------


def commands() -> Iterator[Any]:
    """Every command line `aced ...` of the pages and of the recipes' comments, as words."""
    found = [(page.name, block) for page in PAGES for block in blocks(page, "sh")]
    for path in recipes().values():
        comment = [line[1:] for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
        found.append((path.name, "\n".join(line for line in comment if re.match(r"\s{3,}", line))))
    for where, block in found:
        for line in block.replace("\\\n", " ").splitlines():
            line = line.strip().removeprefix(".venv/bin/").partition("  #")[0]
            if line.startswith("aced ") and "[OPTIONS]" not in line:
                yield pytest.param(shlex.split(line)[1:], id=f"{where}: {' '.join(line.split())}")


@pytest.mark.parametrize("words", list(commands()))
def test_every_command_line_parses(words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if words == ["--help"]:
        return
    name, *rest = words
    context = GROUP.commands[name].make_context(name, rest)  # an unknown option or a missing argument is an error
    if name == "train":
        monkeypatch.chdir(tmp_path)
        own = next(block for block in blocks(ROOT / "docs/guide.md", "toml") if block.startswith("# my.toml"))
        (tmp_path / "my.toml").write_text(own, encoding="utf-8")
        overrides = [
            word.replace("$method", "aced").replace("$seed", "1") for word in context.params["overrides"] or []
        ]
        load_config(context.params["config"], overrides)
    if name == "demo" and context.params["methods"]:
        from aced.lab.demo.rows import choose_rows

        choose_rows(context.params["methods"])


def test_the_pages_name_every_command() -> None:
    text = text_of("README.md", "docs/guide.md")
    assert len(GROUP.commands) >= 6
    for name in GROUP.commands:
        assert f"aced {name}" in " ".join(text.split()), name


def test_there_are_commands_to_check() -> None:
    assert len(list(commands())) > 25


# --- completeness ---------------------------------------------------------------------------------------------------


def test_the_reference_page_is_what_the_code_says() -> None:
    page = script("docs/reference.py").page()
    assert text_of("docs/reference.md") == page, "run: python docs/reference.py"
    assert all(f"`{key}`" in page for key, _, _ in describe_keys())


def test_the_pages_name_every_method_and_section() -> None:
    method, guide = text_of("docs/method.md"), text_of("docs/guide.md")
    for name in (*METHODS, *SCORES):
        assert f"`{name}`" in method, name
    for section in Config.model_fields:
        assert f"`[{section}]`" in guide, section


def test_the_map_of_modules_is_what_the_modules_say() -> None:
    page = script("docs/map.py").page()
    assert text_of("docs/design.md") == page, "run: python docs/map.py"
    assert "selection_ranks.py" in page


# --- paths and names --------------------------------------------------------------------------------------------------

HISTORY = {"CHANGELOG.md", "LOG.md"}
"""Pages that tell of files that are gone."""


def missing_paths(text: str) -> list[str]:
    """Paths of the repository that a page names and that are not there; `file::name` names what a file defines."""
    found = re.findall(r"\b((?:src|tests|docs|examples|benchmarks)/[\w./-]*\w)(?:::(\w+))?", text)
    return [
        f"{path}::{name}" if name else path
        for path, name in found
        if not (ROOT / path).exists() or (name and not defines(ROOT / path, name))
    ]


def defines(file: Path, name: str) -> bool:
    """Whether a file defines a function, a class or a constant of this name."""
    return bool(re.search(rf"^(?:(?:def|class) {name}\b|{name}\b.*=)", file.read_text(encoding="utf-8"), re.MULTILINE))


def missing_names(text: str) -> list[str]:
    """Modules of the package that a page names, and what is in them, as far as there are none."""
    groups = {plugins.GROUP, plugins.COMMANDS}  # entry points, which no module needs to be called after
    return [name for name in sorted(set(re.findall(r"\baced(?:\.\w+)+", text)) - groups) if not is_there(name)]


def is_there(name: str) -> bool:
    """Whether a dotted name is a module, or an attribute of one; names of earlier versions are not."""
    found: Any = aced
    for end, part in enumerate(name.split(".")[1:], 2):
        if not hasattr(found, part):
            module = ".".join(name.split(".")[:end])
            with warnings.catch_warnings():
                warnings.simplefilter("error", FutureWarning)
                try:
                    importlib.import_module(module)
                except (ImportError, FutureWarning):
                    return False
            found = sys.modules[module]
        else:
            found = getattr(found, part)
    return True


@pytest.mark.parametrize("page", [page for page in PAGES if page.name not in HISTORY], ids=lambda page: page.name)
def test_paths_and_names_of_a_page_are_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert not missing_paths(text)
    assert not missing_names(text)


def test_what_is_not_there_is_found() -> None:
    text = (
        "`tests/test_docs.py::is_there`, `tests/test_docs.py::nowhere`, `src/aced/gone.py`, `aced.select`, `aced.x.y`"
    )
    assert missing_paths(text) == ["tests/test_docs.py::nowhere", "src/aced/gone.py"]
    assert missing_names(text + " aced.core.losses.sigmoid aced.towers") == ["aced.towers", "aced.x.y"]


# --- links and words ------------------------------------------------------------------------------------------------


def anchors(page: Path) -> set[str]:
    """The anchors that headings get, as GitHub makes them."""
    heads = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_images_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if re.match(r"https?://", target):
            continue
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        assert file.exists(), f"{page.name} links to {target}"
        if anchor:
            assert anchor in anchors(file), f"{page.name} links to {target}"


@pytest.mark.parametrize("image", sorted((ROOT / "docs/img").glob("*.svg")), ids=lambda image: image.name)
def test_images_are_svg_that_need_nothing_else(image: Path) -> None:
    tree = ElementTree.fromstring(image.read_text(encoding="utf-8"))
    assert tree.tag == "{http://www.w3.org/2000/svg}svg"
    assert not re.search(r"""(?:href|src)\s*=\s*["'](?!#)|url\((?!#)|@import""", image.read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_page_speaks_of_a_machine_or_a_workplace(page: Path) -> None:
    words = re.findall(r"/work/|/tmp/w|/home/|/root/|\bsubagent", page.read_text(encoding="utf-8"))
    assert not words


# --- snippets -------------------------------------------------------------------------------------------------------


def embed(model: torch.nn.Module, pairs: torch.Tensor) -> aced.Embeddings:
    """Embeddings of B pairs, `[B, 2, d]`."""
    sides = torch.nn.functional.normalize(model(pairs), dim=2)
    return aced.Embeddings(sides[:, 0], sides[:, 1], 10.0, -10.0)


def test_the_six_lines_of_the_readme_run() -> None:
    lines = next(block for block in blocks(ROOT / "README.md", "python") if "aced.select" in block)
    assert len(lines.splitlines()) == 6
    g = torch.Generator().manual_seed(0)
    student, teacher = torch.nn.Linear(8, 8), torch.nn.Linear(8, 12)
    scope: dict[str, Any] = {
        "aced": aced, "torch": torch, "student": student, "teacher": teacher, "g": g, "embed": embed,
        "superbatch": torch.randn(320, 2, 8, generator=g),
    }  # fmt: skip
    exec(lines, scope)
    assert len(set(scope["sel"].indices.tolist())) == 256
    assert student.weight.grad is not None
    assert student.weight.grad.abs().sum() > 0
    assert teacher.weight.grad is None


def test_the_example_is_short_and_runs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert len((ROOT / "examples/own_loop.py").read_text(encoding="utf-8").splitlines()) < 60
    example = script("examples/own_loop.py")
    for name, value in {"STEPS": 2, "SUPER_BATCH": 40, "BATCH": 8}.items():
        monkeypatch.setattr(example, name, value)
    example.main()
    assert capsys.readouterr().out.count("loss") == 2
