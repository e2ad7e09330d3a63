"""Results of a loading process: equal on the other side, in one block of memory."""

from __future__ import annotations

import pickle
from dataclasses import replace

import pytest
import torch

from aced.pool.loader import handing
from aced.pool.source import Candidates, Fault
from aced.pool.views import View


def same(one: object, other: object) -> bool:
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return one.dtype == other.dtype and one.shape == other.shape and torch.equal(one, other)
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def table(count: int) -> Candidates:
    draw = torch.Generator().manual_seed(count)
    images = {View(side): torch.randint(256, (count, 3, side, side), generator=draw).to(torch.uint8) for side in (3, 5)}
    return Candidates(
        indices=torch.randperm(max(count, 1), generator=draw)[:count],
        texts=[f"caption {i}" for i in range(count)],
        images=images,
        faults=(Fault("a", "image_empty", "a: empty."),),
        coarse=torch.rand(count, generator=draw) < 0.5,
        columns={"rows": torch.rand(count, 2, 7, generator=draw), "ids": torch.ones(count, 9, dtype=torch.int32)},
        dropped=2,
    )


@pytest.mark.parametrize("count", [0, 1, 5])
def test_a_table_arrives_as_it_was_sent(count: int) -> None:
    sent = table(count)
    got = handing.loads(handing.dumps(sent))
    for name in Candidates.__dataclass_fields__:
        assert same(getattr(sent, name), getattr(got, name)), name


@pytest.mark.parametrize("result", [7, b"bytes", [torch.arange(3), {"a": torch.zeros(2, 0)}], torch.tensor(True), None])
def test_any_result_arrives(result: object) -> None:
    assert same(result, handing.loads(handing.dumps(result)))


def test_parts_and_views_take_no_more_than_their_own_room() -> None:
    whole = torch.arange(100_000)
    strided = torch.arange(20).reshape(4, 5).T
    content = handing.dumps([whole[3:7], strided])
    part, turned = handing.loads(content)
    assert torch.equal(part, whole[3:7])
    assert torch.equal(turned, strided)
    assert part.untyped_storage().nbytes() < 1000


def test_all_tensors_of_a_table_share_one_block() -> None:
    got = handing.loads(handing.dumps(table(6)))
    blocks = {values.untyped_storage().data_ptr() for values in got.tensors().values()}
    assert len(blocks) == 1


def test_captions_of_chosen_rows_are_handed_over_as_plain_ones() -> None:
    some = replace(table(6)[torch.tensor([4, 1])], faults=())
    assert pickle.loads(pickle.dumps(some.texts)) == ["caption 4", "caption 1"]
