"""Distillation against the teacher's columns: against loops and finite differences; its memory and its counts."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from core_losses import STUDENT, TEACHER, embed
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from aced.core import columns as module
from aced.core.columns import column_flops, column_kd
from aced.core.embeddings import Embeddings

COLUMNS = embed(11, width=9, seed=5, scale=99.0, bias=3.0)  # only its rows count


def maps(seed: int = 0) -> tuple[nn.Linear, nn.Linear]:
    torch.manual_seed(seed)
    return nn.Linear(5, 9, bias=False).double(), nn.Linear(5, 9, bias=False).double()


def by_loops(student: Embeddings, temperature: float, scale: float) -> float:
    """The formula, pair by pair and column by column."""
    total = 0.0
    image_map, text_map = maps()
    for which in ("image", "text"):
        project = image_map if which == "image" else text_map
        other = "text" if which == "image" else "image"
        for i in range(len(student)):
            u = project(getattr(student, which)[i]).detach()
            u = u / u.norm()
            targets = [getattr(TEACHER, other)[i], *getattr(COLUMNS, other)]
            theirs = [float(TEACHER.scale) / temperature * float(getattr(TEACHER, which)[i] @ y) for y in targets]
            mine = [scale * float(u @ y) for y in targets]
            norm, own_norm = (math.log(sum(map(math.exp, z))) for z in (theirs, mine))
            total -= sum(math.exp(a - norm) * (b - own_norm) for a, b in zip(theirs, mine, strict=True))
    return total / (2 * len(student))


@pytest.mark.parametrize("temperature", [1.0, 3.0])
@pytest.mark.parametrize("tile", [1 << 22, 30, 1], ids=["whole", "tiled", "row by row"])
def test_it_is_the_formula(temperature: float, tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_TILE", tile)
    value = column_kd(STUDENT, TEACHER, COLUMNS, project=maps(), scale=7.0, teacher_temperature=temperature)
    assert value.item() == pytest.approx(by_loops(STUDENT, temperature, 7.0), rel=1e-10)


@pytest.mark.parametrize("tile", [1 << 22, 30], ids=["whole", "tiled"])
def test_gradients_against_finite_differences(tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_TILE", tile)

    def loss(image: Tensor, text: Tensor, a: Tensor, b: Tensor, scale: Tensor) -> Tensor:
        student = replace(STUDENT, image=image, text=text)
        return 3 * column_kd(student, TEACHER, COLUMNS, project=(lambda x: x @ a.T, lambda x: x @ b.T), scale=scale)

    weights = [m.weight.detach() for m in maps()]
    inputs = [STUDENT.image, STUDENT.text, *weights, torch.tensor(7.0, dtype=torch.float64)]
    assert torch.autograd.gradcheck(loss, [x.clone().requires_grad_() for x in inputs])


def test_the_best_student_is_the_teacher() -> None:
    same: tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]] = (lambda x: x, lambda x: x)
    best = column_kd(TEACHER, TEACHER, COLUMNS, project=same, scale=TEACHER.scale)
    image = TEACHER.image.clone().requires_grad_()
    column_kd(replace(TEACHER, image=image), TEACHER, COLUMNS, project=same, scale=TEACHER.scale).backward()
    assert image.grad is not None
    assert image.grad.abs().max() < 1e-12
    for seed in range(5):
        other = embed(width=9, seed=10 + seed)
        assert column_kd(other, TEACHER, COLUMNS, project=same, scale=TEACHER.scale) > best


def test_nothing_flows_into_the_teacher_and_its_bias_cancels() -> None:
    teacher = replace(TEACHER, image=TEACHER.image.clone().requires_grad_(), bias=123.0)
    columns = replace(COLUMNS, text=COLUMNS.text.clone().requires_grad_())
    value = column_kd(STUDENT, teacher, columns, project=maps(), scale=7.0)
    value.backward()
    assert teacher.image.grad is columns.text.grad is None
    assert value.item() == column_kd(STUDENT, TEACHER, COLUMNS, project=maps(), scale=7.0).item()


def test_float32_and_autocast() -> None:
    def cast(e: Embeddings) -> Embeddings:
        return Embeddings(e.image.float(), e.text.float(), float(e.scale), float(e.bias))

    linear = tuple(m.float() for m in maps())
    truth = column_kd(STUDENT, TEACHER, COLUMNS, project=maps(), scale=7.0)
    mine = column_kd(cast(STUDENT), cast(TEACHER), cast(COLUMNS), project=(linear[0], linear[1]), scale=7.0)
    assert mine.dtype == torch.float32
    assert mine.item() == pytest.approx(truth.item(), rel=1e-6)
    identity: tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]] = (lambda x: x, lambda x: x)
    plain = column_kd(cast(TEACHER), cast(TEACHER), cast(COLUMNS), project=identity, scale=7.0)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(column_kd(cast(TEACHER), cast(TEACHER), cast(COLUMNS), project=identity, scale=7.0), plain)


def test_no_tile_is_larger_than_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_TILE", 60)
    sizes: list[int] = []
    plain = module._cosines

    def watched(rows: Tensor, own: Tensor, others: Tensor) -> Tensor:
        made = plain(rows, own, others)
        sizes.append(made.numel())
        return made

    monkeypatch.setattr(module, "_cosines", watched)
    column_kd(STUDENT, TEACHER, COLUMNS, project=maps(), scale=7.0)
    assert max(sizes) <= 60
    assert len(sizes) == 2 * 2 * 2  # directions x models x tiles of 5 and 2 rows


def test_flops_are_those_of_torchs_counter() -> None:
    student, teacher, columns = (embed(n, 16, dtype=torch.float32) for n in (64, 64, 100))
    image = student.image.clone().requires_grad_()
    with FlopCounterMode(display=False) as counter:
        column_kd(
            replace(student, image=image), teacher, columns, project=(lambda x: x, lambda x: x), scale=7.0
        ).backward()
    # The counter sees matrix products; a pair with its own other side is a row-wise one.
    assert column_flops(64, 100, 16) * 100 / 101 == pytest.approx(counter.get_total_flops())


@pytest.mark.parametrize(
    ("teacher", "columns", "temperature", "words"),
    [
        (embed(6, width=9), COLUMNS, 1.0, "student.* 7 .*teacher.* 6"),
        (TEACHER, embed(11, width=8), 1.0, "columns.* 8 .*teacher.* 9"),
        (TEACHER, COLUMNS, 0.0, "positive.* 0"),
    ],
)
def test_errors_say_what_is_wrong(teacher: Embeddings, columns: Embeddings, temperature: float, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        column_kd(STUDENT, teacher, columns, project=maps(), scale=7.0, teacher_temperature=temperature)
