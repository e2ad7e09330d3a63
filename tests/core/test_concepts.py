"""The choice by concepts against the greedy definition, replayed in Python floats."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from aced.core.concepts import by_concepts

Sets = list[list[int]]
SETS = st.lists(st.lists(st.integers(0, 9), max_size=4, unique=True), min_size=1, max_size=14)


def table(sets: Sets) -> Tensor:
    width = max(1, *map(len, sets))
    # Ids are far apart and large, as hashes are.
    return torch.tensor([[7 + concept * 2**59 for concept in sorted(own)] + [-1] * (width - len(own)) for own in sets])


def gain(own: list[int], batch: Counter[int], frequency: Counter[int], target: float) -> float:
    """CABS-DM's gain of a pair; minus infinity for one without concepts."""
    if not own:
        return -math.inf
    parts = [-0.5 if batch[c] >= target else (target - batch[c]) / target + 1 / frequency[c] for c in own]
    return math.fsum(parts) / len(own)


@settings(max_examples=150, deadline=None)
@given(sets=SETS, data=st.data())
def test_diversity_takes_the_pair_with_the_largest_gain_each_time(sets: Sets, data: st.DataObject) -> None:
    size = data.draw(st.integers(1, len(sets)))
    rows = by_concepts(table(sets), size, "diversity").tolist()
    assert len(rows) == len(set(rows)) == size
    frequency = Counter(c for own in sets for c in own)
    target, batch = max(1.0, size / max(1, len(frequency))), Counter[int]()
    for place, row in enumerate(rows):
        gains = {i: gain(own, batch, frequency, target) for i, own in enumerate(sets) if i not in rows[:place]}
        best = max(gains.values())
        assert gains[row] >= best - 1e-9
        assert row == min(i for i, g in gains.items() if g == gains[row]) or gains[row] > -math.inf
        batch.update(sets[row])


@settings(max_examples=50, deadline=None)
@given(sets=SETS, data=st.data())
def test_frequency_takes_the_pairs_with_the_most_concepts_and_the_first_of_equal_ones(
    sets: Sets, data: st.DataObject
) -> None:
    size = data.draw(st.integers(1, len(sets)))
    rows = by_concepts(table(sets), size, "frequency").tolist()
    assert rows == sorted(range(len(sets)), key=lambda i: (-len(sets[i]), i))[:size]


def test_diversity_levels_the_concepts() -> None:
    common = [[0]] * 30 + [[1]] * 6 + [[2]] * 6
    assert Counter(common[i][0] for i in by_concepts(table(common), 18, "diversity").tolist()) == {0: 6, 1: 6, 2: 6}
    assert by_concepts(table([[0], [], [0]]), 3, "diversity").tolist() == [0, 2, 1]  # without concepts: last
    assert by_concepts(table([[], []]), 2, "diversity").tolist() == [0, 1]


@pytest.mark.parametrize("size", [0, 3])
def test_no_more_than_there_are(size: int) -> None:
    with pytest.raises(ValueError, match=f"cannot choose {size} of 2"):
        by_concepts(table([[0], [1]]), size, "diversity")
