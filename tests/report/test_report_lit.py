"""The page about decoders: means over seeds, the best row, foreign text escaped, pictures side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from aced.lab.lit.lit_page import gallery_parts, grouped, score_tables, title_of, type_tables, write_lit_report


def results(method: str, seed: int, cider: float, accuracy: float) -> dict[str, Any]:
    scores = {"CIDEr-D": cider, "BLEU-4": cider / 2, "ROUGE-L": 0.5}
    return {
        "method": method,
        "tower": "aced-demo-s",
        "seed": seed,
        "decoder": {"layers": 2, "width": 128, "parameters": 1000, "vocabulary": 50},
        "training": {"steps": 10, "batch": 8, "lr": 1e-3, "beams": 4, "where": None},
        "data": ["scenes"],
        "tasks": [
            {
                "name": "captions <b>", "kind": "caption", "n": 7, "scores": scores, "constant": "a <i>dog</i>",
                "references": 4, "baselines": {"no image": {**scores, "CIDEr-D": 0.1}, "human": scores},
            },
            {
                "name": "questions", "kind": "vqa", "n": 9, "chance": 0.25, "scores": {"accuracy": accuracy},
                "constant": "yes", "baselines": {"no image": {"accuracy": 0.3 + 0.1 * seed}},
                "types": {"count": {"n": 9, "accuracy": accuracy, "no image": 0.5}},
            },
        ],
    }  # fmt: skip


RUNS = [results("iid", 0, 0.2, 0.4), results("iid", 1, 0.4, 0.6), results("aced", 0, 0.5, 0.3)]


def entry(key: str, written: str) -> dict[str, Any]:
    return {"task": "captions <b>", "key": key, "image": "data:image/png;base64,AA", "question": None,
            "written": written, "right": ["right"]}  # fmt: skip


def test_rows_are_means_over_seeds_and_the_best_is_marked() -> None:
    captions, questions = score_tables(grouped(RUNS))
    rows = {row["title"]: row["cells"] for row in captions["rows"]}
    assert rows["IID (aced-demo-s)"][0].text() == "0.300 ± 0.141"
    assert rows["ACED (aced-demo-s)"][0].text() == "0.500"
    assert (captions["best"], questions["best"]) == (1, 0)
    assert [row["title"] for row in questions["rows"] if row["baseline"]] == ["Decoder without images", "Chance"]
    assert questions["rows"][2]["cells"][0].mean == pytest.approx((0.3 + 0.4 + 0.3) / 3)
    assert captions["rows"][2]["cells"][0].text() == "0.100"  # a baseline that never differs has no spread


def test_sorts_of_questions_stand_beside_what_blind_guessing_gets() -> None:
    (table,) = type_tables(grouped(RUNS))
    assert table["titles"] == ["IID (aced-demo-s)", "ACED (aced-demo-s)"]
    assert [cell["stat"].mean for cell in table["rows"][0]["cells"]] == pytest.approx([0.5, 0.3])
    assert [cell["best"] for cell in table["rows"][0]["cells"]] == [True, False]


def test_the_same_picture_of_several_decoders_is_shown_once() -> None:
    (part,) = gallery_parts(["A", "B"], [[entry("1", "x"), entry("2", "y")], [entry("1", "z")]])
    assert [[text["text"] for text in one["texts"]] for one in part["pictures"]] == [["x", "z"], ["y"]]


def test_the_page_escapes_what_others_wrote(tmp_path: Path) -> None:
    galleries = [[entry("1", "<script>x</script>")], [], [entry("1", "fine & good")]]
    page = write_lit_report(tmp_path / "a/page.html", RUNS, galleries).read_text(encoding="utf-8")
    assert "<script" not in page
    assert "&lt;script&gt;x" in page
    assert "fine &amp; good" in page
    assert "a &lt;i&gt;dog" in page
    assert "http" not in page


def test_own_titles_group_the_rows(tmp_path: Path) -> None:
    assert list(grouped(RUNS, ["x", "y", "x"])) == ["x", "y"]
    assert title_of({"method": None, "tower": "ViT-B-32"}) == "ViT-B-32"
