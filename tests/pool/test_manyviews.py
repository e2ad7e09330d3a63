"""Several views of each image: the crops, who sees which, and that all models see the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from aced.cache.making import EmbedSettings
from aced.cache.store import build_store
from aced.lab.scenes import make_pool
from aced.models import load_tower
from aced.pool.inmemory import InMemory
from aced.pool.manyviews import ManyViews, ViewedOrder, crops_of
from aced.pool.orders.order import Order
from aced.pool.views import View, crop_box


@pytest.mark.parametrize(("height", "width"), [(64, 64), (1, 1), (40, 200), (3, 2)])
def test_crops_lie_in_the_image_and_keep_its_aspect(height: int, width: int) -> None:
    boxes = [crop_box(crop, height, width) for crop in range(1, 50)]
    for top, left, tall, wide in boxes:
        assert 0 <= top <= top + tall <= height
        assert 0 <= left <= left + wide <= width
        assert 0.6 * height - 1 <= tall <= 0.9 * height + 1
        assert abs(tall / height - wide / width) <= 1 / min(height, width)
    if min(height, width) >= 40:
        assert len(set(boxes)) > 45
        assert crop_box(1, height, width) == boxes[0]


def test_a_crop_is_the_view_of_the_part() -> None:
    image = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    top, left, tall, wide = crop_box(4, 50, 70)
    for view in (View(16), View(16, "squash")):
        part = view.apply(image[top : top + tall, left : left + wide])
        assert np.array_equal(view.cropped(4).apply(image), part)
        assert not np.array_equal(part, view.apply(image))
        assert view.cropped(4).cropped(0) == view
    # A tower's fingerprint is made from this text.
    assert repr(View(16)) == repr(View(16, crop=3)) == "View(size=16, mode='shortest', interpolation='bicubic')"


def test_the_choice_is_a_pure_function_and_uniform() -> None:
    positions = torch.arange(40_000)
    crops = crops_of(positions, 3, 7, 5)
    assert torch.equal(crops[17:19], crops_of(positions[17:19], 3, 7, 5))
    counts = torch.bincount(crops, minlength=5)
    assert (counts - 8000).abs().max() < 6 * (8000 * 0.8) ** 0.5
    for other in (crops_of(positions, 3, 8, 5), crops_of(positions, 4, 7, 5), crops[torch.arange(1, 40_001) % 40_000]):
        assert abs(float((crops == other).float().mean()) - 0.2) < 0.015  # as of independent draws
    assert crops_of(positions, 0, 0, 1).max() == 0


def test_the_order_of_samples_does_not_depend_on_the_views() -> None:
    plain, viewed = Order(100, 30, 5), ViewedOrder(Order(100, 30, 5), 4)
    seen = set()
    for step in range(9):
        found = viewed.indices(step)
        assert torch.equal(found % 100, plain.indices(step))
        assert torch.equal(found // 100, crops_of(found % 100, 5, plain.epoch_of(step), 4))
        seen |= set((found // 100).tolist())
    assert seen == {0, 1, 2, 3}
    assert torch.equal(ViewedOrder(Order(100, 30, 5), 4).indices(8), found)


@pytest.mark.parametrize("in_memory", [False, True])
def test_samples_come_in_their_views_and_in_the_order_asked_for(in_memory: bool) -> None:
    pool = make_pool(60, 1)
    view = View(24)
    source = ManyViews(InMemory(pool, [view.cropped(k) for k in range(3)]) if in_memory else pool)
    indices = [5, 60 + 5, 120 + 7, 59, 60 + 0]
    found = source.read(indices, [view])
    assert found.indices.tolist() == [5, 5, 7, 59, 0]
    assert found.crops is not None
    assert found.crops.tolist() == [0, 1, 2, 0, 1]
    assert found.texts == [pool.captions[i] for i in (5, 5, 7, 59, 0)]
    for row, index in enumerate(indices):
        alone = pool.read([index % 60], [view.cropped(index // 60)]).images[view.cropped(index // 60)]
        assert torch.equal(found.images[view][row], alone[0])
    part = found[torch.tensor([2, 0])]
    assert part.crops is not None
    assert part.crops.tolist() == [2, 0]
    assert len(source.read([], [view])) == 0
    assert (len(source), list(source.keys), source.kinds) == (60, list(pool.keys), pool.kinds)


def test_faults_stay_with_their_samples() -> None:

    from run_fakes import with_holes

    source = ManyViews(with_holes(make_pool(30, 1), every=3))
    found = source.read([3, 30 + 4, 60 + 6, 7], [View(24)])
    assert found.indices.tolist() == [4, 7]
    assert found.crops is not None
    assert found.crops.tolist() == [1, 0]
    assert sorted(fault.name for fault in found.faults) == ["image_empty"] * 2


def test_the_cached_view_is_the_one_that_is_read(tmp_path: Path) -> None:
    pool, tower = make_pool(40, 1), load_tower("aced-demo-s", seed=1).eval()
    store = build_store(tmp_path, pool, tower, EmbedSettings("float32", views=3, micro_batch=16))
    found = ManyViews(pool).read([3, 40 + 3, 80 + 21, 40 + 39], [tower.view])
    live, cached = tower.score(found, 16), store.lookup(found.indices, found.crops)
    assert torch.allclose(cached.image, live.image, atol=1e-6)
    assert torch.allclose(cached.text, live.text, atol=1e-6)
    assert (cached.image[0] - cached.image[1]).abs().max() > 1e-3  # one sample, two views
    whole = store.lookup(found.indices)
    assert torch.equal(whole.image[0], cached.image[0])
    assert not torch.equal(whole.image[1], cached.image[1])
    image, text = tower.flops(12).image, tower.forward_flops(pool.captions) - tower.flops(12).image
    assert store.info.flops == pytest.approx(40 * (3 * image + text), rel=0.05)
