"""The site of the documentation: what its hooks make of the tree, and that a strict build is one."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import aced

ROOT = Path(__file__).parents[1]
pytest.importorskip("mkdocstrings", reason="the site's packages are not installed: pip install '.[docs]'")
pytest.importorskip("mkdocs", reason="the site's packages are not installed: pip install '.[docs]'")


def hooks() -> ModuleType:
    spec = importlib.util.spec_from_file_location("site_hooks", ROOT / "docs/site_hooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def build(tree: Path, out: Path) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "mkdocs", "build", "--site-dir", str(out)]
    env = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(words, cwd=tree, env=env, capture_output=True, text=True)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """The files that the site is made of, to be spoilt."""
    copy = tmp_path / "tree"
    for name in ("docs", "examples", "src"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in (*ROOT.glob("*.md"), ROOT / "mkdocs.yml"):
        shutil.copy(path, copy)
    return copy


def test_the_python_reference_has_every_public_name() -> None:
    page = hooks().api_page(aced.__all__)
    for name in aced.__all__:
        assert name == "__version__" or f"aced.{name}" in page, name
    assert {"sigmoid", "softmax", "column_kd", "softmax_kd"} <= set(re.findall(r"heading: aced\.losses\.(\w+)", page))


@pytest.mark.parametrize("names", [[*aced.__all__, "no_such_name"], aced.__all__[:-1]])
def test_a_name_that_the_groups_lack_or_have_too_many_ends_the_build(names: list[str]) -> None:
    odd = "no_such_name" if "no_such_name" in names else aced.__all__[-1]
    with pytest.raises(Exception, match=rf"GROUPS .*\b{odd}\b"):
        hooks().api_page(names)


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("docs/howto/export.md", "howto/export.md"),
        ("docs/img/how.svg", "img/how.svg"),
        ("examples/own_loop.py", "examples/own_loop.md"),
        ("examples/tutorial.ipynb", "examples/tutorial.md"),
        ("CHANGELOG.md", "CHANGELOG.md"),
        ("README.md", "index.md"),
    ],
)
def test_files_of_the_tree_have_their_place_in_the_site(path: str, place: str) -> None:
    assert (ROOT / path).exists()
    assert hooks().site_place(path) == place


def test_a_notebook_is_a_page_with_its_texts_code_and_outputs(tmp_path: Path) -> None:
    outputs = [
        {"output_type": "stream", "text": ["3\n", "4\n"]},
        {"output_type": "display_data", "data": {"image/png": "QUJD\n", "text/plain": "<Figure>"}},
    ]
    cells = [
        {"cell_type": "markdown", "source": ["# Title\n", "words"]},
        {"cell_type": "code", "source": ["print(3)"], "outputs": outputs},
    ]
    file = tmp_path / "a.ipynb"
    file.write_text(json.dumps({"cells": cells}), encoding="utf-8")
    page = hooks().notebook_page(file)
    assert page.startswith("# Title\nwords\n\n```python\nprint(3)\n```\n\n```text\n3\n4\n```\n\n![")
    assert page.endswith("](data:image/png;base64,QUJD)\n")


@pytest.mark.slow
def test_the_site_builds_and_asks_nobody_for_anything(tmp_path: Path) -> None:
    run = build(ROOT, tmp_path / "site")
    assert run.returncode == 0, run.stdout + run.stderr
    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) > 35
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert not re.findall(r"""<(?:script|img|iframe|link)\b[^>]*\b(?:src|href)=["']?(?:https?:)?//""", text), (
            page.name
        )
    assert not re.search(r"@import|url\(.?https?:", (tmp_path / "site/assets/site.css").read_text(encoding="utf-8"))
    drawn = re.findall(
        r'<img [^>]*src="([^"]{22})', (tmp_path / "site/examples/tutorial.html").read_text(encoding="utf-8")
    )
    assert drawn.count("data:image/png;base64,") >= 5
    assert 'id="aced.api.train"' in (tmp_path / "site/api.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_dead_links_and_pages_outside_of_the_menu_end_the_build(tree: Path) -> None:
    spoilt = {
        "howto/export.md": "\n[a page](nowhere.md)\n[a heading](../guide.md#no-such-heading)\n",
        "nobody_links_here.md": "# A page that the menu lacks\n",
    }
    for name, text in spoilt.items():
        with (tree / "docs" / name).open("a", encoding="utf-8") as page:
            page.write(text)
    run = build(tree, tree.parent / "site")
    assert run.returncode != 0
    for word in ("nowhere.md", "no-such-heading", "nobody_links_here.md"):
        assert word in run.stdout + run.stderr
