"""Is there a best capacity of the reference for a student? Parabolas through gains over random batches.

For each seed a parabola goes through the gains at all references. Its curvature, and its slope at any place, are linear
in the gains, so Student's interval over seeds holds for them. There is an optimum where the curvature is below 0 beyond
its interval; the places at which the slope cannot be told from 0 are then an interval too (Fieller's), the optimum's.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import evidence_lines
import numpy as np
from evidence_lines import Lines, average, gain_text, half, markdown, separable

from aced.config import load_config
from aced.report.aggregate import Stat, stat
from aced.report.numbers import DASH, compact

STUDENTS = "students"
"""The study of random batches for each student."""
LEAST = 3
"""References that a parabola needs."""


@dataclass(frozen=True)
class Fit:
    """A parabola through the gains of one method and student.

    Attributes:
        references: how many there are.
        span: the least and the largest x.
        slope: in the middle of the span, by seed.
        curvature: the coefficient of x squared, by seed.
        top: where the mean parabola has its maximum; None without one that is told from 0 and lies in the span.
        within: the interval of the top, cut to the span; None as `top`.
        left_over: root mean square of what the mean parabola leaves of the mean gains; None where it goes through all.
    """

    references: int
    span: tuple[float, float]
    slope: Stat
    curvature: Stat
    top: float | None
    within: tuple[float, float] | None
    left_over: float | None


def fit_parabola(xs: Sequence[float], gains: np.ndarray) -> Fit:
    """Fit.

    Args:
        xs: `[n]`, n at least 3.
        gains: `[seeds, n]`.
    """
    low, high = min(xs), max(xs)
    middle = (low + high) / 2
    u = np.asarray(xs) - middle
    powers = np.stack([np.ones_like(u), u, u**2], axis=1)
    found = np.linalg.lstsq(powers, gains.T, rcond=None)[0]  # [3, seeds]
    slope, curvature = (stat(map(float, row)) for row in found[1:])
    assert slope is not None
    assert curvature is not None
    rest = gains.mean(axis=0) - powers @ found.mean(axis=1)
    left_over = float(np.sqrt(np.mean(rest**2))) if len(xs) > LEAST else None
    top, within = None, None
    if separable(curvature) and curvature.mean < 0:
        at = middle - slope.mean / (2 * curvature.mean)
        if low < at < high:
            ends = [middle + end for end in flat(found[1], found[2], half(curvature) / (curvature.std or math.inf))]
            top, within = at, (max(low, ends[0]), min(high, ends[1]))
    return Fit(len(xs), (low, high), slope, curvature, top, within, left_over)


def flat(slopes: np.ndarray, curvatures: np.ndarray, scale: float) -> tuple[float, float]:
    """Where the slope b + 2 c u cannot be told from 0, over seeds whose c is told from 0.

    Args:
        slopes, curvatures: `[seeds]`, b and c.
        scale: half an interval over its standard deviation.
    """
    b, c = float(slopes.mean()), float(curvatures.mean())
    k = scale**2
    if len(slopes) > 1 and math.isfinite(k):
        (v_b, v_bc), (_, v_c) = np.cov(slopes, curvatures)
    else:
        v_b = v_bc = v_c = 0.0
    # (b + 2 c u)^2 <= k (v_b + 4 u v_bc + 4 u^2 v_c), a parabola in u that opens upwards
    p, q, r = 4 * (c * c - k * v_c), 4 * (b * c - k * v_bc), b * b - k * v_b
    root = math.sqrt(max(0.0, q * q - 4 * p * r))
    return (-q - root) / (2 * p), (-q + root) / (2 * p)


def models() -> dict[str, Any]:
    """What `benchmarks/study_models.py` has found of references and students; empty where it has not run."""
    path = evidence_lines.STUDIES / "models.json"
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}


def flops(facts: Mapping[str, Any]) -> float:
    """Of a picture and a text together."""
    return float(facts["flops"]["image"] + facts["flops"]["text"])


class Ladder:
    """Gains over random batches of each method, student and reference.

    Args:
        lines: of a study whose points are references, and whose rows are methods with one of several students.

    Attributes:
        students: their names, the smallest first.
        methods: rows with the recipe's student.
        models: as `models` gives them.
    """

    def __init__(self, lines: Lines) -> None:
        self._lines, self._random = lines, Lines(STUDENTS)
        self.models = models()
        names = {self.student(lines, row.name) for row in lines.study.rows}
        known = self.models.get("students", {})
        self.students = sorted(names, key=lambda name: (known.get(name, {}).get("parameters", 0), name))
        self.methods = [row.name for row in lines.study.rows if "student.model" not in row.keys]

    def student(self, lines: Lines, row: str) -> str:
        """The student of a row: its own, or the recipe's."""
        keys = next(one.keys for one in lines.study.rows if one.name == row)
        own = {**lines.study.keys, **keys}.get("student.model")
        return str(own or load_config(lines.study.recipe).student.model)

    def row(self, method: str, student: str) -> str | None:
        """The row with the settings of another one (`method`, a row's name) and this student."""

        def others(keys: Mapping[str, Any]) -> dict[str, Any]:
            return {key: value for key, value in keys.items() if key != "student.model"}

        rows = self._lines.study.rows
        wanted = others(next(one.keys for one in rows if one.name == method))
        named = [one.name for one in rows if others(one.keys) == wanted]
        return next((name for name in named if self.student(self._lines, name) == student), None)

    def gains(self, method: str, student: str, point: str) -> dict[int, float]:
        """Points over random batches, by seed."""
        row = self.row(method, student)
        base = [one.name for one in self._random.study.rows if self.student(self._random, one.name) == student]
        if row is None or not base:
            return {}
        theirs = {one["seed"]: average(one) for one in self._random.of(base[0])}
        mine = {one["seed"]: average(one) for one in self._lines.of(row, point)}
        return {seed: mine[seed] - theirs[seed] for seed in sorted(mine.keys() & theirs.keys())}

    def x(self, student: str, point: str) -> tuple[float, float] | None:
        """Of a reference: the decimal logarithm of its FLOPs over the student's, and its score; None where unknown."""
        facts = self.models.get("references", {}).get(self._lines.study.points[point]["reference.model"])
        own = self.models.get("students", {}).get(student)
        return (math.log10(flops(facts) / flops(own)), float(facts["average"])) if facts and own else None

    def fit(self, method: str, student: str, axis: int) -> Fit | None:
        """Through the references that all seeds have; None with fewer than 3.

        Args:
            method, student: whose gains.
            axis: 0 for the ratio of FLOPs, 1 for the reference's score.
        """
        found = {point: self.gains(method, student, point) for point in self._lines.study.points}
        found = {point: gains for point, gains in found.items() if gains and self.x(student, point)}
        seeds = sorted(set.intersection(*map(set, found.values()))) if found else []
        if len(found) < LEAST or not seeds:
            return None
        xs = [place[axis] for point in found if (place := self.x(student, point))]
        return fit_parabola(xs, np.array([[gains[seed] for gains in found.values()] for seed in seeds]))


AXES = (
    ("FLOPs of the reference over the student's", "tenfold", lambda x: f"{compact(10**x)}×"),
    ("Zero-shot average of the reference, %", "10 points", lambda x: f"{x:.1f}"),
)
"""Of each axis, its name, the unit of slopes, and how a place on it is written."""


def fits(lines: Lines, methods: Sequence[str]) -> str:
    """Parabolas of each method and student against both axes, and whether optima move from student to student."""
    ladder = Ladder(lines)
    texts = []
    for axis, (title, unit, write) in enumerate(AXES):
        scale = (1.0, 10.0)[axis]
        heads = [title, "student", "references", "from", "to", f"slope per {unit}", "curvature", "optimum", "left over"]
        found, moves = [heads], []
        for method in methods:
            own = {student: ladder.fit(method, student, axis) for student in ladder.students}
            known = {student: fit for student, fit in own.items() if fit}
            for student, fit in known.items():
                steep, bent = scaled(fit.slope, scale), scaled(fit.curvature, scale**2)
                ends = [write(x) for x in fit.span]
                rest = DASH if fit.left_over is None else f"{fit.left_over:.1f}"
                found.append(
                    [method, student, str(fit.references), *ends, told(steep), told(bent), optimum(fit, axis), rest]
                )
            if known:
                moves.append(f"- {method}: {moved(known)}\n")
        if len(found) > 1:
            texts.append(markdown(found, texts=2) + "\n" + "".join(moves))
    return "\n".join(texts)


def references(lines: Lines) -> str:
    """The references of a ladder: FLOPs of a pair over each student's, parameters and score."""
    ladder = Ladder(lines)
    known, students = ladder.models.get("references", {}), ladder.models.get("students", {})
    own = [name for name in ladder.students if name in students]
    heads = ["", "parameters", "FLOPs a pair", *(f"over {name}" for name in own), "average, %"]
    found = [heads]
    for point, keys in lines.study.points.items():
        if facts := known.get(keys["reference.model"]):
            ratios = [AXES[0][2](math.log10(flops(facts) / flops(students[name]))) for name in own]
            sizes = [compact(facts["parameters"]), compact(flops(facts))]
            found.append([point, *sizes, *ratios, f"{facts['average']:.1f}"])
    command = f"`python benchmarks/study_models.py benchmarks/studies/{lines.study.name}.toml`"
    note = f"\nFLOPs of a picture and a text of full length. {command}, with the places [here](#how-to-run-it-again).\n"
    return markdown(found) + note if len(found) > 1 else ""


def scaled(one: Stat, by: float) -> Stat:
    """In another unit."""
    return Stat(one.mean * by, None if one.std is None else one.std * by, one.n)


def told(one: Stat) -> str:
    """Mean and half an interval, in bold where it leaves 0 out."""
    if one.std is None:
        return gain_text(one)
    text = f"{one.mean:+.1f} (± {half(one):.1f})".replace("-", "−")
    return f"**{text}**" if separable(one) else text


def optimum(fit: Fit, axis: int) -> str:
    """Where it is, with its interval."""
    if fit.top is None or fit.within is None:
        return "none inside the range"
    at, low, high = (AXES[axis][2](x) for x in (fit.top, *fit.within))
    return f"{at} ({low} to {high})"


def moved(fits_: Mapping[str, Fit]) -> str:
    """Whether the optima of students are apart."""
    within = {student: fit.within for student, fit in fits_.items() if fit.within}
    if len(within) < 2:
        return f"an optimum can be told for {len(within)} of {len(fits_)} students, so whether it moves cannot be told."
    apart = max(low for low, _ in within.values()) > min(high for _, high in within.values())
    of = f"the intervals of the optima of {len(within)} of {len(fits_)} students"
    return f"{of} {'do not all overlap: it moves' if apart else 'overlap: no move can be told'}."
