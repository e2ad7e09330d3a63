"""What mkdocs adds to the pages of docs/: the Python reference, the examples, the notebook, and pages of the root.

`mkdocs.yml` names this file; `make docs` runs it. A name of `aced.__all__` that no group here has ends the build, and
so does a link to a file that is no page of the site.
"""

from __future__ import annotations

import inspect
import json
import posixpath
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

import aced

ROOT = Path(__file__).parents[1]
ROOT_PAGES = ("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")
GROUPS = {
    "Runs": ("train", "evaluate", "embed", "Trained", "Step", "StopTraining"),
    "Configs": ("load_config", "make_config", "Config"),
    "Data": ("open_shards", "PairSource", "Source", "Candidates", "Column", "Fault"),
    "Selection": ("select", "select_losses", "Selection", "Embeddings"),
    "Losses": ("losses",),
    "Models": ("load_tower", "save_tower", "own_tower", "Tower", "OwnTower"),
    "Methods": ("Method", "METHODS"),
    "Names of your own": (
        "register_method",
        "register_score",
        "register_loss",
        "register_distillation",
        "register_source",
        "register_tower",
        "register_architectures",
        "register_task",
        "register_tracker",
        "register_panel",
        "Panel",
    ),
    "Errors": ("AcedError",),
}
"""Every public name of `aced`, by what it is about."""
CALLED = ("train", "evaluate", "embed")
"""Names of packages, or of functions beside them, that are called: what they do is in `aced.api`."""
LOSSES = ("aced.core.losses", "aced.core.columns")
"""Where the functions of `aced.losses` are defined; it imports helpers from other modules."""
LANGUAGES = {".py": "python", ".sh": "sh"}
_LINK = re.compile(r"(\]\()(?![a-z]+:|#)([^)\s#]+)(#[^)\s]*)?(\))")


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the pages that are no files of docs/."""
    for name in ROOT_PAGES:
        files.append(_page(config, name, (ROOT / name).read_text(encoding="utf-8")))
    for path in sorted((ROOT / "examples").iterdir()):
        if path.suffix in LANGUAGES:
            files.append(_page(config, site_place(f"examples/{path.name}"), example_page(path)))
        elif path.suffix == ".ipynb":
            files.append(_page(config, site_place(f"examples/{path.name}"), notebook_page(path)))
    files.append(_page(config, "api.md", api_page(aced.__all__)))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let links between files of the repository lead to the pages of the site."""
    src = page.file.src_uri
    here = src if src in ROOT_PAGES or src.startswith("examples/") else f"docs/{src}"

    def moved(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(here), link[2]))
        place = posixpath.relpath(site_place(target), posixpath.dirname(src) or ".")
        return f"{link[1]}{place}{link[3] or ''}{link[4]}"

    return _LINK.sub(moved, markdown)


def site_place(path: str) -> str:
    """Where a file of the repository, by its path from the root, lies in the site."""
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    if path.startswith("examples/"):
        return posixpath.splitext(path)[0] + ".md"
    return "index.md" if path == "README.md" else path


def api_page(names: Iterable[str]) -> str:
    """The Python reference: mkdocstrings fills it from the docstrings.

    Raises:
        PluginError: a public name has no group, or a group names what is not public.
    """
    public, grouped = set(names) - {"__version__"}, [name for group in GROUPS.values() for name in group]
    if odd := sorted(public.symmetric_difference(grouped)):
        raise PluginError(f"docs/site_hooks.py: GROUPS and aced.__all__ differ in {', '.join(odd)}; mend GROUPS.")
    parts = [
        "# Python reference",
        "Every public name of `aced`, from its docstring. [From Python](python.md) shows how they go together; "
        "[Versions](versions.md) says what of them is stable.",
    ]
    for title, group in GROUPS.items():
        parts += [f"## {title}", *(part for name in group for part in _entries(name))]
    return "\n\n".join(parts) + "\n"


def _entries(name: str) -> Iterator[str]:
    """What mkdocstrings is asked for: an object where it is defined, under the name that it is used by."""
    found = getattr(aced, name)
    if name == "losses":
        yield "Each is a function of `aced.losses`; of several processes each gives its share of the batch."
        for key, one in vars(found).items():
            if inspect.isfunction(one) and not key.startswith("_") and one.__module__ in LOSSES:
                yield _entry(f"{one.__module__}.{key}", f"aced.losses.{key}")
    elif name == "METHODS":
        yield "### `aced.METHODS`\n\nThe table of methods by name: a mapping to `aced.Method`. " + (
            "[Its rows](reference.md#methods) are in the reference of commands."
        )
    elif name == "Config":
        yield _entry("aced.config.Config", "aced.Config", "members: false")
        yield "Its sections and keys are those of a run's file: [Keys of a run](reference.md#keys-of-a-run)."
    else:
        home = "aced.api" if name in CALLED else found.__module__
        yield _entry(f"{home}.{name}", f"aced.{name}")


def _entry(path: str, heading: str, *options: str) -> str:
    return "\n".join([f"::: {path}", "    options:", f"      heading: {heading}", *(f"      {one}" for one in options)])


def example_page(path: Path) -> str:
    """A script as a page."""
    return f"# `examples/{path.name}`\n\n```{LANGUAGES[path.suffix]}\n{path.read_text(encoding='utf-8')}```\n"


def notebook_page(path: Path) -> str:
    """A notebook as a page: its texts, its code, and what the cells gave when it was last executed."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    parts = []
    for cell in cells:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
        else:
            parts += [f"```python\n{source}\n```", *(part for out in cell["outputs"] for part in _output(out))]
    return "\n\n".join(parts) + "\n"


def _output(output: dict[str, Any]) -> Iterator[str]:
    data = output.get("data", {})
    if "image/png" in data:
        yield f"![What the cell drew](data:image/png;base64,{''.join(data['image/png']).strip()})"
    elif text := "".join(output.get("text", data.get("text/plain", ""))).rstrip():
        yield f"```text\n{text}\n```"


def _page(config: MkDocsConfig, place: str, content: str) -> File:
    return File.generated(config, place, content=content)
