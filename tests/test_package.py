"""What is built of the tree: every file of the package, one version everywhere, a wheel that works by itself."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

import aced

ROOT = Path(__file__).parents[1]
SKIPPED = shutil.ignore_patterns("__pycache__", "*.egg-info")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a wheel and an sdist of this tree."""
    pytest.importorskip("setuptools", reason="setuptools, which builds the package, is not installed")
    tree = tmp_path_factory.mktemp("tree")
    for name in ("src", "docs", "examples"):
        shutil.copytree(ROOT / name, tree / name, ignore=SKIPPED)
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy(path, tree)
    code = "from setuptools import build_meta as b; b.build_wheel('dist'); b.build_sdist('dist')"
    (tree / "dist").mkdir()
    subprocess.run([sys.executable, "-c", code], cwd=tree, check=True, capture_output=True)
    return tree / "dist"


def files() -> set[str]:
    """The files of the package, below src/."""
    found = (path for path in (ROOT / "src/aced").rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(ROOT / "src").as_posix() for path in found}


@pytest.mark.slow
def test_the_wheel_holds_every_file_of_the_package_and_nothing_else(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        about = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = Parser().parsestr(archive.read(about).decode("utf-8"))
        assert any(name.endswith("licenses/LICENSE") for name in archive.namelist())
    assert names == files()
    assert {Path(name).suffix for name in names} >= {".json", ".toml", ".html", ".css", ".txt", ".typed"}
    assert metadata["Version"] == aced.__version__
    assert metadata["Description-Content-Type"] == "text/markdown"


@pytest.mark.slow
def test_the_sdist_holds_the_tree(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {f"src/{name}" for name in files()} <= names
    assert names >= {"CHANGELOG.md", "SECURITY.md", "constraints.txt", "mkdocs.yml", "docs/img/how.svg"}
    assert not [name for name in names if "__pycache__" in name]


@pytest.mark.slow
def test_the_wheel_works_away_from_the_tree(built: Path, tmp_path: Path) -> None:
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    here = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    for expected, *words in (
        (str(tmp_path / "site"), "-c", "import aced; print(aced.__file__)"),
        ("siglip2-b32", "-m", "aced", "recipes"),
        ("columns-kd", "-m", "aced", "methods"),
    ):
        run = subprocess.run([sys.executable, *words], cwd=tmp_path, env=here, capture_output=True, text=True)
        assert expected in run.stdout, run.stderr


def test_one_version_is_named_everywhere() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    newest = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert project["version"] == aced.__version__
    assert f"\nversion: {aced.__version__}\n" in citation
    assert aced.__version__ in newest[:2]  # the first may be what is not released yet
