"""What refuses an update, and the factor that keeps gradients within fp16: on the device, and read late."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from aced.errors import AcedError
from aced.train.guard import Guard
from aced.train.lossscale import LossScale
from aced.train.replica import UpdateVerdict

CPU, YES, NO = torch.device("cpu"), torch.tensor(True), torch.tensor(False)
VERDICTS = {refused: UpdateVerdict(torch.tensor(refused), NO, NO, torch.ones(())) for refused in (True, False)}


def note(guard: Guard, step: int, loss: float, *, refused: bool = False) -> None:
    guard.note(step, torch.tensor(loss), torch.tensor(2.0 * loss), VERDICTS[refused])


def test_a_refused_step_ends_the_run_at_once_where_nothing_is_late() -> None:
    guard = Guard()
    assert math.isnan(guard.loss)
    note(guard, 1, 3.0)
    assert guard.loss == 3.0
    with pytest.raises(AcedError, match=r"^Step 2: .* 7 .* 14"):
        note(guard, 2, 7.0, refused=True)
    assert guard.first_refused() == 2


def test_scores_that_are_not_finite_have_a_reason_of_their_own() -> None:
    guard = Guard()
    with pytest.raises(AcedError, match=r"^Step 3: .*cache"):
        guard.note(3, torch.ones(()), torch.ones(()), UpdateVerdict(YES, YES, NO, torch.ones(())))


def test_a_refused_step_is_noticed_one_step_later_under_its_own_number() -> None:
    guard = Guard(behind=1)
    note(guard, 11, 3.0)
    note(guard, 12, 4.0, refused=True)
    assert guard.loss == 3.0
    with pytest.raises(AcedError, match=r"^Step 12: "):
        note(guard, 13, 5.0, refused=True)
    with pytest.raises(AcedError, match=r"^Step 12: "):  # and says so as often as it is asked
        guard.settle()
    assert guard.first_refused() == 12


def test_what_is_settled_is_known_to_be_good() -> None:
    guard = Guard(behind=1)
    for step in (1, 2):
        note(guard, step, float(step))
    guard.settle()
    assert (guard.loss, guard.first_refused()) == (2.0, None)
    note(guard, 3, 3.0, refused=True)
    with pytest.raises(AcedError, match=r"^Step 3: "):
        guard.settle()


@pytest.mark.filterwarnings("ignore:.*lr_scheduler.*")
@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from(["fine", "inf", "nan"]), max_size=30), st.sampled_from([1.0, 2.0**4, 2.0**16]))
def test_the_factor_goes_the_way_of_torchs_own(steps: list[str], first: float) -> None:
    """torch's scaler is the oracle, down to 1 where this one has the run end."""
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([weight], lr=0.0)
    theirs = torch.amp.GradScaler("cpu", init_scale=first, growth_interval=4)
    ours = LossScale(CPU, enabled=True, first=first, interval=4)
    for what in steps:
        factor = theirs.scale(torch.ones(()))
        assert ours.scaled(torch.ones(())) == factor
        gradient = torch.full((3,), {"fine": 3.0, "inf": torch.inf, "nan": torch.nan}[what])
        weight.grad = gradient.clone()
        theirs.unscale_(optimizer)
        expected, weight.grad = weight.grad, gradient.clone()
        ours.unscale([weight])
        assert torch.equal(weight.grad.nan_to_num(), expected.nan_to_num())
        overflowed = ours.overflowed(torch.tensor(True), torch.isfinite(weight.grad.norm()))
        if what != "fine" and factor == 1:
            assert not overflowed
            return
        assert bool(overflowed) == (what != "fine")
        theirs.update()
        ours.update(overflowed, torch.tensor(False))
    assert ours.state() == theirs.state_dict()


def values(scale: LossScale) -> list[float]:
    return [scale.state()["scale"], scale.state()["_growth_tracker"]]


def test_a_refused_step_leaves_the_factor_alone() -> None:
    scale, (yes, no) = LossScale(CPU, enabled=True, first=8.0, interval=2), (torch.tensor(True), torch.tensor(False))
    scale.update(no, no)
    assert values(scale) == [8.0, 1]
    scale.update(no, yes)
    assert values(scale) == [8.0, 1]
    assert not scale.overflowed(no, no)  # a loss that is not finite is no overflow of its gradient


def test_without_a_factor_nothing_overflows_and_nothing_is_kept() -> None:
    scale = LossScale(CPU, enabled=False)
    loss, finite = torch.tensor(3.0), torch.tensor(False)
    assert scale.scaled(loss) is loss
    assert not scale.overflowed(~finite, finite)
    assert scale.state() == {}


def test_an_update_that_is_refused_changes_neither_weights_nor_moments() -> None:
    """As `Replica.update` asks for it: what the fused optimiser promises to whoever scales losses."""
    weight = torch.nn.Parameter(torch.arange(4.0))
    optimizer = torch.optim.AdamW([weight], lr=0.1, fused=True)

    def update(refused: float) -> list[Tensor]:
        weight.grad = torch.full((4,), torch.nan if refused else 0.5)
        optimizer.found_inf = torch.tensor(refused)  # type: ignore[attr-defined]
        optimizer.step()
        return [value.clone() for value in (weight.detach(), *optimizer.state[weight].values())]

    before = update(0.0)
    assert all(map(torch.equal, before, update(1.0)))
    assert not any(map(torch.equal, before, update(0.0)))
