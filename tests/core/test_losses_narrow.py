"""Losses of bfloat16 embeddings on tensor cores, emulated and by types: exact logits, derivatives rounded once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from core_losses import embed
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from aced.core import losses, products
from aced.core.embeddings import Embeddings
from aced.core.ranks import Alone
from aced.core.shares import Share
from rank_fakes import ThreadRanks, on_ranks

B, U = 90, 2.0**-8
"""Pairs; and the unit roundoff of bfloat16, 8 bits."""
NARROW = (torch.bfloat16, torch.float16)
LOSSES: dict[str, Callable[..., Tensor]] = {
    "sigmoid": lambda s, t: losses.sigmoid(s),
    "softmax": lambda s, t: losses.softmax(s),
    "softmax_kd": losses.softmax_kd,
    "sigmoid_kd": losses.sigmoid_kd,
}
Types = list[tuple[torch.dtype, torch.dtype]]


@pytest.fixture
def multiplied(monkeypatch: pytest.MonkeyPatch) -> Types:
    """The types of what was multiplied by tensor cores, which sum exact products in float32."""
    seen: Types = []

    def tensor_cores(a: Tensor, b: Tensor) -> Tensor:
        seen.append((a.dtype, b.dtype))
        return sum(a[:, k].float() @ b[k].float() for k in reversed(torch.arange(a.shape[1]).split(16)))  # type: ignore[return-value]

    monkeypatch.setattr(products, "multiplies_narrow", lambda values: values.dtype in NARROW)
    monkeypatch.setattr(products, "narrow_product", tensor_cores)
    return seen


def models(dtype: torch.dtype) -> tuple[Embeddings, list[Embeddings]]:
    """A student whose logits are of the size that a trained one's have, and two teachers."""
    student, *teachers = (embed(B, w, seed=w, scale=40.0, bias=-17.0) for w in (48, 64, 32))
    return round_to(student, dtype), [round_to(t, dtype) for t in teachers]


def round_to(e: Embeddings, dtype: torch.dtype) -> Embeddings:
    return Embeddings(e.image.to(dtype), e.text.to(dtype), e.scale, e.bias)


def gradients(loss: Callable[..., Tensor], student: Embeddings, teachers: Any) -> list[Tensor]:
    """Value and gradients of image, text, scale and bias."""
    leaves = [student.image, student.text, student.scale, student.bias]
    leaves = [leaf.detach().clone().requires_grad_() for leaf in leaves]  # type: ignore[union-attr]
    value = loss(Embeddings(*leaves), teachers)
    value.backward()
    return [value.detach(), *[leaf.grad for leaf in leaves]]  # type: ignore[list-item]


def exact(name: str, dtype: torch.dtype) -> tuple[list[Tensor], Tensor, Tensor]:
    """In float64, of the rounded numbers: value and gradients, and how far rounded derivatives can move two of them."""
    narrow, narrow_teachers = models(dtype)
    student, teachers = round_to(narrow, torch.float64), [round_to(t, torch.float64) for t in narrow_teachers]
    want = gradients(LOSSES[name], student, teachers)
    # Of a student whose texts are the axes of a space, the images are logits and their gradients the derivatives.
    z = student.scale * student.image @ student.text.T + student.bias
    eye = torch.eye(B, dtype=torch.float64)
    logits = Embeddings(z, eye, torch.tensor(1.0, dtype=torch.float64), torch.tensor(0.0, dtype=torch.float64))
    g = gradients(LOSSES[name], logits, teachers)[1].abs()
    return want, U * student.scale * g @ student.text.abs(), U * student.scale * g.T @ student.image.abs()


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("tile", [1 << 22, 7 * B], ids=["whole", "tiled"])
def test_values_are_exact_and_gradients_within_the_rounding_of_derivatives(
    name: str, tile: int, multiplied: Types, monkeypatch: pytest.MonkeyPatch
) -> None:
    want, image, text = exact(name, torch.bfloat16)
    multiplied.clear()
    monkeypatch.setattr(losses, "_TILE", tile)
    student, teachers = models(torch.bfloat16)
    rows = [side.float() for side in (student.image, student.text)]  # as the trainer has them: their gradients are wide

    def as_trained(e: Embeddings, t: list[Embeddings]) -> Tensor:
        return LOSSES[name](Share(e, [B], Alone(), torch.bfloat16), t)

    got = gradients(as_trained, Embeddings(*rows, student.scale, student.bias), teachers)
    assert set(multiplied) == {(torch.bfloat16, torch.bfloat16)}
    assert [g.dtype for g in got[:3]] == [torch.float32] * 3
    assert float((got[0] - want[0]).abs()) <= 1e-6 * float(want[0].abs()) + 1e-5
    for own, truth, bound in ((got[1], want[1], image), (got[2], want[2], text)):
        assert bool(((own - truth).abs() <= bound + 1e-6).all())
        assert float((own - truth).norm()) <= U * float(truth.norm())
    assert got[3].item() == pytest.approx(want[3].item(), rel=U)
    assert got[4].item() == pytest.approx(want[4].item(), rel=1e-5, abs=1e-7)  # summed before it is rounded


@pytest.mark.parametrize("name", LOSSES)
def test_float16_is_multiplied_forward_only(name: str, multiplied: Types) -> None:
    """The derivatives by single logits of a large batch are below what float16 can say."""
    student, teachers = models(torch.float16)
    want, *_ = exact(name, torch.float16)
    multiplied.clear()
    got = gradients(LOSSES[name], student, teachers)
    assert len(multiplied) == (2 if "kd" in name else 0)  # the teachers' logits
    for own, truth in zip(got[1:3], want[1:3], strict=True):
        assert float((own - truth).norm()) <= 2.0**-10 * float(truth.norm())  # handed back in float16


def test_ranks_round_as_one_process(multiplied: Types) -> None:
    """Derivatives are rounded one by one, so that it does not matter whose rows they are in."""
    student, teachers = models(torch.bfloat16)
    one = gradients(losses.softmax_kd, student, teachers)

    def work(ranks: ThreadRanks) -> list[Tensor]:
        own = slice(30 * ranks.rank, 30 * ranks.rank + 30)

        def loss(e: Embeddings, t: list[Embeddings]) -> Tensor:
            mine, *theirs = (Share(x, [30] * 3, ranks, torch.bfloat16) for x in (e, *t))
            return losses.softmax_kd(mine, theirs)

        return gradients(loss, student[own], [t[own] for t in teachers])

    found = on_ranks(3, work)
    for side in (1, 2):
        got = torch.cat([f[side] for f in found]).double()
        assert float((got - one[side]).norm()) <= U * float(one[side].double().norm())


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("tile", [1 << 22, 16 * B], ids=["whole", "tiled"])
def test_every_product_is_narrow_and_none_waits_for_a_number(
    name: str, tile: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With torch's own product on tensors that have types but no numbers, so that asking for one raises."""
    monkeypatch.setattr(products, "multiplies_narrow", lambda values: values.dtype in NARROW)
    monkeypatch.setattr(losses, "_TILE", tile)
    seen: list[tuple[Any, ...]] = []

    class Products(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            if func.overloadpacket.__name__ in ("mm", "addmm", "addmm_", "bmm"):
                seen.append((*(v.dtype for v in args if isinstance(v, Tensor)), out.dtype))
            return out

    def fake(width: int) -> Embeddings:
        scalars = [torch.ones((), requires_grad=True) for _ in range(2)]
        sides = [torch.randn(B, width, dtype=torch.bfloat16, requires_grad=True) for _ in range(2)]
        return Embeddings(*sides, *scalars)

    with FakeTensorMode(), Products():
        student = fake(48)
        value = LOSSES[name](student, [fake(64), fake(32)])
        value.backward()
        assert [getattr(student, leaf).grad.dtype for leaf in ("image", "scale")] == [torch.bfloat16, torch.float32]
    assert value.dtype == torch.float32
    assert set(seen) == {(torch.bfloat16, torch.bfloat16, torch.float32)}
