"""Least squares that forget, against numpy's, row by row."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from aced.core.embeddings import Embeddings
from aced.core.linear_fit import DECAY, RIDGE, LinearFit


def pairs(n: int, width: int, seed: int) -> Embeddings:
    g = torch.Generator().manual_seed(seed)
    image, text = (F.normalize(torch.randn(n, width, generator=g), dim=1) for _ in range(2))
    return Embeddings(image, text, 10.0, -10.0)


def seen_through(known: Embeddings, weights: Tensor) -> Embeddings:
    """What a model embeds that is linear in another one, of length 1 at most."""
    return Embeddings(known.image @ weights, known.text @ weights.flip(0), 10.0, -10.0)


def test_the_maps_are_those_of_weighted_least_squares() -> None:
    """Rows weighted by their age, and rows of zeros for the ridge, given to numpy's solver."""
    fit, turns = LinearFit(6, 3), 5
    known, wanted = [pairs(9, 6, i) for i in range(turns)], [pairs(9, 3, 50 + i) for i in range(turns)]
    for k, w in zip(known, wanted, strict=True):
        fit.update(k, w)
    for side, name in enumerate(("image", "text")):
        rows, targets = [np.sqrt(RIDGE) * np.eye(7)], [np.zeros((7, 3))]
        for age, (k, w) in enumerate(zip(reversed(known), reversed(wanted), strict=True)):
            weight = np.sqrt(DECAY**age)
            rows.append(weight * np.c_[getattr(k, name).numpy(), np.ones(9)])
            targets.append(weight * getattr(w, name).numpy())
        expected = np.linalg.lstsq(np.concatenate(rows), np.concatenate(targets), rcond=None)[0]
        np.testing.assert_allclose(fit.maps[side].numpy(), expected, atol=1e-5)


def test_what_is_linear_is_predicted_and_what_was_is_forgotten() -> None:
    g = torch.Generator().manual_seed(0)
    before, after = (0.2 * torch.randn(8, 5, generator=g) for _ in range(2))
    fit, new = LinearFit(8, 5), pairs(40, 8, 99)

    def error(weights: Tensor) -> float:
        image, text = fit.predict(new)
        expected = seen_through(new, weights)
        return max(float((image - expected.image).abs().max()), float((text - expected.text).abs().max()))

    for step in range(30):
        known = pairs(200, 8, step)
        fit.update(known, seen_through(known, before))
    assert error(before) < 0.02 < error(after)
    for step in range(100):
        known = pairs(200, 8, 100 + step)
        fit.update(known, seen_through(known, after))
    assert error(after) < 0.02 < error(before)


def test_a_prediction_is_nothing_at_first_and_never_longer_than_1() -> None:
    fit, known = LinearFit(8, 5), pairs(40, 8, 0)
    assert not any(side.any() for side in fit.predict(known))
    wanted = pairs(40, 5, 1)
    for _ in range(10):
        fit.update(known, Embeddings(5 * wanted.image, wanted.text, 1.0, 0.0))
    image, text = (side.norm(dim=1) for side in fit.predict(known))
    assert image.max() <= 1 + 1e-6
    assert image.min() > 0.5
    assert 0 < text.max() < 1


def test_state_goes_on_where_it_was() -> None:
    one, other = LinearFit(6, 3), LinearFit(6, 3)
    for i in range(3):
        one.update(pairs(9, 6, i), pairs(9, 3, 50 + i))
    other.load({name: tensor.clone() for name, tensor in one.tensors().items()})
    for fit in (one, other):
        for i in range(3, 6):
            fit.update(pairs(9, 6, i), pairs(9, 3, 50 + i))
    assert torch.equal(one.maps, other.maps)
    assert torch.equal(one.gram, other.gram)


@pytest.mark.parametrize("n", [5, 40])
def test_products_are_counted_as_the_counter_counts(n: int) -> None:
    """The solution of the equations is not among the operations that torch counts: the rest is."""
    fit, known, wanted = LinearFit(8, 5), pairs(n, 8, 0), pairs(n, 5, 1)
    with FlopCounterMode(display=False) as counter:
        fit.predict(known)
    assert counter.get_total_flops() == fit.predict_flops(n)
    with FlopCounterMode(display=False) as counter:
        fit.update(known, wanted)
    solving = fit.update_flops(0)
    assert solving > 0
    assert counter.get_total_flops() == fit.update_flops(n) - solving
