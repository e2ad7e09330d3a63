"""Losses against loops over pairs, open_clip's losses, and numerical gradients."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from core_losses import LOSSES, NAMES, OTHER, STUDENT, TEACHER, embed
from core_memory import Allocations
from torch import Tensor, nn

from aced.core import losses
from aced.core.embeddings import Embeddings
from aced.core.selection import select
from aced.models.compat import import_open_clip

# --- loops over pairs ---------------------------------------------------------------------------------------


def logits(e: Embeddings) -> list[list[float]]:
    return [
        [float(e.scale) * math.fsum(a * b for a, b in zip(x, y, strict=True)) + float(e.bias) for y in e.text.tolist()]
        for x in e.image.tolist()
    ]


def softmax(values: list[float]) -> list[float]:
    total = math.fsum(math.exp(v) for v in values)
    return [math.exp(v) / total for v in values]


def transposed(matrix: list[list[float]]) -> list[list[float]]:
    return [list(column) for column in zip(*matrix, strict=True)]


def mean_of(matrices: list[list[list[float]]]) -> list[list[float]]:
    n = len(matrices)
    return [[math.fsum(cell) / n for cell in zip(*rows, strict=True)] for rows in zip(*matrices, strict=True)]


def loop_sigmoid(e: Embeddings) -> float:
    z = logits(e)
    b = len(z)
    return math.fsum(math.log1p(math.exp(-z[i][j] if i == j else z[i][j])) for i in range(b) for j in range(b)) / b


def loop_softmax(e: Embeddings) -> float:
    z = logits(e)
    b = len(z)
    return math.fsum(-math.log(softmax(m[i])[i]) / 2 for m in (z, transposed(z)) for i in range(b)) / b


def loop_softmax_kd(student: Embeddings, teachers: list[Embeddings], temperature: float) -> float:
    b = len(student)
    own = logits(student)
    theirs = [[[v / temperature for v in row] for row in logits(t)] for t in teachers]
    total = 0.0
    for z, zs in ((own, theirs), (transposed(own), [transposed(t) for t in theirs])):
        p = mean_of([[softmax(row) for row in t] for t in zs])
        q = [softmax(row) for row in z]
        total -= math.fsum(p[i][j] * math.log(q[i][j]) for i in range(b) for j in range(b)) / 2
    return total / b


def loop_sigmoid_kd(student: Embeddings, teachers: list[Embeddings]) -> float:
    b = len(student)
    p = mean_of([[[1 / (1 + math.exp(-v)) for v in row] for row in logits(t)] for t in teachers])
    q = [[1 / (1 + math.exp(-v)) for v in row] for row in logits(student)]
    return (
        -math.fsum(
            p[i][j] * math.log(q[i][j]) + (1 - p[i][j]) * math.log(1 - q[i][j]) for i in range(b) for j in range(b)
        )
        / b
    )


def loop_drrho(student: Embeddings, reference: Embeddings, t: float, eps: float) -> float:
    def products(e: Embeddings) -> list[list[float]]:
        return logits(replace(e, scale=torch.tensor(1.0), bias=torch.tensor(0.0)))

    total, b = 0.0, len(student)
    for s, r in (
        (products(student), products(reference)),
        (transposed(products(student)), transposed(products(reference))),
    ):
        for i in range(b):
            d = [t * ((s[i][j] - s[i][i]) - (r[i][j] - r[i][i])) for j in range(b) if j != i]
            total += math.log(eps + math.fsum(map(math.exp, d)) / (b - 1)) / 2
    return total / b


@pytest.mark.parametrize(("t", "eps"), [(1.0, 1e-4), (9.0, 1e-4), (40.0, 1e-4), (9.0, 0.5)])
@pytest.mark.parametrize("tile", [1 << 22, 10], ids=["whole", "tiled"])
def test_drrho_agrees_with_a_loop(t: float, eps: float, tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(losses, "_TILE", tile)
    got = losses.drrho(STUDENT, TEACHER, scale=t, eps=eps).item()
    assert got == pytest.approx(loop_drrho(STUDENT, TEACHER, t, eps), rel=1e-10)


def test_drrho_of_a_student_that_is_its_reference_knows_no_better_and_of_one_pair_nothing() -> None:
    assert losses.drrho(STUDENT, STUDENT, scale=50.0, eps=1e-4).item() == pytest.approx(math.log1p(1e-4), rel=1e-9)
    image = STUDENT.image[:1].clone().requires_grad_()
    alone = losses.drrho(replace(STUDENT[:1], image=image), TEACHER[:1], eps=1e-4)
    alone.backward()
    assert alone.item() == pytest.approx(math.log(1e-4))
    assert image.grad is not None
    assert not image.grad.any()
    for wrong in ({"scale": 0.0}, {"eps": -1.0}):
        with pytest.raises(ValueError, match="must be positive"):
            losses.drrho(STUDENT, TEACHER, **wrong)


def test_sigmoid_agrees_with_a_loop() -> None:
    assert losses.sigmoid(STUDENT).item() == pytest.approx(loop_sigmoid(STUDENT), rel=1e-12)


def test_softmax_agrees_with_a_loop() -> None:
    assert losses.softmax(STUDENT).item() == pytest.approx(loop_softmax(STUDENT), rel=1e-12)


@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("teachers", [[TEACHER], [TEACHER, OTHER], [STUDENT]], ids=len)
def test_softmax_kd_agrees_with_a_loop(teachers: list[Embeddings], temperature: float) -> None:
    got = losses.softmax_kd(STUDENT, teachers, teacher_temperature=temperature).item()
    assert got == pytest.approx(loop_softmax_kd(STUDENT, teachers, temperature), rel=1e-12)


@pytest.mark.parametrize("teachers", [[TEACHER], [TEACHER, OTHER]], ids=len)
def test_sigmoid_kd_agrees_with_a_loop(teachers: list[Embeddings]) -> None:
    got = losses.sigmoid_kd(STUDENT, teachers).item()
    assert got == pytest.approx(loop_sigmoid_kd(STUDENT, teachers), rel=1e-12)


def test_one_teacher_is_a_list_of_one() -> None:
    for loss in (losses.softmax_kd, losses.sigmoid_kd):
        assert loss(STUDENT, TEACHER) == loss(STUDENT, [TEACHER])


# --- open_clip's losses -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def open_clip():
    return import_open_clip()


def test_sigmoid_is_open_clips_siglip_loss(open_clip) -> None:
    want = open_clip.loss.SigLipLoss()(STUDENT.image, STUDENT.text, STUDENT.scale, STUDENT.bias)
    torch.testing.assert_close(losses.sigmoid(STUDENT), want)


def test_softmax_is_open_clips_clip_loss(open_clip) -> None:
    want = open_clip.loss.ClipLoss()(STUDENT.image, STUDENT.text, STUDENT.scale)
    torch.testing.assert_close(losses.softmax(STUDENT), want)


def test_softmax_kd_is_open_clips_distillation_loss(open_clip) -> None:
    contrastive, distillation = open_clip.loss.DistillClipLoss()(
        STUDENT.image, STUDENT.text, STUDENT.scale, TEACHER.image, TEACHER.text, TEACHER.scale
    )
    torch.testing.assert_close(losses.softmax_kd(STUDENT, TEACHER), distillation)
    torch.testing.assert_close(losses.softmax(STUDENT), contrastive)


# --- what the definitions imply -----------------------------------------------------------------------------


def test_a_bias_cancels_in_the_softmax_losses() -> None:
    shifted = replace(STUDENT, bias=5.0)
    torch.testing.assert_close(losses.softmax(shifted), losses.softmax(STUDENT))
    want = losses.softmax_kd(STUDENT, TEACHER, teacher_temperature=2.0)
    for student, teacher in ((shifted, TEACHER), (STUDENT, replace(TEACHER, bias=3.0))):
        torch.testing.assert_close(losses.softmax_kd(student, teacher, teacher_temperature=2.0), want)


def test_the_teachers_temperature_divides_its_scale() -> None:
    cooled = replace(TEACHER, scale=TEACHER.scale / 4)
    torch.testing.assert_close(
        losses.softmax_kd(STUDENT, TEACHER, teacher_temperature=4.0), losses.softmax_kd(STUDENT, cooled)
    )


def test_an_ensemble_averages_probabilities_not_logits() -> None:
    # Two sure teachers that disagree: the mean of their logits is undecided everywhere, and so is the mean of
    # their probabilities among the two, but only the latter still rules out the third.
    eye = torch.eye(3, dtype=torch.float64)
    sure, swapped = (Embeddings(eye, eye[list(order)], 40.0, -20.0) for order in ((0, 1, 2), (1, 0, 2)))
    student = replace(STUDENT[:3], scale=3.0)
    z = logits(student)
    p = [[0.5, 0.5, 0.0], [0.5, 0.5, 0.0], [0.0, 0.0, 1.0]]
    want = (
        -sum(
            p[i][j] * (math.log(softmax(z[i])[j]) + math.log(softmax(transposed(z)[j])[i])) / 2
            for i in range(3)
            for j in range(3)
        )
        / 3
    )
    got = losses.softmax_kd(student, [sure, swapped])
    assert got.item() == pytest.approx(want, rel=1e-6)
    assert losses.sigmoid_kd(student, [sure, swapped]).item() == pytest.approx(
        (losses.sigmoid_kd(student, sure) + losses.sigmoid_kd(student, swapped)).item() / 2
    )
    # A case where averaging the logits would give something else: one sure and one doubtful teacher.
    doubtful = Embeddings(eye, eye[[1, 2, 0]], 2.0)
    averaged = ((40 * eye - 20) + (2 * eye[[1, 2, 0]].T)) / 2
    by_logits = (
        -(averaged.softmax(1) * torch.tensor(z, dtype=torch.float64).log_softmax(1)).sum() / 6
        - (averaged.softmax(0) * torch.tensor(z, dtype=torch.float64).log_softmax(0)).sum() / 6
    )
    by_probabilities = losses.softmax_kd(student, [sure, doubtful])
    assert by_probabilities.item() == pytest.approx(loop_softmax_kd(student, [sure, doubtful], 1.0))
    assert abs(by_probabilities - by_logits) > 0.1


def test_feature_matching_is_half_the_squared_distances() -> None:
    teacher = embed(seed=3)
    want = sum(
        (a - b) ** 2
        for own, other in ((STUDENT.image, teacher.image), (STUDENT.text, teacher.text))
        for x, y in zip(own.tolist(), other.tolist(), strict=True)
        for a, b in zip(x, y, strict=True)
    ) / (2 * len(STUDENT))
    assert losses.feature_matching(STUDENT, teacher).item() == pytest.approx(want, rel=1e-12)
    assert losses.feature_matching(STUDENT, STUDENT) == 0
    two = losses.feature_matching(STUDENT, [teacher, STUDENT])
    assert two.item() == pytest.approx(want / 2, rel=1e-12)


def test_feature_matching_normalises_what_it_projects() -> None:
    projection = torch.randn(5, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    got = losses.feature_matching(STUDENT, TEACHER, project=lambda x: 100 * x @ projection)
    by_hand = replace(
        STUDENT,
        image=F.normalize(STUDENT.image @ projection, dim=1),
        text=F.normalize(STUDENT.text @ projection, dim=1),
    )
    torch.testing.assert_close(got, losses.feature_matching(by_hand, TEACHER))


@pytest.mark.parametrize("container", [list, tuple, nn.ModuleList])
def test_feature_matching_with_a_trained_projection_for_each_teacher(container: type) -> None:
    teachers = [TEACHER, OTHER]
    projections = [nn.Linear(5, t.image.shape[1], bias=False, dtype=torch.float64) for t in teachers]
    loss = losses.feature_matching(STUDENT, teachers, project=container(projections))
    single = [losses.feature_matching(STUDENT, t, project=p) for t, p in zip(teachers, projections, strict=True)]
    torch.testing.assert_close(loss, (single[0] + single[1]) / 2)
    loss.backward()
    assert all(p.weight.grad is not None and p.weight.grad.abs().max() > 0 for p in projections)


def test_hard_student_scores_of_everything_are_the_sigmoid_loss() -> None:
    # Every pair of the batch is counted once when its later half is drawn.
    e = replace(STUDENT.detach(), image=STUDENT.image.float(), text=STUDENT.text.float())
    gains = select(e, None, len(e), score="hard-student", chunks=len(e)).gains
    assert gains.sum().item() / len(e) == pytest.approx(losses.sigmoid(STUDENT).item(), rel=1e-5)


# --- precision, autocast, memory ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_embeddings_are_computed_in_float32(name: str, dtype: torch.dtype) -> None:
    def cast(e: Embeddings, dtype: torch.dtype) -> Embeddings:
        return Embeddings(e.image.to(dtype), e.text.to(dtype), e.scale.float(), e.bias.float())

    student, teacher = embed(64, 8), embed(64, 9, seed=1, scale=13.0)
    narrow = LOSSES[name](cast(student, dtype), [cast(teacher, dtype)])
    rounded = [cast(cast(e, dtype), torch.float32) for e in (student, teacher)]
    wide = LOSSES[name](rounded[0], [rounded[1]])
    assert narrow.dtype == torch.float32
    # A projection runs in its own precision, as any layer does.
    torch.testing.assert_close(narrow, wide, rtol=1e-3 if name == "feature_matching" else 0, atol=0)
    exact = LOSSES[name](cast(rounded[0], torch.float64), [cast(rounded[1], torch.float64)])
    torch.testing.assert_close(wide.double(), exact.double(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("tile", [1 << 24, 300], ids=["whole", "tiled"])
def test_autocast_changes_neither_value_nor_gradient(name: str, tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(losses, "_TILE", tile)
    teacher = embed(64, 9, seed=1, scale=13.0, dtype=torch.float32)

    def run(autocast: bool) -> tuple[Tensor, Tensor]:
        student = embed(64, 8, dtype=torch.float32)
        student.image.requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            loss = LOSSES[name](student, [teacher])
        loss.backward()
        assert student.image.grad is not None
        return loss.detach(), student.image.grad

    want, got = run(False), run(True)
    assert got[0].dtype == torch.float32
    assert torch.equal(want[0], got[0])
    assert torch.equal(want[1], got[1])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("tile", [1, 7, 20, 48])
def test_tiles_change_nothing(name: str, tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    want = LOSSES[name](STUDENT, [TEACHER, OTHER])
    monkeypatch.setattr(losses, "_TILE", tile)
    torch.testing.assert_close(LOSSES[name](STUDENT, [TEACHER, OTHER]), want)


@pytest.mark.parametrize("name", NAMES)
def test_memory_grows_with_the_batch_and_not_its_square(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tile = 1 << 15
    monkeypatch.setattr(losses, "_TILE", tile)
    student = embed(1024, 8, dtype=torch.float32)
    student.image.requires_grad_()
    teacher = embed(1024, 9, seed=1, dtype=torch.float32)
    with Allocations() as record:
        LOSSES[name](student, [teacher]).backward()
    # The square would be 32 tiles; the sums of 32 tiles are one more tile.
    assert record.largest <= tile
    assert record.peak <= 12 * 4 * tile


# --- errors -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kd", [losses.softmax_kd, losses.sigmoid_kd, losses.feature_matching])
def test_teachers_must_embed_the_same_batch(kd: Callable[..., Tensor]) -> None:
    with pytest.raises(ValueError, match=r"student.* 7 .*teacher.* 6"):
        kd(STUDENT, [STUDENT, STUDENT[:6]])
    with pytest.raises(ValueError, match=r"teachers.*empty"):
        kd(STUDENT, [])


def test_feature_matching_needs_a_projection_between_widths() -> None:
    with pytest.raises(ValueError, match=r"student.*5.*teacher.*9.*projection"):
        losses.feature_matching(STUDENT, TEACHER)
    with pytest.raises(ValueError, match=r"2 teachers.*1 projections"):
        losses.feature_matching(STUDENT, [TEACHER, OTHER], project=lambda x: x)


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan])
def test_the_teachers_temperature_must_be_positive(temperature: float) -> None:
    with pytest.raises(ValueError, match=r"teacher_temperature.*positive"):
        losses.softmax_kd(STUDENT, TEACHER, teacher_temperature=temperature)
