"""Candidates in parts: the rows that indexing gives, and images that are not copied."""

from __future__ import annotations

import pytest
import torch

from aced.pool.source import Candidates
from aced.pool.views import View

VIEW, OTHER = View(4, "shortest", "bicubic"), View(6, "squash", "bilinear")


def candidates(count: int, *, crops: bool = True, views: tuple[View, ...] = (VIEW, OTHER)) -> Candidates:
    generator = torch.Generator().manual_seed(count)
    images = {
        view: torch.randint(256, (count, 3, view.size, view.size), generator=generator).to(torch.uint8)
        for view in views
    }
    rows = torch.arange(count)
    texts, coarse = [f"text {i}" for i in range(count)], rows % 2 == 0
    return Candidates(10 * rows, texts, images, crops=rows % 3 if crops else None, coarse=coarse if crops else None)


@pytest.mark.parametrize("size", [1, 3, 7, 50])
@pytest.mark.parametrize(("crops", "views"), [(True, (VIEW, OTHER)), (False, (VIEW,)), (True, ())])
def test_parts_are_consecutive_rows(size: int, crops: bool, views: tuple[View, ...]) -> None:
    whole = candidates(7, crops=crops, views=views)
    parts = whole.split(size)
    for part, rows in zip(parts, torch.arange(7).split(size), strict=True):
        want = whole[rows]
        assert part.texts == want.texts
        assert torch.equal(part.indices, want.indices)
        assert part.images.keys() == want.images.keys()
        assert all(torch.equal(part.images[view], want.images[view]) for view in views)
        assert (part.crops is None) == (want.crops is None) == (not crops)
        for mine, theirs in ((part.crops, want.crops), (part.coarse, want.coarse)):
            assert (mine is None) == (theirs is None)
            assert mine is None or theirs is None or torch.equal(mine, theirs)


def test_parts_copy_no_image() -> None:
    whole = candidates(7)
    for part in whole.split(3):
        assert part.images[VIEW].untyped_storage().data_ptr() == whole.images[VIEW].untyped_storage().data_ptr()


def test_nothing_has_no_parts() -> None:
    assert candidates(0).split(4) == []


def test_rows_come_in_the_order_given() -> None:
    whole = candidates(5)
    some = whole[torch.tensor([4, 0, 4])]
    assert some.texts == ["text 4", "text 0", "text 4"]
    assert torch.equal(some.images[OTHER], whole.images[OTHER][[4, 0, 4]])
