"""The concepts of photos: which classes count, and in what order."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import photo_concepts

NAMES = ["cat", "dog", "eel", "fox"]


@pytest.mark.parametrize(
    ("least", "most", "wanted"),
    [
        (0.25, 3, [["dog", "cat"], ["eel"]]),
        (0.25, 1, [["dog"], ["eel"]]),
        (0.01, 4, [["dog", "cat", "fox", "eel"], ["eel", "fox", "cat", "dog"]]),
        (0.9, 3, [["dog"], ["eel"]]),  # the likeliest counts whatever its probability
    ],
)
def test_the_likeliest_classes_first_and_only_likely_ones(least: float, most: int, wanted: list[list[str]]) -> None:
    probabilities = torch.tensor([[0.3, 0.5, 0.05, 0.15], [0.15, 0.05, 0.6, 0.2]])
    assert photo_concepts.tags(probabilities.log() + 7, NAMES, least, most) == wanted
