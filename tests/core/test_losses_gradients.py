"""Gradients of the losses, which are taken by formula: against finite differences and against autograd."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from core_losses import DISTILLING, LOSSES, NAMES, OTHER, STUDENT, TEACHER, embed
from torch import Tensor

from aced.core import losses
from aced.core.embeddings import Embeddings


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("tile", [1 << 24, 10], ids=["whole", "tiled"])
def test_gradients_are_exact(name: str, tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(losses, "_TILE", tile)
    teachers = [TEACHER, OTHER]

    def loss(image: Tensor, text: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
        return LOSSES[name](Embeddings(image, text, scale, bias), teachers)

    inputs = [t.clone().requires_grad_() for t in (STUDENT.image, STUDENT.text, STUDENT.scale, STUDENT.bias)]
    if name in ("feature_matching", "drrho"):  # have neither scale nor bias
        inputs[2:] = [t.detach() for t in inputs[2:]]
    assert torch.autograd.gradcheck(loss, inputs)


def plain(name: str, student: Embeddings, teachers: list[Embeddings]) -> Tensor:
    """The four losses with whole matrices, left to autograd."""

    def matrix(e: Embeddings) -> Tensor:
        return e.scale * (e.image @ e.text.T) + e.bias

    z, b = matrix(student), len(student)
    if name == "sigmoid":
        return -F.logsigmoid(z * (2 * torch.eye(b, dtype=z.dtype) - 1)).sum() / b
    if name == "softmax":
        return (F.cross_entropy(z, torch.arange(b)) + F.cross_entropy(z.T, torch.arange(b))) / 2
    if name == "sigmoid_kd":
        target = torch.stack([matrix(t).sigmoid() for t in teachers]).mean(0)
        return F.binary_cross_entropy_with_logits(z, target, reduction="sum") / b
    total = z.new_zeros(())
    for turn in (lambda m: m, lambda m: m.T):
        target = torch.stack([turn(matrix(t)).softmax(1) for t in teachers]).mean(0)
        total = total + F.cross_entropy(turn(z), target) / 2
    return total


@pytest.mark.parametrize("name", ["sigmoid", "softmax", "softmax_kd", "sigmoid_kd"])
@pytest.mark.parametrize("tile", [1 << 24, 40 * 300], ids=["whole", "tiled"])
@pytest.mark.parametrize(("dtype", "close"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
def test_gradients_are_those_of_the_plain_formula(
    name: str, tile: int, dtype: torch.dtype, close: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(losses, "_TILE", tile)
    teachers = [embed(300, 48, seed=seed, scale=13.0, bias=-6.0) for seed in (1, 2)]

    def gradients(dtype: torch.dtype, loss: Callable[[Embeddings, list[Embeddings]], Tensor]) -> list[Tensor]:
        def cast(e: Embeddings) -> Embeddings:
            return Embeddings(e.image.to(dtype), e.text.to(dtype), e.scale.to(dtype), e.bias.to(dtype))

        student = cast(embed(300, 32))
        leaves = [student.image, student.text, student.scale, student.bias]
        value = loss(Embeddings(*[leaf.requires_grad_() for leaf in leaves]), [cast(t) for t in teachers])
        (3 * value).backward()  # not 1, so that what comes from above counts
        return [value.detach(), *[leaf.grad for leaf in leaves if leaf.grad is not None]]

    # The formula in float64 is the truth: in float32 it has errors of its own.
    want = gradients(torch.float64, lambda s, t: plain(name, s, t))
    got = gradients(dtype, LOSSES[name])
    for own, truth in zip(got[:4], want[:4], strict=True):
        assert (own.double() - truth).norm() <= close * truth.norm()
    if "sigmoid" in name:
        assert (got[4].double() - want[4]).abs() <= close * want[4].abs()
    else:
        assert got[4] == 0  # a bias cancels, to the bit


@pytest.mark.parametrize("name", ["sigmoid", "softmax", "softmax_kd", "sigmoid_kd"])
def test_only_what_wants_a_gradient_gets_one(name: str) -> None:
    for wanted in ("image", "text", "scale", "bias"):
        leaf = getattr(STUDENT, wanted).clone().requires_grad_()
        LOSSES[name](replace(STUDENT, **{wanted: leaf}), [TEACHER]).backward()
        everything = [getattr(STUDENT, n).clone().requires_grad_() for n in ("image", "text", "scale", "bias")]
        LOSSES[name](Embeddings(*everything), [TEACHER]).backward()
        torch.testing.assert_close(leaf.grad, everything[["image", "text", "scale", "bias"].index(wanted)].grad)
    with torch.no_grad():
        assert not LOSSES[name](Embeddings(*everything), [TEACHER]).requires_grad
    assert not LOSSES[name](STUDENT, [TEACHER]).requires_grad


@pytest.mark.parametrize("name", ["sigmoid", "softmax", "softmax_kd", "sigmoid_kd"])
def test_gradients_have_the_shape_and_type_of_what_they_are_of(name: str) -> None:
    narrow = [STUDENT.image.bfloat16().requires_grad_(), STUDENT.text.bfloat16().requires_grad_()]
    scalars = [torch.tensor([v], requires_grad=True) for v in (6.0, -2.0)]  # open_clip can have them as vectors of one
    LOSSES[name](Embeddings(*narrow, *scalars), [TEACHER]).backward()
    for leaf in (*narrow, *scalars):
        assert leaf.grad is not None
        assert (leaf.grad.dtype, leaf.grad.shape) == (leaf.dtype, leaf.shape)


def test_a_second_derivative_is_refused() -> None:
    image = STUDENT.image.clone().requires_grad_()
    with pytest.raises(NotImplementedError, match=r"once.*twice"):
        torch.autograd.grad(losses.sigmoid(replace(STUDENT, image=image)), image, create_graph=True)


@pytest.mark.parametrize("name", ["sigmoid", "softmax", "softmax_kd", "sigmoid_kd"])
def test_logits_of_a_hundred_stay_finite(name: str) -> None:
    # The largest scale that is allowed, and pairs that are sure the wrong way round.
    eye = torch.eye(6)
    leaves = [eye.clone().requires_grad_(), eye.flip(0).clone().requires_grad_()]
    loss = LOSSES[name](Embeddings(*leaves, 100.0, -10.0), [Embeddings(eye, eye, 100.0, -10.0)])
    loss.backward()
    assert loss.isfinite()
    assert loss > 50
    for leaf in leaves:
        assert leaf.grad is not None
        assert leaf.grad.isfinite().all()
        assert leaf.grad.abs().max() > 0


@pytest.mark.parametrize("name", DISTILLING)
def test_no_gradient_flows_to_a_teacher(name: str) -> None:
    leaves = [t.clone().requires_grad_() for t in (TEACHER.image, TEACHER.text, TEACHER.scale, TEACHER.bias)]
    student = replace(STUDENT, image=STUDENT.image.clone().requires_grad_())
    LOSSES[name](student, [Embeddings(*leaves), OTHER]).backward()
    assert [leaf.grad for leaf in leaves] == [None] * 4
    assert student.image.grad is not None
    assert student.image.grad.abs().max() > 0


@pytest.mark.parametrize("kd", [losses.softmax_kd, losses.sigmoid_kd, losses.feature_matching])
@pytest.mark.parametrize("tile", [1 << 24, 10], ids=["whole", "tiled"])
def test_a_student_equal_to_its_teacher_is_at_the_minimum(
    kd: Callable[..., Tensor], tile: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(losses, "_TILE", tile)
    leaves = [t.clone().requires_grad_() for t in (STUDENT.image, STUDENT.text, STUDENT.scale, STUDENT.bias)]
    at_minimum = kd(Embeddings(*leaves), STUDENT)
    at_minimum.backward()
    for leaf in leaves:
        if leaf.grad is not None:
            torch.testing.assert_close(leaf.grad, torch.zeros_like(leaf), atol=1e-12, rtol=0)
    for seed in range(20):
        noise = 0.05 * torch.randn(2, 7, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        nearby = replace(
            STUDENT,
            image=F.normalize(STUDENT.image + noise[0], dim=1),
            text=F.normalize(STUDENT.text + noise[1], dim=1),
        )
        assert kd(nearby, STUDENT) > at_minimum
