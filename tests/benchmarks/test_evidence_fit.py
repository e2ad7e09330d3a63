"""The fit over references: it finds an optimum that is there, with an interval that holds, and none that is not."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "docs"))

import evidence_figures
import evidence_fit
import evidence_lines

XS = [0.0, 1.0, 1.8, 2.2, 2.6]
SIZES = {"aced-photo-xs": 2e6, "aced-photo-s": 8e6, "aced-photo-l": 80e6}
WORDS = {"aced-photo-xs": ", smaller student", "aced-photo-s": "", "aced-photo-l": ", larger student"}


def gains_of(rng: np.random.Generator, top: float, bend: float, noise: float) -> np.ndarray:
    """`[3, n]` gains on a parabola with its maximum at `top`."""
    return 3.0 + bend * (np.array(XS) - top) ** 2 + noise * rng.standard_normal((3, len(XS)))


def test_the_interval_of_an_optimum_holds_it_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    fits = [evidence_fit.fit_parabola(XS, gains_of(rng, 1.2, -2.0, 0.25)) for _ in range(600)]
    found = [(fit.top, fit.within) for fit in fits if fit.top is not None and fit.within is not None]
    assert len(found) > 580
    assert np.mean([top for top, _ in found]) == pytest.approx(1.2, abs=0.02)
    held = np.mean([low <= 1.2 <= high for _, (low, high) in found])
    assert 0.92 < held < 0.98
    spans = [high - low for _, (low, high) in found]
    assert 0.05 < np.median(spans) < 0.5


def test_no_optimum_is_found_where_none_can_be_told_or_none_lies_inside() -> None:
    rng = np.random.default_rng(1)
    lines = [evidence_fit.fit_parabola(XS, gains_of(rng, 0.0, 0.0, 0.3) + np.array(XS)) for _ in range(300)]
    assert np.mean([fit.top is not None for fit in lines]) < 0.05
    assert np.mean([fit.slope.mean for fit in lines]) == pytest.approx(1.0, abs=0.03)
    for top, bend in ((4.0, -2.0), (-1.0, -2.0), (1.2, 2.0)):
        fit = evidence_fit.fit_parabola(XS, gains_of(rng, top, bend, 0.01))
        assert (fit.top, fit.within) == (None, None)
        assert fit.curvature.mean == pytest.approx(bend, abs=0.05)


def test_what_a_parabola_leaves_over_is_told_from_what_seeds_differ_by() -> None:
    gains = gains_of(np.random.default_rng(2), 1.2, -2.0, 0.0)
    assert evidence_fit.fit_parabola(XS, gains).left_over == pytest.approx(0.0, abs=1e-9)
    bumps = np.array([0.0, 0.5, -0.5, 0.5, -0.5])  # of the references, the same with every seed
    left = evidence_fit.fit_parabola(XS, gains + bumps).left_over
    assert left is not None
    assert 0.2 < left < 0.5
    assert evidence_fit.fit_parabola(XS[:3], gains[:, :3]).left_over is None


@pytest.fixture
def ladder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> evidence_lines.Lines:
    """Gains of KD with an optimum that moves from student to student; of I-ACED with none. Students differ in IID."""
    monkeypatch.setattr(evidence_lines, "STUDIES", tmp_path)
    rng, lines, base = np.random.default_rng(3), [], []
    rows = random = ""
    for number, (student, word) in enumerate(WORDS.items()):
        own = {} if student == "aced-photo-s" else {"student.model": student}
        for method in ("KD", "I-ACED"):
            keys = {"method.name": method, **own}
            rows += f'[[rows]]\nname = "{method}{word}"\nkeys = {table(keys)}\n'
            for i, x in enumerate(XS):
                for seed in range(3):
                    gain = 3 - 2 * (x - 0.6 - 0.6 * number) ** 2 if method == "KD" else x
                    score = 10 * number + seed + gain + 0.05 * rng.standard_normal()
                    at = {"point": f"p{i}", "keys": {**keys, "reference.model": f"{{r}}/{i}"}}
                    lines.append({"row": f"{method}{word}", "seed": seed, "average": score, **at})
        random += f'[[rows]]\nname = "IID{word}"\nkeys = {table(own)}\n'
        base += [
            {"row": f"IID{word}", "point": "", "seed": seed, "average": 10 * number + seed, "keys": own}
            for seed in range(3)
        ]
    ends = "".join(f'[[points]]\nname = "p{i}"\nkeys = {{ "reference.model" = "{{r}}/{i}" }}\n' for i in range(len(XS)))
    for name, text, found in (("ladder", rows + ends, lines), ("students", random, base)):
        head = 'recipe = "photos"\nseeds = [0, 1, 2]\n'
        (tmp_path / f"{name}.toml").write_text(head + text, encoding="utf-8")
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(one) + "\n" for one in found), encoding="utf-8")
    models = {
        "students": {name: {"parameters": n, "flops": {"image": n, "text": 0}} for name, n in SIZES.items()},
        "references": {
            f"{{r}}/{i}": {"parameters": 1e6, "flops": {"image": 8e6 * 10**x, "text": 0}, "average": 14 + 10 * x}
            for i, x in enumerate(XS)
        },
    }
    (tmp_path / "models.json").write_text(json.dumps(models), encoding="utf-8")
    return evidence_lines.Lines("ladder")


def table(keys: dict[str, Any]) -> str:
    """A TOML inline table."""
    return "{ " + ", ".join(f'"{key}" = {json.dumps(value)}' for key, value in keys.items()) + " }"


def test_each_student_is_fitted_over_its_own_random_batches_and_ratio(ladder: evidence_lines.Lines) -> None:
    found = evidence_fit.Ladder(ladder)
    assert found.students == list(SIZES)
    for number, (student, size) in enumerate(SIZES.items()):
        gains = found.gains("KD", student, "p1")  # over its own random batches, not another student's
        assert list(gains) == [0, 1, 2]
        assert np.mean(list(gains.values())) == pytest.approx(3 - 2 * (1 - 0.6 - 0.6 * number) ** 2, abs=0.1)
        fit, scored = (found.fit("KD", student, axis) for axis in (0, 1))
        assert fit is not None
        assert scored is not None
        assert fit.top == pytest.approx(0.6 + 0.6 * number + np.log10(8e6 / size), abs=0.05)
        assert scored.top == pytest.approx(14 + 10 * (0.6 + 0.6 * number), abs=0.5)
        assert (none := found.fit("I-ACED", student, 0)) is not None
        assert none.top is None


def test_the_block_says_where_optima_are_and_whether_they_move(ladder: evidence_lines.Lines) -> None:
    text = evidence_fit.fits(ladder, ["KD", "I-ACED"])
    rows = [[cell.strip() for cell in line.strip("| ").split("|")] for line in text.splitlines() if line[:1] == "|"]
    tops = {(row[0], row[1]): row[7] for row in rows[:8] if row[0] in ("KD", "I-ACED")}
    assert tops["KD", "aced-photo-s"].startswith("15")  # 10^1.2 times
    assert tops["I-ACED", "aced-photo-s"] == tops["I-ACED", "aced-photo-l"] != tops["KD", "aced-photo-l"]
    moves = [line for line in text.splitlines() if line.startswith("- KD")]
    assert len(moves) == 2
    assert all("it moves" in line for line in moves)


def test_without_sizes_or_random_batches_there_is_no_fit(ladder: evidence_lines.Lines) -> None:
    (evidence_lines.STUDIES / "models.json").unlink()
    assert evidence_fit.fits(ladder, ["KD"]) == ""
    (evidence_lines.STUDIES / "students.jsonl").unlink()
    assert evidence_figures.capacity_chart(ladder, ["KD", "I-ACED"]) == ""


def test_the_picture_has_a_panel_a_method_and_a_row_a_student(ladder: evidence_lines.Lines) -> None:
    text = evidence_figures.capacity_chart(ladder, ["KD", "I-ACED", "KD, larger student"])
    assert [text.count(f">{word}</text>") for word in ("KD", "I-ACED", "KD, larger student")] == [1, 1, 0]
    assert [text.count(f">{name}</text>") for name in SIZES] == [2, 2, 2]
    assert text.count("±") == 2 * 3 * len(XS)


def test_references_are_listed_with_their_ratio_to_each_student(ladder: evidence_lines.Lines) -> None:
    lines = evidence_fit.references(ladder).splitlines()
    rows = [[cell.strip() for cell in line.strip("| ").split("|")] for line in lines if line[:1] == "|"]
    assert rows[2][:1] + rows[2][3:] == ["p0", "4×", "1×", "0.1×", "14.0"]
    assert len(rows) == 2 + len(XS)
