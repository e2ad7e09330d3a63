"""The scores of DISSect and their fall against numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from aced.core.differential import clip_scores, differentials, largest
from aced.core.embeddings import Embeddings

SCORES = st.floats(0, 100, width=32)
PAIRS = st.lists(st.tuples(st.one_of(SCORES, st.just(float("nan"))), SCORES), min_size=1, max_size=20)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_score_is_a_hundred_cosines_and_never_negative(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    image, text = (F.normalize(torch.randn(40, 6, generator=generator)).to(dtype) for _ in range(2))
    found = clip_scores(Embeddings(image, text, scale=30.0, bias=-5.0))
    a, b = (side.double().numpy() for side in (image, text))
    np.testing.assert_allclose(found.numpy(), np.maximum(0, 100 * np.einsum("bd,bd->b", a, b)), atol=1e-4)
    assert found.dtype == torch.float32
    assert 5 < int((found == 0).sum()) < 35


@settings(max_examples=100, deadline=None)
@given(pairs=PAIRS)
def test_a_pair_without_a_past_is_an_average_one(pairs: list[tuple[float, float]]) -> None:
    past, now = np.array(pairs, dtype=np.float64).T
    found = differentials(torch.tensor(past, dtype=torch.float32), torch.tensor(now, dtype=torch.float32)).numpy()
    known = ~np.isnan(past)
    wanted = np.zeros(len(pairs))
    if known.any():
        # The authors': each score less its mean.
        wanted[known] = (past[known] - past[known].mean()) - (now[known] - now[known].mean())
    np.testing.assert_allclose(found, wanted, atol=1e-4)


@settings(max_examples=50, deadline=None)
@given(values=st.lists(st.integers(0, 5), min_size=1, max_size=20), data=st.data())
def test_the_largest_come_first_and_ties_in_their_order(values: list[int], data: st.DataObject) -> None:
    size = data.draw(st.integers(1, len(values)))
    rows = largest(torch.tensor(values, dtype=torch.float32), size).tolist()
    assert rows == sorted(range(len(values)), key=lambda row: (-values[row], row))[:size]


@pytest.mark.parametrize("size", [0, 4])
def test_a_size_that_is_not_there(size: int) -> None:
    with pytest.raises(ValueError, match=f"{size} of 3"):
        largest(torch.zeros(3), size)
