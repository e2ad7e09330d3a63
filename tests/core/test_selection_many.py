"""Many small draws at once against one after the other."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from aced.core.embeddings import Embeddings
from aced.core.selection import select
from aced.core.selection_many import learnability_small, reference_joint_many


def embeddings(count: int, seed: int) -> Embeddings:
    g = torch.Generator().manual_seed(seed)
    image = F.normalize(torch.randn(count, 24, generator=g), dim=1)
    text = F.normalize(image + 0.5 * torch.randn(count, 24, generator=g), dim=1)
    return Embeddings(image, text, 10.0, -5.0)


@pytest.mark.parametrize("counts", [[40], [40, 40, 40], [40, 25, 33]])
@pytest.mark.parametrize(("chunks", "temperature"), [(16, 1.0), (5, 0.5), (1, 1.0), (7, 0.0), (3, 4.0)])
@pytest.mark.parametrize("score", ["easy-reference", "diverse"])
def test_each_draw_is_the_single_one(counts: list[int], chunks: int, temperature: float, score: str) -> None:
    e = embeddings(sum(counts), 3)
    if (score, temperature) == ("diverse", 0.0):
        pytest.skip("nothing is unlike nothing: the first chunk of a draw without noise is a tie")
    how = {"chunks": chunks, "temperature": temperature, "score": score}
    many = reference_joint_many(
        e, counts, 20, generators=[torch.Generator().manual_seed(i) for i in range(len(counts))], **how
    )
    start = 0
    for i, count in enumerate(counts):
        one = e[start : start + count]
        g = torch.Generator().manual_seed(i)
        alone = select(None, one, 20, generator=g, **how)  # type: ignore[arg-type]
        assert many[i].tolist() == alone.indices.tolist()
        start += count


def test_too_few_candidates() -> None:
    with pytest.raises(ValueError, match="20 of 19 candidates"):
        reference_joint_many(
            embeddings(19, 0),
            [19],
            20,
            score="diverse",
            chunks=4,
            temperature=1.0,
            generators=[torch.Generator()],
        )


def test_a_score_of_both_models() -> None:
    with pytest.raises(ValueError, match="'learnability' is not one of the reference alone"):
        reference_joint_many(
            embeddings(30, 0),
            [30],
            20,
            score="learnability",
            chunks=4,
            temperature=1.0,
            generators=[torch.Generator()],
        )


@pytest.mark.parametrize(("chunks", "temperature"), [(16, 1.0), (5, 0.5), (1, 1.0), (7, 0.0), (3, 4.0)])
def test_a_draw_on_the_matrix_is_the_streamed_one(chunks: int, temperature: float) -> None:
    student, reference = embeddings(60, 1), embeddings(60, 2)
    how = {"chunks": chunks, "temperature": temperature}
    one = learnability_small(student, reference, 21, generator=torch.Generator().manual_seed(5), **how)  # type: ignore[arg-type]
    other = select(student, reference, 21, generator=torch.Generator().manual_seed(5), **how)  # type: ignore[arg-type]
    assert one is not None
    assert one.indices.tolist() == other.indices.tolist()
    assert one.chunk.tolist() == other.chunk.tolist()
    torch.testing.assert_close(one.gains, other.gains, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(one.scores, other.scores)


def test_scores_that_are_not_finite_are_left_to_select() -> None:
    broken = embeddings(30, 1)
    broken.image[3, 3] = torch.nan
    how = {"chunks": 4, "temperature": 1.0, "generator": torch.Generator()}
    assert learnability_small(broken, embeddings(30, 2), 5, **how) is None  # type: ignore[arg-type]
