from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aced.errors import AcedError
from aced.evaluate.evidence import Evidence, bootstrap, pack, standard_error, unpack
from wording import tells

RNG = np.random.default_rng


def sample(reduce: str, n: int = 40, seed: int = 0) -> Evidence:
    rng = RNG(seed)
    if reduce == "f1":
        true = rng.integers(0, 4, n)
        return Evidence("f1", np.where(rng.random(n) < 0.5, true, rng.integers(0, 6, n)), true)
    if reduce == "map":
        ranks = np.stack([rng.permutation(n) for _ in range(5)], axis=1)
        return Evidence("map", ranks, rng.random((n, 5)) < 0.3)
    groups = None if reduce == "mean" else rng.integers(0, 5, n)
    return Evidence(reduce, rng.random(n) < 0.6, groups)  # type: ignore[arg-type]


def by_loop(evidence: Evidence) -> float:
    """The score from its definition, sample by sample."""
    values, groups = evidence.values.tolist(), None if evidence.groups is None else evidence.groups.tolist()
    if evidence.reduce == "mean":
        return sum(values) / len(values)
    assert groups is not None
    if evidence.reduce == "map":
        total = 0.0
        classes = len(values[0])
        for k in range(classes):
            order = sorted(range(len(values)), key=lambda i: values[i][k])
            found, precisions = 0, []
            for place, i in enumerate(order, 1):
                if groups[i][k]:
                    found += 1
                    precisions.append(found / place)
            total += sum(precisions) / max(found, 1)
        return total / classes
    if evidence.reduce == "f1":
        scores = []
        for c in set(groups):
            tp = sum(p == c and t == c for p, t in zip(values, groups, strict=True))
            fp = sum(p == c and t != c for p, t in zip(values, groups, strict=True))
            fn = sum(p != c and t == c for p, t in zip(values, groups, strict=True))
            scores.append(2 * tp / (2 * tp + fp + fn))
        return sum(scores) / len(scores)
    means = [
        sum(v for v, g in zip(values, groups, strict=True) if g == group) / groups.count(group) for group in set(groups)
    ]
    return min(means) if evidence.reduce == "worst group" else sum(means) / len(means)


@pytest.mark.parametrize("reduce", ["mean", "mean of groups", "worst group", "f1", "map"])
@pytest.mark.parametrize("seed", range(3))
def test_scores_follow_their_definitions(reduce: str, seed: int) -> None:
    evidence = sample(reduce, seed=seed)
    assert evidence.score() == pytest.approx(by_loop(evidence), abs=1e-12)


@pytest.mark.parametrize("reduce", ["mean", "mean of groups", "worst group", "f1"])
def test_a_weight_is_a_number_of_copies(reduce: str) -> None:
    evidence = sample(reduce)
    weights = RNG(1).integers(0, 4, 40)
    copies = Evidence(
        evidence.reduce,
        evidence.values.repeat(weights),
        None if evidence.groups is None else evidence.groups.repeat(weights),
    )
    assert evidence.scorer()(weights.astype(float)) == pytest.approx(by_loop(copies), abs=1e-12)


def test_weights_of_0_leave_samples_out() -> None:
    evidence = sample("map")
    kept = RNG(2).random(40) < 0.5
    assert evidence.groups is not None
    part = Evidence("map", evidence.values[kept], evidence.groups[kept])
    assert evidence.scorer()(kept.astype(float)) == pytest.approx(by_loop(part), abs=1e-12)


def test_standard_errors() -> None:
    hits = RNG(0).random(400) < 0.3
    p = hits.mean()
    assert standard_error(Evidence("mean", hits)) == (pytest.approx(math.sqrt(p * (1 - p) / 400)), "binomial")
    # One group is the same thing by bootstrap; 500 resamples know it to about 3 percent.
    error, by = standard_error(Evidence("mean of groups", hits, np.zeros(400, int)))
    assert by == "bootstrap"
    assert error == pytest.approx(math.sqrt(p * (1 - p) / 400), rel=0.12)
    # Five captions that stand or fall with their image are one observation, not five.
    units = np.arange(400).repeat(5)
    error, _ = standard_error(Evidence("mean", hits.repeat(5), units=units))
    assert error == pytest.approx(math.sqrt(p * (1 - p) / 400), rel=0.12)


def test_the_bootstrap_is_paired_and_seeded() -> None:
    evidence = sample("mean", 100)
    better = Evidence("mean", np.where(np.arange(100) < 10, True, evidence.values))
    scores = bootstrap([evidence.scorer(), better.scorer(), evidence.scorer()], 100, resamples=50, seed=3)
    assert scores.shape == (50, 3)
    assert (scores[:, 0] == scores[:, 2]).all()
    assert (scores[:, 1] >= scores[:, 0]).all()
    assert (bootstrap([evidence.scorer()], 100, resamples=50, seed=3)[:, 0] == scores[:, 0]).all()
    assert (bootstrap([evidence.scorer()], 100, resamples=50, seed=4)[:, 0] != scores[:, 0]).any()


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(["mean", "mean of groups", "worst group", "f1", "map"]), st.integers(1, 70), st.integers(0, 9))
def test_packing_loses_nothing(reduce: str, n: int, seed: int) -> None:
    evidence = sample(reduce, n, seed)
    evidence = Evidence(evidence.reduce, evidence.values, evidence.groups, np.arange(n) // 2)
    back = unpack(json.loads(json.dumps(pack(evidence))), "here")
    for name in ("values", "groups", "units"):
        a, b = getattr(evidence, name), getattr(back, name)
        assert (a is None and b is None) or np.array_equal(a, b)
    assert back.score() == evidence.score()


def test_hits_are_packed_to_bits() -> None:
    assert len(json.dumps(pack(sample("mean", 8000)))) < 8000 / 8 * 4 / 3 + 300


def spoilt(**changes: Any) -> dict[str, Any]:
    packed = pack(sample("mean of groups"))
    for key, value in changes.items():
        packed["values"] = packed["values"] | {key: value}
    return packed


@pytest.mark.parametrize(
    ("packed", "words"),
    [
        (spoilt(dtype="object"), "object"),
        (spoilt(shape=[41]), "length"),
        (spoilt(shape=[1 << 40]), "large"),
        (spoilt(shape=[-8]), "large|length"),
        (spoilt(data="!"), "damaged"),
        (spoilt(data="AAAA"), "damaged"),
        ({"reduce": "magic"}, "'magic'"),
        (pack(sample("mean of groups")) | {"groups": None}, "groups"),
        (pack(sample("mean")) | {"values": None}, "values"),
        ({}, "damaged"),
    ],
)
def test_damaged_evidence_is_refused(packed: dict[str, Any], words: str) -> None:
    with pytest.raises(AcedError, match=words) as caught:
        unpack(packed, "task 'x'")
    assert tells(str(caught.value), "task 'x' … damaged")
