"""The optimiser's groups, the schedule and the clipping."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import nn

from aced.lab.scenes import make_pool
from aced.train.optim import learning_rate, make_optimizer, set_learning_rate
from run_fakes import run_config, take, trainer_of


# By hand: 10 steps, 20 % warm-up, peak 1. Two steps of rise; then 8 steps of cosine from 1 towards 0.
@pytest.mark.parametrize(
    ("step", "rate"),
    [(0, 0.5), (1, 1.0), (2, 1.0), (4, (1 + math.sqrt(0.5)) / 2), (6, 0.5), (8, (1 - math.sqrt(0.5)) / 2)],
)
def test_the_schedule_by_hand(step: int, rate: float) -> None:
    assert learning_rate(step, 10, peak=1.0, warmup=0.2) == pytest.approx(rate)
    assert learning_rate(step, 10, peak=3e-4, warmup=0.2) == pytest.approx(3e-4 * rate)


def test_the_schedule_at_its_ends() -> None:
    assert learning_rate(0, 100, peak=1.0, warmup=0.0) == 1.0
    assert [learning_rate(step, 4, peak=1.0, warmup=1.0) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]
    assert learning_rate(0, 1, peak=1.0, warmup=0.08) == 1.0
    assert 0 < learning_rate(999, 1000, peak=1.0, warmup=0.08) < 1e-5


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.tokens = nn.Parameter(torch.ones(4, 5, 6))
        self.logit_scale = nn.Parameter(torch.tensor(1.0))
        self.logit_bias = nn.Parameter(torch.ones(1))
        self.frozen = nn.Parameter(torch.ones(3, 3), requires_grad=False)


def test_matrices_decay_and_scalars_learn_faster() -> None:
    model, extra = Model(), nn.Linear(2, 2, bias=False)
    optimizer = make_optimizer([model, extra], lr=1e-3, betas=(0.8, 0.9), weight_decay=0.3, scale_lr=10.0)
    shapes = [
        ([tuple(p.shape) for p in group["params"]], group["weight_decay"], group["factor"])
        for group in optimizer.param_groups
    ]
    assert shapes == [
        ([(4, 5, 6), (2, 3)], 0.3, 1.0),
        ([(2,)], 0.0, 1.0),
        ([(2, 2)], 0.3, 1.0),  # of another module, which is never cut where the first one is
        ([(), (1,)], 0.0, 10.0),
    ]
    assert all(group["betas"] == (0.8, 0.9) for group in optimizer.param_groups)
    set_learning_rate(optimizer, 2e-3)
    assert [group["lr"] for group in optimizer.param_groups] == [2e-3, 2e-3, 2e-3, 2e-2]


def test_every_trainable_parameter_of_a_run_is_in_one_group(tmp_path: Path, trained: dict[str, Path]) -> None:
    trainer = trainer_of(run_config(tmp_path, "fm-kd", trained), make_pool(400, 1))
    grouped = [id(p) for group in trainer.optimizer.param_groups for p in group["params"]]
    wanted = [*trainer.student.parameters(), *trainer.objective.parameters()]
    assert sorted(grouped) == sorted(id(p) for p in wanted if p.requires_grad)
    assert trainer.optimizer.param_groups[-1]["params"] == [
        trainer.student.model.logit_scale,
        trainer.student.model.logit_bias,
    ]


def test_the_gradient_is_clipped_and_its_length_told(tmp_path: Path) -> None:
    pool = make_pool(400, 1)
    config = run_config(tmp_path, train__clip=0.25)
    trainer = trainer_of(config, pool)
    (outcome,) = take(trainer, config, pool, 1)
    grads = [p.grad.norm() for g in trainer.optimizer.param_groups for p in g["params"] if p.grad is not None]
    assert outcome.grad_norm.item() > 0.25
    assert float(torch.stack(grads).norm()) == pytest.approx(0.25, rel=1e-4)
    assert outcome.lr == learning_rate(0, 3, peak=1.5e-3, warmup=0.08)
