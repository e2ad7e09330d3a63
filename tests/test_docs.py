"""The pages say what is so: commands parse, links lead somewhere, snippets run, lists are complete."""

from __future__ import annotations

import importlib
import importlib.util
import json
import re
import shlex
import sys
import textwrap
import warnings
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
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
from aced.report.aggregate import Stat, stat
from wording import tells

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
GROUP: Any = typer.main.get_command(app)


def text_of(*names: str) -> str:
    return "\n".join((ROOT / name).read_text(encoding="utf-8") for name in names)


def script(path: str) -> ModuleType:
    """A script of the repository, as a module."""
    spec = importlib.util.spec_from_file_location(Path(path).stem + "_script", ROOT / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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


def test_what_the_results_say_of_the_demo_is_so() -> None:
    from aced.lab.demo.rows import FULL
    from aced.lab.scenes import DEFAULT_MIX, IMAGE_SIZE
    from aced.pool.source import SOUND_KINDS

    text = " ".join(text_of("docs/results.md").split())
    shares = DEFAULT_MIX.shares()
    assert f"a pool of {FULL.pool:,} noisy" in text
    assert f"{IMAGE_SIZE}-pixel scenes" in text
    assert f"near-copies of {DEFAULT_MIX.bases} scenes" in text
    assert 0.28 < shares["duplicate"] < 0.38  # "a third"
    assert 0.4 < 1 - sum(shares[kind] for kind in SOUND_KINDS) < 0.6  # "about half"


def test_the_table_of_costs_is_so() -> None:
    from aced.runs.ledger import flops_per_trained_sample

    def cost(ratio: float, *, scores: bool) -> float:
        return flops_per_trained_sample(
            filtering_ratio=ratio, reference=5.7, scores_student=scores, uses_reference=True, cached=True
        )

    assert cost(0.8, scores=False) == cost(0, scores=False) == 3
    for ratio, shown in ((0.5, "1.67"), (0.8, "2.67"), (0.9, "4.33")):
        assert f"{cost(ratio, scores=True) / 3:.2f}" == shown
        assert shown in text_of("docs/guide.md")
    assert "| 3 + 1/(1-f) | 2.67 |" in text_of("docs/cost.md")
    assert "2.67 times an IID step" in " ".join(text_of("README.md").split())


def test_the_readme_is_short_and_its_table_is_that_of_the_results() -> None:
    excerpt = script("docs/excerpt.py")
    assert text_of("README.md") == excerpt.page(), "run: python docs/excerpt.py"
    assert len(text_of("README.md").splitlines()) <= 150
    rows = excerpt.rows_of(text_of("README.md"), "results-table")
    assert {"IID", "Softmax-KD", "ACED", "CLIP filter with KD"} <= rows.keys()
    assert len(rows) <= 8
    evidence = text_of("docs/evidence.md").replace("**", "")
    for name, cells in rows.items():
        for head, cell in list(cells.items())[1:]:
            source = evidence if head.startswith("Photos") else text_of("docs/results.md")
            assert cell == "–" or f"| {cell} |" in source, (name, head)


class Photos:
    """Runs of a study on photos: averages by row and seed."""

    study = SimpleNamespace(seeds=[0, 1, 2])

    def __init__(self, **rows: list[float]) -> None:
        self.rows = {name.replace("_", " "): averages for name, averages in rows.items()}

    def stat(self, row: str, point: str) -> Stat | None:
        assert not point
        return stat(self.rows.get(row.replace("'", ""), []))


def test_the_readme_takes_scenes_and_photos_from_their_own_runs() -> None:
    heads = "| Method | Average, % | Loaded | FLOPs | Wall time |\n| --- | --: | --: | --: | --: |"
    rows = {"IID": 1, "ACED": 5, "IID at ACED's wall time": 2, "IID (lambda 4) at ACED's wall time": 3}
    lines = "\n".join(f"| {name} | {value}.0 ± 0.1 | 1k | 1G | 1 s |" for name, value in rows.items())
    photos = Photos(IID=[6, 7, 8], ACED=[9, 9, 9], IID_at_ACEDs_time=[8, 9, 10], H_ACID=[1, 2, 3])
    photos.rows["CLIP filter with KD"] = [20, 21, 22]
    photos.rows["CLIP filter with KD at ACEDs time"] = [30, 31]  # a seed is still missing
    table = script("docs/excerpt.py").table(f"<!-- demo-table -->\n{heads}\n{lines}\n<!-- /demo-table -->\n", photos)
    assert "| IID | 1.0 ± 0.1 | 3.0 ± 0.1 | 7.0 ± 1.0 | 9.0 ± 1.0 | 1k | 1G | 1 s |" in table
    assert "| ACED | 5.0 ± 0.1 | 5.0 ± 0.1 | 9.0 ± 0.0 | 9.0 ± 0.0 | 1k |" in table
    assert "| CLIP filter with KD | – | – | 21.0 ± 1.0 | – | – | – | – |" in table
    assert "| D-ACED | – | – | – | – | – | – | – |" in table


def test_latencies_are_ratios_within_one_run() -> None:
    latencies = script("docs/latencies.py")
    rows = [
        {
            "model": model,
            "tower": side,
            "runtime": runtime,
            "threads": 1,
            "multiply_adds": adds,
            "median": t,
            "low": t / 2,
            "high": 2 * t,
        }
        for model, adds, times in (("ViT-B-32", 10, (4.0, 2.0)), ("small", 1, (1.0, 0.8)))
        for side in ("image", "text")
        for runtime, t in zip(("eager", "compiled"), times, strict=True)
    ]
    assert latencies.compiled(rows)[1:] == [
        ["ViT-B-32", *["0.5 (0.12 to 2)"] * 2],
        ["small", *["0.8 (0.2 to 3.2)"] * 2],
    ]
    plain = [row for row in rows if row["runtime"] == "eager"]
    assert latencies.eager(plain)[2] == ["small", *["0.1", "0.25 (0.062 to 1)"] * 2]
    quicker = [row | {"threads": 2, "median": row["median"] / (4 if row["model"] == "small" else 2)} for row in plain]
    both = latencies.eager([*plain, *quicker])[2]
    assert (both[2][:4], both[3][:5]) == ("0.25", "0.12 ")  # each number of threads against its own
    with pytest.raises(ValueError, match="expected 1"):
        latencies.eager(plain[:-1])
    assert latencies.runtimes(rows)[2] == ["small", *["0.25 (0.062 to 1)", "0.2 (0.05 to 0.8)"] * 2]


def test_the_costs_in_the_decision_table_are_those_that_were_measured() -> None:
    rows = script("docs/excerpt.py").rows_of(text_of("docs/cost.md"), "bench-cheap")
    cheap = "ACED, `cascade=0.4 early reuse=400 unseen=predict refresh=0.3`"
    flops = {
        name: rows[name]["FLOPs"] for name in ("IID", "Columns-KD", "D-ACED, `early`", "I-ACED, `early`", "ACED", cheap)
    }
    page = text_of("README.md")
    for method, shown in (
        ("columns-kd", f"{flops['Columns-KD']} to {flops['D-ACED, `early`']}"),
        ("i-aced", flops["I-ACED, `early`"]),
        ("aced", flops["ACED"]),
        ("aced` with cheap", flops[cheap]),
    ):
        assert re.search(rf"^\| [^|]* \| `{re.escape(method)}[^|]*\| {re.escape(shown)} \|", page, re.MULTILINE), method


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


# --- scripts --------------------------------------------------------------------------------------------------------


def results(methods: dict[str, str], seeds: int = 3) -> dict[str, Any]:
    """A results.json of so many rows."""
    rows = [
        {
            "method": name,
            "title": title,
            "seed": seed,
            "average": 30.0 + 3 * number + seed,
            "tasks": {"shape": {"value": 0.3, "chance": 0.1, "n": 10, "metric": "acc1"}},
            "budgets": {"samples_trained": 640, "samples_loaded": 3200, "flops": 1e12, "seconds": 10.0 + number},
            "clean_share": 0.9,
        }
        for seed in range(seeds)
        for number, (name, title) in enumerate(methods.items())
    ]
    reference = {"average": 84.0, "tasks": {}, "train_seconds": 80.0, "train_flops": 2e12, "embed_seconds": 4.0}
    return {"rows": rows, "reference": reference, "environment": {"cpu": "some processor", "threads": 2, "torch": "2"}}


def test_a_table_is_filled_from_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, page = tmp_path / "results.json", tmp_path / "page.md"
    file.write_text(json.dumps(results({"iid": "IID", "aced": "ACED"})), encoding="utf-8")
    page.write_text("before\n<!-- demo-table -->\nold\n<!-- /demo-table -->\nafter\n", encoding="utf-8")
    monkeypatch.setattr("sys.argv", ["tables.py", str(file), str(page)])
    script("docs/tables.py").main()
    text = page.read_text(encoding="utf-8")
    assert text.startswith("before\n<!-- demo-table -->\n| Method |")
    assert text.endswith("<!-- /demo-table -->\nafter\n")
    assert "| ACED | 34.0 ± 1.0 | +3.0 | 90.0 % | 640 | 3.2k | 1T | 11 s |" in text
    assert tells(text, "3 seeds … 1 … 10.0 % … 84.0 %")
    assert tells(text, "80 s … 2T FLOPs … 4 s")
    assert "old" not in text


def test_tables_without_their_block_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, page = tmp_path / "results.json", tmp_path / "page.md"
    file.write_text(json.dumps(results({"iid": "IID"})), encoding="utf-8")
    page.write_text("nothing", encoding="utf-8")
    monkeypatch.setattr("sys.argv", ["tables.py", str(file), str(page)])
    with pytest.raises(SystemExit, match="block"):
        script("docs/tables.py").main()


def test_the_results_have_both_blocks() -> None:
    fill = script("docs/tables.py").fill
    for name in ("demo-table", "photos-table"):
        assert "| the table |" in fill(text_of("docs/results.md"), name, "| the table |")


def test_a_picture_of_a_terminal_shows_what_was_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    printed, out = tmp_path / "printed.txt", tmp_path / "terminal.svg"
    printed.write_text("\x1b[1mbold\x1b[0m <a & b>\n\n┃ 12.3 ┃\n", encoding="utf-8")
    monkeypatch.setattr("sys.argv", ["terminal.py", "aced config", str(printed), str(out)])
    script("docs/terminal.py").main()
    tree = ElementTree.fromstring(out.read_text(encoding="utf-8"))
    texts = [node.text for node in tree.iter("{http://www.w3.org/2000/svg}text")]
    assert texts == ["$ aced config", "bold <a & b>", "┃ 12.3 ┃"]


def test_the_picture_shows_every_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from aced.lab.demo.rows import ROWS

    file, out = tmp_path / "results.json", tmp_path / "demo.svg"
    file.write_text(json.dumps(results({row.name: row.title for row in ROWS.values()})), encoding="utf-8")
    monkeypatch.setattr("sys.argv", ["figures.py", str(file), str(out)])
    script("docs/figures.py").main()
    ElementTree.fromstring(out.read_text(encoding="utf-8"))
    for method in METHODS.values():
        assert f">{method.title}<" in out.read_text(encoding="utf-8")
    wanted = ["IID", "Softmax-KD"]
    monkeypatch.setattr("sys.argv", ["figures.py", str(file), str(out), "--methods", *wanted])
    script("docs/figures.py").main()
    shown = re.findall(r">([^<>]+)</text>", out.read_text(encoding="utf-8"))
    own = [
        title
        for title in shown
        if title in {row.title.replace(" at ACED's wall time", ", ACED's time") for row in ROWS.values()}
    ]
    assert sorted({title.partition(",")[0] for title in own}) == wanted
    monkeypatch.setattr("sys.argv", ["figures.py", str(file), str(out), "--methods", "IID", "Nix"])
    with pytest.raises(SystemExit, match="Nix"):
        script("docs/figures.py").main()
