from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import report_fake

from aced.errors import AcedError
from aced.report import RunRecord, load_results, load_run, results_of, write_report
from aced.report.aggregate import group_rows
from aced.report.charts import series_styles
from aced.report.panels import accuracy_panels
from aced.runs.run_results import parse_results

VOID = {"meta", "link", "img", "br", "wbr"}


class Page(HTMLParser):
    """Collects what the tests ask about and checks that elements nest."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.html = html
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.texts.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", "".join(self.texts).replace("\u2060", ""))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]

    @property
    def sections(self) -> list[str | None]:
        return [attrs["id"] for attrs in self.all("section")]


def runs_of(folder: Path, results: dict[str, Any]) -> list[RunRecord]:
    return [load_run(folder / row["run"]) for row in results["rows"]]


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Page:
    folder = tmp_path_factory.mktemp("full")
    report_fake.make(folder, steps=100)
    results = load_results(folder)
    out = write_report(folder / "deep" / "report.html", results, runs_of(folder, results))
    assert out == folder / "deep" / "report.html"
    return Page(out.read_text(encoding="utf-8"))


def test_every_method_task_and_section_is_there(full: Page) -> None:
    for title, *_ in report_fake.METHODS.values():
        assert title in full.text
    for task in report_fake.TASKS:
        assert task in full.text
    assert full.sections == [*("results", "budgets", "tasks", "kinds", "scores", "losses", "phases", "pairs", "setup")]
    links = [str(a["href"]) for a in full.all("a")]
    assert links == [f"#{section}" for section in full.sections]
    assert "27.4 points" in full.text
    assert "some processor with a rather long name" in full.text
    assert "filtering_ratio = 0.8" in full.text


def test_nothing_is_fetched_and_nothing_is_run(full: Page) -> None:
    assert not re.search(r"https?://", full.html)
    assert not re.search(r"@import|url\((?!#)", full.html)
    assert full.all("script") == []
    for _, attrs in full.tags:
        for name in ("src", "href", "srcset", "action", "data"):
            value = attrs.get(name)
            assert value is None or value.startswith(("#", "data:"))
        assert not any(name.startswith("on") for name in attrs)


def test_foreign_text_is_escaped(full: Page) -> None:
    assert "<script>alert('x')</script>" in full.text
    assert "<script" not in full.html


def test_it_is_one_small_file_for_phones_and_screens(full: Page) -> None:
    assert len(full.html.encode()) < 2_000_000
    assert full.html.startswith("<!doctype html>")
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in full.all("meta")
    assert "prefers-color-scheme: dark" in full.html


def test_it_is_named_for_those_who_cannot_see_it(full: Page) -> None:
    for attrs in full.all("svg"):
        assert attrs.get("aria-hidden") == "true" or (attrs.get("role") == "img" and attrs.get("aria-label"))
    assert all(attrs.get("alt") for attrs in full.all("img"))
    ids = [attrs["id"] for _, attrs in full.tags if "id" in attrs]
    assert len(ids) == len(set(ids))


def test_numbers_of_the_table(tmp_path: Path) -> None:
    def row(method: str, title: str, seed: int, average: float, flops: float, task: float) -> dict[str, Any]:
        tasks = {"shape": {"value": task, "chance": 0.125, "n": 8}}
        budgets = {"samples_trained": 25_600, "flops": flops}
        return {
            "method": method,
            "title": title,
            "seed": seed,
            "average": average,
            "tasks": tasks,
            "budgets": budgets,
        }

    results = {
        "rows": [
            row("iid", "IID", 0, 28.0, 1e9, 0.28),
            row("iid", "IID", 1, 32.0, 1e9, 0.32),
            row("aced", "ACED", 0, 50.0, 2.7e9, 0.5),
            row("aced", "ACED", 1, 60.0, 2.7e9, 0.6),
        ],
        "reference": {"average": 84.3, "tasks": {"shape": {"value": 0.843}}, "train_flops": 1e12},
    }
    page = Page(write_report(tmp_path / "r.html", results, []).read_text(encoding="utf-8"))
    assert page.sections == ["results", "budgets", "tasks"]
    for text in ("30.0 ± 2.8", "55.0 ± 7.1", "+25.0", "2.70×", "2.7G", "25.6k", "84.3", "12.5", "1T"):
        assert text in page.text, text
    # Shading from chance (.125) to the reference (.843): (.55 - .125) / .718.
    assert "--h: 0.59" in page.html


def test_a_single_run(tmp_path: Path) -> None:
    report_fake.make(tmp_path, ["aced"], seeds=1, steps=50, reference=False)
    runs = [load_run(tmp_path / "runs/aced-s0")]
    page = Page(write_report(tmp_path / "r.html", results_of(runs), runs).read_text(encoding="utf-8"))
    assert page.sections == ["budgets", "tasks", "kinds", "scores", "losses", "phases", "pairs", "setup"]
    assert "ACED: seed 0" in page.text
    assert "Trained samples 3.2k" in page.text
    assert "vs IID" not in page.text


def test_lines_reach_the_final_score(tmp_path: Path) -> None:
    report_fake.make(tmp_path, ["aced"], seeds=1, steps=50)
    file = tmp_path / "runs/aced-s0/evals.jsonl"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:2]))
    row = load_results(tmp_path)["rows"][0]
    [group] = group_rows(parse_results({"rows": [row]}), [load_run(file.parent)])
    panels = accuracy_panels([group], series_styles([False]), None)
    assert len(panels) == 4
    # Two evaluations and the end: the line is drawn through three points.
    assert re.search(r'<path d="M [\d. ]+\nL [\d. ]+\nL [\d. ]+\n"', panels[0].svg)
    file.unlink()
    [group] = group_rows(parse_results({"rows": [row]}), [load_run(file.parent)])
    assert accuracy_panels([group], series_styles([False]), None) == []


def test_what_is_missing_leaves_no_heading(tmp_path: Path) -> None:
    options = {"kinds": False, "gallery": False, "evals": False, "reference": False}
    report_fake.make(tmp_path, ["iid"], seeds=1, steps=50, **options)
    run = load_run(tmp_path / "runs/iid-s0")
    page = Page(write_report(tmp_path / "r.html", results_of([run]), [run]).read_text(encoding="utf-8"))
    assert page.sections == ["losses", "phases", "setup"]
    for word in ("Reference", "Guessing", "sound", "None", "nan"):
        assert word not in page.text
    # Without run folders there are only the rows, here without any numbers; the page stands all the same.
    rows = {"rows": [{"method": "x"}, {"method": "y", "seed": 1}]}
    page = Page(write_report(tmp_path / "r.html", rows, []).read_text(encoding="utf-8"))
    assert page.sections == ["results"]


def test_unknown_kinds_and_phases_have_their_place(tmp_path: Path) -> None:
    report_fake.make(tmp_path, ["aced"], seeds=1, steps=50)
    file = tmp_path / "runs/aced-s0/metrics.jsonl"
    file.write_text(file.read_text().replace('"junk"', '"<odd>"').replace('"select"', '"far_away"'))
    runs = [load_run(file.parent)]
    page = Page(write_report(tmp_path / "r.html", results_of(runs), runs).read_text(encoding="utf-8"))
    assert "<odd>" in page.text
    assert "far away" in page.text


def test_a_diverged_run_still_gets_its_page(tmp_path: Path) -> None:
    report_fake.make(tmp_path, ["aced"], seeds=1, steps=50)
    file = tmp_path / "runs/aced-s0/metrics.jsonl"
    file.write_text(re.sub(r'"(contrastive|kd|loss|chosen)": -?\d[\d.]*', r'"\1": NaN', file.read_text()))
    runs = [load_run(file.parent)]
    page = Page(write_report(tmp_path / "r.html", results_of(runs), runs).read_text(encoding="utf-8"))
    assert "losses" not in page.sections
    assert "scores" not in page.sections


def test_a_page_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(AcedError, match="written"):
        write_report(tmp_path / "file" / "r.html", {"rows": [{"method": "x"}]}, [])
    with pytest.raises(AcedError, match="results"):
        write_report(tmp_path / "r.html", {"rows": []}, [])
