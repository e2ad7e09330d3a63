"""Streams over several sources with weights: shares, no repetition, own tars, and nothing but (seed, step)."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aced.errors import AcedError
from aced.pool.orders.mixed_plan import MixedPlan
from aced.pool.orders.mixture import PERIOD, Mixture

SIZES, TARS, WEIGHTS = (60, 0, 60, 50, 70, 60, *[100] * 12, 9, 90), (6, 12, 2), (1.0, 2.0, 0.3)
"""Sources of 300, 1,200 and 99 samples in 5, 12 and 2 tars; with four streams the last one's tars are shared."""
BATCH, STREAMS = 40, 4


def plan_of(seed: int = 0, batch: int = BATCH, streams: int = STREAMS) -> MixedPlan:
    return MixedPlan(SIZES, TARS, WEIGHTS, batch, seed, 2, streams)


def tar_of(positions: torch.Tensor, sizes=SIZES) -> np.ndarray:
    return np.searchsorted(np.cumsum(sizes), positions.numpy(), side="right")


def source_of(positions: torch.Tensor, sizes=SIZES, tars=TARS) -> np.ndarray:
    return np.repeat(np.arange(len(tars)), tars)[tar_of(positions, sizes)]


@st.composite
def cases(draw):
    sources = draw(
        st.lists(
            st.tuples(st.lists(st.integers(0, 80), min_size=1, max_size=8), st.floats(0.05, 20)), min_size=1, max_size=4
        )
    )
    streams, each = draw(st.integers(1, 6)), draw(st.integers(1, 10))
    sizes = [size for tars, _ in sources for size in tars]
    tars, weights = [len(tars) for tars, _ in sources], [weight for _, weight in sources]
    try:
        plan = MixedPlan(sizes, tars, weights, streams * each, draw(st.integers(0, 2**64)), 2, streams)
    except AcedError:
        return None
    return plan, sizes, tars, weights


@settings(max_examples=60, deadline=None)
@given(cases(), st.integers(0, 10**6))
def test_shares_are_those_of_a_mixture_and_no_sample_comes_twice_in_a_super_batch(case, start):
    if case is None:
        return
    plan, sizes, tars, weights = case
    totals = np.add.reduceat(sizes, np.cumsum([0, *tars])[:-1])
    mixture = Mixture([20_000] * len(tars), weights, plan.batch, 0)
    ends = np.cumsum([20_000] * len(tars))
    for step in range(start, start + PERIOD, 7):
        indices = plan.indices(step)
        assert len(indices) == len(set(indices.tolist())) == plan.batch == len(plan.epochs(step))
        assert 0 <= int(indices.min()) <= int(indices.max()) < sum(totals)
        found = np.bincount(source_of(indices, sizes, tars), minlength=len(tars))
        there = np.bincount(np.searchsorted(ends, mixture.indices(step).numpy(), side="right"), minlength=len(tars))
        assert found.tolist() == there.tolist()


@settings(max_examples=40, deadline=None)
@given(cases(), st.data())
def test_a_pass_gives_each_sample_at_most_once_and_leaves_out_what_is_told(case, data):
    if case is None:
        return
    plan, sizes, tars, _ = case
    source = data.draw(st.integers(0, len(tars) - 1))
    length, number = plan._passes[source], data.draw(st.integers(0, 5))
    if length > 300:
        return
    drawn = []
    for step in range(number * length, (number + 1) * length):
        own = source_of(plan.indices(step), sizes, tars) == source
        assert set(plan.epochs(step)[torch.from_numpy(own)].tolist()) <= {number}
        drawn += plan.indices(step)[torch.from_numpy(own)].tolist()
    assert len(set(drawn)) == len(drawn)
    n = sum(itertools.islice(sizes, sum(tars[:source]), sum(tars[: source + 1])))
    assert n - len(drawn) <= plan.left_out * n + 2 * plan.batch  # the average over a period's passes
    assert plan.steps_per_epoch == max(plan._passes)


@pytest.mark.parametrize("world", [1, 2, 4])
def test_every_rank_reads_its_own_tars_only_and_visits_tell_which_and_when(world):
    plan, first, end = plan_of(), 17, 400
    owner: dict[tuple[int, int], int] = {}
    for rank in range(world):
        visits = list(itertools.takewhile(lambda v: v.first < end, plan.visits(rank, world, first)))
        assert [v.first for v in visits] == sorted(v.first for v in visits)
        for step in range(first, end):
            own = plan.tars(step, rank, world)
            assert own == sorted(v.tar for v in visits if v.first <= step <= v.last)
            assert set(tar_of(plan.indices(step).tensor_split(world)[rank]).tolist()) <= set(own)
        for visit in visits:
            if visit.tar < 18:  # the last source has fewer tars than there are streams
                source = int(visit.tar >= 6)
                key = (visit.tar, visit.first // plan._passes[source])
                assert owner.setdefault(key, rank) == rank
                assert visit.first // plan._passes[source] == visit.last // plan._passes[source]
    assert {tar for tar, _ in owner} == set(range(18)) - {1}


def test_a_source_of_few_tars_is_read_by_all_streams():
    plan = plan_of()
    for rank in range(4):
        assert {18, 19} <= set(plan.tars(0, rank, 4))
    drawn = torch.cat([plan.indices(step) for step in range(plan._passes[2])])
    small = drawn[torch.from_numpy(source_of(drawn) == 2)].tolist()
    assert len(set(small)) == len(small) > 80


def test_a_step_does_not_depend_on_what_was_asked_before():
    one = plan_of(5)
    run = [(one.indices(step).tolist(), one.epochs(step).tolist()) for step in range(200)]
    for step in (199, 0, 64, 63, 128, 31):
        assert (one.indices(step).tolist(), one.epochs(step).tolist()) == run[step]
    assert [plan_of(5).indices(step).tolist() for step in range(190, 200)] == [indices for indices, _ in run[190:]]
    assert plan_of(6).indices(0).tolist() != run[0][0]


def test_sources_are_mixed_within_a_stream():
    for part in plan_of().indices(3).split(BATCH // STREAMS):
        assert np.abs(np.diff(source_of(part))).sum() > 2


def test_streams_have_alike_of_each_source():
    plan = plan_of()
    parts = [plan.indices(step).split(BATCH // STREAMS) for step in range(PERIOD)]
    counts = [np.bincount(source_of(torch.cat(own)), minlength=3) for own in zip(*parts, strict=True)]
    assert np.ptp(counts, axis=0).max() <= 4


def test_a_far_step_is_there_at_once():
    plan = plan_of()
    assert len(set(plan.indices(10**7).tolist())) == BATCH
    assert next(plan.visits(0, 1, 10**7)).last >= 10**7


def test_what_cannot_be_met_is_refused():
    with pytest.raises(AcedError, match=r"entry 3 of data\.shards.* 1[0-9] .* 2 streams.* 4 "):
        MixedPlan([100] * 8 + [4] * 2, [4, 4, 2], [1, 1, 1], 60, 0, 2, 2)
    with pytest.raises(AcedError, match=r"data\.streams = 7.* 40"):
        plan_of(streams=7)
    with pytest.raises(AcedError, match=r"3 sources.*2 weights"):
        MixedPlan(SIZES, TARS, (1, 1), 40, 0, 2, 2)
    with pytest.raises(AcedError, match="entry 2"):
        MixedPlan([100] * 8, [4, 4], [1, 1e-6], 40, 0, 2, 2)
