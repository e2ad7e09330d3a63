"""Several sources with weights: shares, no repetition, and nothing but (seed, step)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aced.errors import AcedError
from aced.pool.orders.mixture import PERIOD, Mixture

SIZES, WEIGHTS, BATCH = (300, 1000, 50), (1.0, 2.0, 0.1), 40


def source_of(indices: torch.Tensor, sizes: tuple[int, ...] = SIZES) -> np.ndarray:
    return np.searchsorted(np.cumsum(sizes), indices.numpy(), side="right")


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(40, 400), st.floats(0.01, 100)), min_size=1, max_size=5),
    st.integers(1, 40),
    st.integers(0, 2**64),
    st.integers(0, 10**6),
)
def test_shares_are_the_weights_and_no_sample_comes_twice_in_a_super_batch(parts, batch, seed, start):
    sizes, weights = zip(*parts, strict=True)
    try:
        mixture = Mixture(sizes, weights, batch, seed)
    except AcedError as error:
        assert "64" in str(error)  # noqa: PT017
        return
    counts = np.zeros(len(sizes))
    each = []
    for step in range(start, start + PERIOD):
        indices = mixture.indices(step)
        assert len(indices) == len(set(indices.tolist())) == batch
        assert 0 <= int(indices.min()) <= int(indices.max()) < sum(sizes)
        each.append(np.bincount(source_of(indices, sizes), minlength=len(sizes)))
        counts += each[-1]
    assert np.abs(counts / (PERIOD * batch) - np.array(weights) / sum(weights)).max() <= 1 / (PERIOD * batch)
    assert np.allclose(counts / (PERIOD * batch), mixture.shares)
    assert (np.max(each, axis=0) - np.min(each, axis=0)).max() <= 1  # evenly, in every super-batch


def test_shares_approach_the_weights_at_every_length():
    mixture = Mixture(SIZES, WEIGHTS, BATCH, seed=0)
    share = np.array(WEIGHTS) / sum(WEIGHTS)
    drawn = np.zeros(3)
    for step in range(2 * PERIOD):
        drawn += np.bincount(source_of(mixture.indices(step)), minlength=3)
        assert np.abs(drawn / drawn.sum() - share).max() <= 1 / BATCH + 0.12 / (step + 1)


def test_a_pass_gives_each_sample_once_and_the_next_in_another_order():
    mixture = Mixture(SIZES, WEIGHTS, BATCH, seed=1)
    given_before: dict[tuple[int, int], list[int]] = {}
    for step in range(3 * mixture.steps_per_epoch):
        indices, passes = mixture.indices(step), mixture.epochs(step)
        assert len(passes) == BATCH
        for index, source, number in zip(indices.tolist(), source_of(indices), passes.tolist(), strict=True):
            given_before.setdefault((int(source), number), []).append(index)
    complete = 0
    for (source, number), samples in given_before.items():
        assert len(set(samples)) == len(samples)
        if (source, number + 1) in given_before:  # a whole pass leaves out less than a super-batch's share and one
            complete += 1
            most = int(np.ceil(mixture.shares[source] * BATCH)) + 1
            assert len(samples) > SIZES[source] - most
    assert complete >= 6
    first, second = given_before[1, 0], given_before[1, 1]
    assert first != second
    assert all((source, 2) in given_before for source in range(3))  # in an epoch each source is gone through


def test_a_step_does_not_depend_on_what_was_asked_before():
    one = Mixture(SIZES, WEIGHTS, BATCH, seed=5)
    run = [one.indices(step).tolist() for step in range(200)]
    for step in (199, 0, 64, 63, 128, 31):
        assert one.indices(step).tolist() == run[step]
    resumed = Mixture(SIZES, WEIGHTS, BATCH, seed=5)
    assert [resumed.indices(step).tolist() for step in range(150, 200)] == run[150:]
    assert Mixture(SIZES, WEIGHTS, BATCH, seed=6).indices(0).tolist() != run[0]


def test_sources_are_mixed_within_a_super_batch_and_the_global_generator_is_left_alone():
    torch.manual_seed(1)
    state = torch.get_rng_state()
    sources = source_of(Mixture((500, 500), (1, 1), 100, 0).indices(3), (500, 500))
    assert torch.equal(torch.get_rng_state(), state)
    assert np.abs(np.diff(sources)).sum() > 10  # not one source after the other
    assert sources.sum() == 50


def test_epochs_are_those_of_the_longest_pass():
    mixture = Mixture((100, 1000), (1, 1), 20, 0)
    assert mixture.steps_per_epoch == 100
    assert [mixture.epoch_of(step) for step in (0, 99, 100)] == [0, 0, 1]
    epochs = mixture.epochs(95)
    small = torch.from_numpy(source_of(mixture.indices(95), (100, 1000)) == 0)
    assert epochs[small].unique().tolist() == [9]
    assert epochs[~small].unique().tolist() == [0]


def test_weights_by_size_give_all_samples_alike():
    mixture = Mixture((300, 700), (300, 700), 50, 0)
    assert mixture.steps_per_epoch == 20
    drawn = torch.cat([mixture.indices(step) for step in range(20)])
    assert sorted(drawn.tolist()) == list(range(1000))


def test_what_cannot_be_met_is_refused():
    with pytest.raises(AcedError, match=r"entry 1 of data\.shards.* 20 .* 40 samples.* 19"):
        Mixture((19, 100), (1, 1), 40, 0)
    with pytest.raises(AcedError, match=r"entry 2 of data\.shards.*1e-06"):
        Mixture((100, 100), (1, 1e-6), 40, 0)
    with pytest.raises(AcedError, match=r"2 sources.*1 weights"):
        Mixture((100, 100), (1,), 40, 0)
    with pytest.raises(ValueError, match="step"):
        Mixture((100, 100), (1, 1), 40, 0).indices(-1)
