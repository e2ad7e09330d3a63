import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aced.errors import AcedError
from aced.pool.orders.order import Order


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 200), st.data(), st.integers(-5, 2**70), st.integers(0, 4))
def test_an_epoch_gives_each_sample_at_most_once_and_all_but_the_rest(n, data, seed, epoch):
    batch = data.draw(st.integers(1, n))
    order = Order(n, batch, seed)
    per_epoch = n // batch
    steps = range(epoch * per_epoch, (epoch + 1) * per_epoch)
    drawn = torch.cat([order.indices(step) for step in steps])
    assert drawn.dtype == torch.int64
    assert len(drawn) == per_epoch * batch == len(set(drawn.tolist()))
    assert drawn.min() >= 0
    assert drawn.max() < n
    assert {order.epoch_of(step) for step in steps} == {epoch}


def test_whole_epochs_are_permutations_and_differ():
    order = Order(50, 50, seed=3)
    epochs = [order.indices(step).tolist() for step in range(4)]
    assert all(sorted(epoch) == list(range(50)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4
    assert list(range(50)) not in epochs


def test_the_rest_that_sits_out_changes_from_epoch_to_epoch():
    order = Order(11, 4, seed=0)
    left_out = [
        set(range(11)) - set(torch.cat([order.indices(2 * e), order.indices(2 * e + 1)]).tolist()) for e in range(40)
    ]
    assert all(len(rest) == 3 for rest in left_out)
    assert set().union(*left_out) == set(range(11))


def test_a_step_does_not_depend_on_what_was_asked_before():
    n, batch, steps = 103, 10, 57
    run = [Order(n, batch, 5).indices(step).tolist() for step in range(steps)]
    one = Order(n, batch, 5)
    assert [one.indices(step).tolist() for step in range(steps)] == run
    for step in (56, 0, 31, 9, 10, 55):
        assert one.indices(step).tolist() == run[step]
    resumed = Order(n, batch, 5)
    assert [resumed.indices(step).tolist() for step in range(33, steps)] == run[33:]


def test_seeds_give_other_orders_and_the_global_generator_is_left_alone():
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    first, second = Order(1000, 100, 0).indices(0), Order(1000, 100, 1).indices(0)
    assert torch.equal(torch.rand(1), expected)
    assert not torch.equal(first, second)


def test_writing_into_a_batch_does_not_change_the_order():
    order = Order(10, 5, 0)
    before = order.indices(0).tolist()
    order.indices(0).zero_()
    assert order.indices(0).tolist() == before


def test_impossible_sizes_are_refused():
    with pytest.raises(AcedError, match=r"super-batch of 11.*10 samples"):
        Order(10, 11, 0)
    with pytest.raises(AcedError, match="1"):
        Order(10, 0, 0)
    with pytest.raises(ValueError, match="step"):
        Order(10, 5, 0).indices(-1)
