"""Figures on the pages are those of the results, and the scripts that write them do so."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from aced.methods import METHODS
from aced.report.aggregate import Stat, stat
from doc_pages import script, text_of
from wording import tells


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
