"""The full objective: its parts, its own scales, and what is thrown away afterwards."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from aced.core import losses
from aced.core.embeddings import Embeddings
from aced.methods import get_method
from aced.train.objective import Objective


def embeddings(seed: int, width: int = 8, count: int = 6, **scalars: Any) -> Embeddings:
    rows = torch.randn(2, count, width, generator=torch.Generator().manual_seed(seed))
    image, text = nn.functional.normalize(rows, dim=2)
    return Embeddings(image, text, **({"scale": 10.0, "bias": -10.0} | scalars))


STUDENT, OTHER, TEACHER = embeddings(1), embeddings(2), embeddings(3, scale=20.0, bias=-8.0)


@pytest.mark.parametrize("loss", ["sigmoid", "softmax"])
def test_without_distillation_the_loss_is_the_contrastive_one(loss: Any) -> None:
    total, parts = Objective(get_method("iid"), loss, width=8)(STUDENT, STUDENT, [])
    expected = getattr(losses, loss)(STUDENT)
    assert torch.equal(total, expected)
    assert (parts.loss, parts.contrastive, parts.distillation) == (expected, expected, None)


@pytest.mark.parametrize("weight", [None, 0.5, 4.0])
def test_lambda_weighs_the_distillation_on_its_own_batch(weight: float | None) -> None:
    method = get_method("aced-iidistill", weight=weight)
    objective = Objective(method, "sigmoid", width=8, teacher_widths=[8])
    total, parts = objective(STUDENT, OTHER, [TEACHER])
    kd = losses.softmax_kd(replace(OTHER, scale=10.0, bias=0.0), [TEACHER])
    assert parts.distillation.item() == pytest.approx(kd.item())
    assert parts.contrastive.item() == losses.sigmoid(STUDENT).item()
    assert total.item() == pytest.approx(parts.contrastive.item() + (weight or 2.0) * kd.item())


def test_the_teachers_temperature_divides_its_logits() -> None:
    objective = Objective(get_method("softmax-kd"), "sigmoid", width=8, teacher_widths=[8], teacher_temperature=4.0)
    _, parts = objective(STUDENT, STUDENT, [TEACHER])
    expected = losses.softmax_kd(replace(STUDENT, scale=10.0, bias=0.0), [replace(TEACHER, scale=5.0)])
    assert parts.distillation.item() == pytest.approx(expected.item())


def test_distillation_has_a_scale_of_its_own() -> None:
    scale = torch.tensor(30.0, requires_grad=True)
    student = replace(STUDENT, scale=scale, image=STUDENT.image.clone().requires_grad_())
    objective = Objective(get_method("softmax-kd"), "sigmoid", width=8, teacher_widths=[8])
    assert {name: p.item() for name, p in objective.named_parameters()} == {"log_scale": pytest.approx(math.log(10))}
    _, parts = objective(student, student, [TEACHER])
    assert parts.distillation.item() == pytest.approx(objective(STUDENT, STUDENT, [TEACHER])[1].distillation.item())
    kd = objective._distilled(student, [TEACHER])
    own, theirs = torch.autograd.grad(kd, [objective.log_scale, scale], allow_unused=True)
    assert own.abs() > 0
    assert theirs is None


def test_sigmoid_distillation_has_a_bias_too() -> None:
    objective = Objective(get_method("sigmoid-kd"), "softmax", width=8, teacher_widths=[8])
    values = {name: p.item() for name, p in objective.named_parameters()}
    assert values == {"log_scale": pytest.approx(math.log(10)), "bias": -10.0}
    _, parts = objective(STUDENT, STUDENT, [TEACHER])
    assert parts.distillation.item() == pytest.approx(losses.sigmoid_kd(STUDENT, [TEACHER]).item())


def test_feature_matching_projects_to_each_teachers_width() -> None:
    teachers = [embeddings(4, width=5), embeddings(5, width=11)]
    method = get_method("fm-kd")
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first, second, other = (Objective(method, "sigmoid", width=8, teacher_widths=[5, 11], seed=s) for s in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)  # the global generator stays as it was
    assert [tuple(p.shape) for p in first.parameters()] == [(5, 8), (11, 8)]
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert not torch.equal(next(first.parameters()), next(other.parameters()))
    _, parts = first(STUDENT, STUDENT, teachers)
    expected = losses.feature_matching(STUDENT, teachers, project=list(first.project))
    assert parts.distillation.item() == pytest.approx(expected.item())


def test_columns_add_to_softmax_distillation() -> None:
    teachers, columns = (
        [embeddings(4, width=5), embeddings(5, width=11)],
        [embeddings(6, width=5), embeddings(7, width=11)],
    )
    objective = Objective(get_method("columns-kd"), "sigmoid", width=8, teacher_widths=[5, 11], teacher_temperature=2.0)
    total, parts = objective(STUDENT, OTHER, teachers, columns)
    batch = losses.softmax_kd(replace(OTHER, scale=10.0, bias=0.0), teachers, teacher_temperature=2.0)
    against = [
        losses.column_kd(OTHER, teacher, others, project=(image, text), scale=10.0, teacher_temperature=2.0)
        for image, text, teacher, others in zip(
            objective.column_images, objective.column_texts, teachers, columns, strict=True
        )
    ]
    assert parts.distillation.item() == pytest.approx((batch + sum(against) / 2).item())
    assert total.item() == pytest.approx(parts.contrastive.item() + 16 * parts.distillation.item())
    total.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in objective.parameters())


@pytest.mark.parametrize(("name", "second"), [("softmax-fm-kd", "features"), ("softmax-sigmoid-kd", "sigmoid")])
def test_two_distillations_add_up_each_with_its_lambda(name: str, second: str) -> None:
    method = get_method(name, weight=3.0, second_weight=0.5)
    objective = Objective(method, "sigmoid", width=8, teacher_widths=[8])
    with torch.no_grad():
        objective.log_scale.fill_(math.log(7.0))  # of the softmax alone
    total, parts = objective(STUDENT, STUDENT, [TEACHER])
    softmax = losses.softmax_kd(replace(STUDENT, scale=7.0, bias=0.0), [TEACHER]).item()
    if second == "features":
        other = losses.feature_matching(STUDENT, [TEACHER], project=list(objective.second.project)).item()
    else:
        other = losses.sigmoid_kd(replace(STUDENT, scale=10.0, bias=-10.0), [TEACHER]).item()
    contrastive = losses.sigmoid(STUDENT).item()
    assert total.item() == pytest.approx(contrastive + 3 * softmax + 0.5 * other)
    assert parts.distillation.item() == pytest.approx(softmax + 0.5 / 3 * other)
    total.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in objective.parameters())


def test_distillation_alone_trains_the_students_own_scale() -> None:
    scale = torch.tensor(30.0, requires_grad=True)
    objective = Objective(get_method("kd-only", weight=4.0), "sigmoid", width=8, teacher_widths=[8])
    assert not list(objective.parameters())
    total, parts = objective(replace(STUDENT, scale=scale), STUDENT, [TEACHER])
    assert total.item() == pytest.approx(4 * losses.softmax_kd(STUDENT, [TEACHER]).item())
    student = replace(STUDENT, scale=scale)
    total, parts = objective(student, student, [TEACHER])
    assert parts.contrastive is None
    assert total.item() == pytest.approx(4 * losses.softmax_kd(student, [TEACHER]).item())
    assert parts.like(parts.numbers()) == parts
    total.backward()
    assert scale.grad is not None
    assert scale.grad.abs() > 0


def test_drrho_compares_with_the_guide_and_distils_beside_it() -> None:
    objective = Objective(get_method("drrho-kd"), "sigmoid", width=8, teacher_widths=[8], scale=20.0)
    guide = embeddings(9, width=5)
    total, parts = objective(STUDENT, STUDENT, [TEACHER], guide=guide)
    assert parts.contrastive.item() == pytest.approx(losses.drrho(STUDENT, guide, scale=20.0).item())
    kd = losses.softmax_kd(replace(STUDENT, scale=10.0, bias=0.0), [TEACHER])
    assert total.item() == pytest.approx(parts.contrastive.item() + 2 * kd.item())


def test_logit_scales_are_kept_at_a_hundred() -> None:
    model = nn.Module()
    model.logit_scale = nn.Parameter(torch.tensor(9.0))
    objective = Objective(get_method("columns-kd"), "sigmoid", width=8, teacher_widths=[8])
    with torch.no_grad():
        objective.log_scale.fill_(7.0)
        objective.column_log_scale.fill_(8.0)
    objective.clamp(model)
    assert model.logit_scale.exp().item() == pytest.approx(100.0)
    assert objective.log_scale.exp().item() == pytest.approx(100.0)
    assert objective.column_log_scale.exp().item() == pytest.approx(100.0)
    with torch.no_grad():
        model.logit_scale.fill_(1.0)
    objective.clamp(model)
    assert model.logit_scale.item() == 1.0
