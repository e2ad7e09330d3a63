"""The order by streams of tars: what it gives, what it leaves out, who reads what, and nothing but (seed, step)."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import aced.pool.orders.streams
from aced.errors import AcedError
from aced.pool.orders.plan import Plan

SIZES = (30, 10, 0, 45, 30, 30, 7, 30, 22, 30, 30, 1, 30)
"""295 pairs in 12 tars that have some."""


def tar_of(positions: torch.Tensor, sizes=SIZES) -> np.ndarray:
    return np.searchsorted(np.cumsum(sizes), positions.numpy(), side="right")


@st.composite
def plans(draw):
    """A plan that can be, with its sizes."""
    sizes = draw(st.lists(st.integers(0, 40), min_size=1, max_size=30))
    streams, each = draw(st.integers(1, 6)), draw(st.integers(1, 12))
    locality, seed = draw(st.sampled_from([1, 2, 3, 7, 100])), draw(st.integers(-5, 2**70))
    try:
        return Plan(sizes, streams * each, seed, locality, streams), sizes
    except AcedError as error:
        assert "data.streams" in str(error)  # noqa: PT017
        return None, sizes


@settings(max_examples=150, deadline=None)
@given(plans(), st.integers(0, 5))
def test_an_epoch_gives_each_pair_at_most_once_and_all_but_what_it_tells(made, epoch):
    plan, sizes = made
    if plan is None:
        return
    steps = range(epoch * plan.steps_per_epoch, (epoch + 1) * plan.steps_per_epoch)
    drawn = torch.cat([plan.indices(step) for step in steps])
    assert drawn.dtype == torch.int64
    assert len(drawn) == plan.steps_per_epoch * plan.batch == len(set(drawn.tolist()))
    assert 0 <= int(drawn.min()) <= int(drawn.max()) < sum(sizes) == plan.n
    assert plan.left_out == pytest.approx(1 - len(drawn) / plan.n)
    assert {plan.epoch_of(step) for step in steps} == {epoch} == set(plan.epochs(steps[-1]).tolist())


@settings(max_examples=100, deadline=None)
@given(plans())
def test_little_is_left_out_where_tars_are_alike(made):
    plan, sizes = made
    there = [size for size in sizes if size]
    if plan is None:
        return
    rest = len(there) % plan.streams
    most = plan.batch + rest * max(there) + plan.streams * (max(there) - min(there))
    assert plan.n - plan.steps_per_epoch * plan.batch < most


def test_equal_tars_that_the_streams_divide_leave_nothing_out():
    plan = Plan([50] * 12, 40, 0, 2, 4)
    assert plan.left_out == 0
    assert sorted(torch.cat([plan.indices(step) for step in range(15, 30)]).tolist()) == list(range(600))


@settings(max_examples=60, deadline=None)
@given(plans(), st.integers(0, 3), st.data())
def test_every_rank_reads_its_own_tars_only_and_visits_tell_which_and_when(made, epoch, data):
    plan, sizes = made
    if plan is None:
        return
    world = data.draw(st.sampled_from([w for w in range(1, plan.streams + 1) if plan.streams % w == 0]))
    begin, end = epoch * plan.steps_per_epoch, (epoch + 1) * plan.steps_per_epoch
    first = data.draw(st.integers(begin, end - 1))
    met: list[int] = []
    for rank in range(world):
        visits = list(itertools.takewhile(lambda v: v.first < end, plan.visits(rank, world, first)))
        assert [v.first for v in visits] == sorted(v.first for v in visits)
        assert all(begin <= v.first <= v.last < end and v.last >= first for v in visits)
        for step in range(first, end):
            own = plan.tars(step, rank, world)
            assert own == sorted(v.tar for v in visits if v.first <= step <= v.last)
            assert set(tar_of(plan.indices(step).tensor_split(world)[rank], sizes).tolist()) <= set(own)
        met += [v.tar for v in visits]
    assert len(met) == len(set(met))  # in the whole job once an epoch
    assert all(sizes[tar] for tar in met)


def test_a_visit_begins_and_ends_with_the_block_of_its_tar():
    plan = Plan([20] * 12, 8, 0, 3, 2)  # six tars a stream, in blocks of three: 60 pairs, which are 15 super-batches
    assert plan.steps_per_epoch == 30
    visits = list(itertools.islice(plan.visits(0, 1, 0), 24))
    spans = sorted({(v.first, v.last) for v in visits})
    assert spans == [(0, 14), (15, 29), (30, 44), (45, 59)]
    assert sorted(v.tar for v in visits[:12]) == list(range(12))
    later = list(itertools.islice(plan.visits(1, 2, 20), 3))
    assert {(v.first, v.last) for v in later} == {(15, 29)}  # that block is half read
    assert set(plan.tars(20, 1, 2)) == {v.tar for v in later}


def test_only_the_tars_of_a_block_are_mixed_and_they_are_mixed_well():
    plan = Plan([100] * 16, 20, 3, 4, 2)  # 10 pairs of each of two streams, out of 4 tars each
    for step in (0, 17, 39, 40, 79):
        tars = tar_of(plan.indices(step), [100] * 16)
        assert len(set(tars[:10])) <= 4
        assert set(tars[:10]).isdisjoint(tars[10:])
    steps = range(20)  # half of a block
    counts = np.bincount(np.concatenate([tar_of(plan.indices(step), [100] * 16) for step in steps]), minlength=16)
    assert ((counts > 30) & (counts < 70)).sum() == 8  # about half of each of its tars
    assert (counts == 0).sum() == 8


def test_epochs_deal_the_tars_anew_and_others_sit_out():
    plan = Plan([10] * 7, 6, 0, 1, 3)  # one of seven tars sits out
    epochs = [set(tar_of(torch.cat([plan.indices(10 * e + s) for s in range(10)]), [10] * 7)) for e in range(40)]
    assert {len(tars) for tars in epochs} == {6}
    assert set().union(*(set(range(7)) - tars for tars in epochs)) == set(range(7))
    firsts = {tuple(plan.tars(10 * e, 0, 3)) for e in range(40)}
    assert len(firsts) == 7  # any tar may come first in stream 0


def test_a_tar_meets_others_in_every_epoch_even_if_no_two_are_of_one_size():
    plan = Plan(range(50, 74), 8, 1, 2, 2)
    partners: set[int] = set()
    for epoch in range(60):
        begin, end = (e * plan.steps_per_epoch for e in (epoch, epoch + 1))
        own = {v.tar for v in itertools.takewhile(lambda v, end=end: v.first < end, plan.visits(0, 2, begin))}
        partners |= own if 0 in own else set()
    assert len(partners) == 23  # in its stream, all but the one that is next in size


def test_a_stream_does_not_read_tars_by_size():
    plan = Plan(range(50, 90), 8, 1, 1, 2)
    firsts = [plan.tars(epoch * plan.steps_per_epoch, 0, 2)[0] for epoch in range(60)]
    assert len(set(firsts)) > 20
    assert 13 < np.mean(firsts) < 26


def test_a_step_does_not_depend_on_what_was_asked_before():
    one = Plan(SIZES, 12, 5, 2, 3)
    run = [one.indices(step).tolist() for step in range(200)]
    list(itertools.islice(one.visits(0, 1, 77), 50))
    for step in (199, 0, 64, 63, 128, 31):
        assert one.indices(step).tolist() == run[step]
    resumed = Plan(SIZES, 12, 5, 2, 3)
    assert [resumed.indices(step).tolist() for step in range(150, 200)] == run[150:]
    assert Plan(SIZES, 12, 6, 2, 3).indices(0).tolist() != run[0]


def test_the_global_generator_is_left_alone():
    torch.manual_seed(1)
    state = torch.get_rng_state()
    Plan(SIZES, 12, 5, 2, 3).indices(40)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_far_step_costs_what_the_first_one_does(monkeypatch):
    calls: list[int] = []
    plain = aced.pool.orders.streams.permutation
    monkeypatch.setattr(aced.pool.orders.streams, "permutation", lambda n, words: (calls.append(n), plain(n, words))[1])
    for step in (0, 10**7):
        plan = Plan([100] * 1000, 80, 0, 4, 8)
        calls.clear()
        plan.indices(step)
        assert sorted(calls) == [400] * 8 + [1000, 1000]  # a block of each stream, and the deal of one epoch
    plan.indices(10**7 + 1)
    assert len(calls) == 10


def test_memory_is_that_of_the_blocks_that_are_read():
    plan = Plan([1000] * 10_000, 80, 0, 4, 8)
    for step in range(0, 2000, 40):
        plan.indices(step)
    kept = [mixed for _, _, mixed in plan._walks[0]._mixed.values()]
    assert sum(len(mixed) for mixed in kept) == 8 * 4000
    assert plan._walks[0]._dealt[0] == 0


def test_what_cannot_be_is_refused():
    with pytest.raises(AcedError, match=r"data\.streams = 3.* 16.*\b2, 4\b"):
        Plan([10] * 8, 16, 0, 1, 3)
    with pytest.raises(AcedError, match=r"data\.streams = 4.*\(3\)"):
        Plan([10, 0, 10, 10], 16, 0, 1, 4)
    with pytest.raises(AcedError, match=r" 8 .* 16.* 7 .*data\.streams"):
        Plan([7, 9, 0], 16, 0, 1, 2)
    with pytest.raises(AcedError, match="1"):
        Plan([10] * 8, 16, 0, 0, 4)
    with pytest.raises(ValueError, match="step"):
        Plan([10] * 8, 16, 0, 1, 4).indices(-1)
    with pytest.raises(ValueError, match="3 processes"):
        Plan([10] * 8, 16, 0, 1, 4).tars(0, 0, 3)
