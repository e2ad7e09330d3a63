"""The choice by losses that are there already, beside the choice that computes them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

import aced


def embeddings(count: int, width: int, seed: int) -> aced.Embeddings:
    g = torch.Generator().manual_seed(seed)
    image, text = F.normalize(torch.randn(2, count, width, generator=g), dim=-1)
    return aced.Embeddings(image, text, 5.0, -2.0)


def losses(e: aced.Embeddings) -> torch.Tensor:
    """The sigmoid loss of each pair alone."""
    return F.softplus(-((e.image * e.text).sum(1) * e.scale + e.bias))


@pytest.mark.parametrize("score", ["learnability", "easy-reference", "hard-student"])
@pytest.mark.parametrize("temperature", [0.0, 0.3, 1.0, 4.0])
def test_it_chooses_what_select_chooses_from_the_same_losses(score: str, temperature: float) -> None:
    student, reference = embeddings(50, 6, 0), embeddings(50, 9, 1)
    options: dict[str, Any] = {"score": score, "temperature": temperature}
    want = aced.select(
        student, reference, 12, strategy="independent", generator=torch.Generator().manual_seed(2), **options
    )
    found = aced.select_losses(
        losses(student), losses(reference), 12, generator=torch.Generator().manual_seed(2), **options
    )
    assert found.indices.tolist() == want.indices.tolist()
    torch.testing.assert_close(found.scores, want.scores)
    torch.testing.assert_close(found.gains, found.scores[found.indices])
    assert found.sizes == (12,)
    assert found.chunk.tolist() == [0] * 12


def test_gradients_are_cut_and_halves_are_widened() -> None:
    student = torch.tensor([1.0, 3.0, 2.0], requires_grad=True)
    found = aced.select_losses(student, torch.tensor([0.5, 0.0, 0.0]).half(), 2, temperature=0)
    assert found.indices.tolist() == [1, 2]
    assert not found.scores.requires_grad
    assert found.scores.dtype == torch.float32


@pytest.mark.parametrize(
    ("student", "reference", "size", "options", "said"),
    [
        (None, [1.0], 1, {}, "student"),
        ([1.0], None, 1, {}, "reference"),
        ([1.0, 2.0], [1.0], 1, {}, "2 losses"),
        ([1.0], [1.0], 2, {}, "2 of 1"),
        ([1.0], [1.0], 0, {}, "0 of 1"),
        ([1.0, float("nan")], [1.0, 1.0], 1, {}, "sample 1"),
        ([[1.0]], [[1.0]], 1, {}, r"\[1, 1\]"),
        ([1.0], [1.0], 1, {"score": "diverse"}, "diverse"),
        ([1.0], [1.0], 1, {"score": "learnable"}, "learnability"),
        ([1.0], [1.0], 1, {"temperature": -1.0}, "temperature"),
    ],
)
def test_what_it_refuses(student: Any, reference: Any, size: int, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        aced.select_losses(*(v if v is None else torch.tensor(v) for v in (student, reference)), size, **options)
