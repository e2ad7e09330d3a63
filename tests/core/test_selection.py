"""Joint selection against loops over pairs, exact probabilities and the largest tensor that it makes."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from core_memory import Allocations
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from torch import Tensor

from aced.core import gains
from aced.core.embeddings import Embeddings
from aced.core.ranks import Alone
from aced.core.score_models import SCORES as BUILT_IN_SCORES
from aced.core.selection import Selection, draw, select

WEIGHTS = {"learnability": (1.0, -1.0), "easy-reference": (0.0, -1.0), "hard-student": (1.0, 0.0)}
"""Of the student's and of the reference's loss, for every score that compares images with texts."""
PAIRED = tuple(WEIGHTS)
SCORES = (*PAIRED, "diverse")
LOSSES = ("sigmoid", "softmax")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def embed(
    count: int,
    width: int,
    *,
    seed: int,
    scale: float = 7.0,
    bias: float = -3.0,
    dtype: torch.dtype | None = None,
) -> Embeddings:
    """Random pairs whose halves agree about halfway, so that losses are neither zero nor saturated."""
    noise = torch.randn(3, count, width, generator=generator(seed))
    image, text = F.normalize(noise[0], dim=1), F.normalize(noise[0] + noise[1], dim=1)
    return Embeddings(image.to(dtype or torch.float32), text.to(dtype or torch.float32), scale, bias)


def models(count: int, *, seed: int = 0, dtype: torch.dtype | None = None) -> tuple[Embeddings, Embeddings]:
    """A student and a reference of different widths, scales and biases."""
    return (
        embed(count, 5, seed=2 * seed, dtype=dtype),
        embed(count, 9, seed=2 * seed + 1, scale=11.0, bias=-5.0, dtype=dtype),
    )


# --- the oracle: loops over pairs of Python floats ----------------------------------------------------------


def logits(e: Embeddings) -> list[list[float]]:
    image, text = e.image.double().tolist(), e.text.double().tolist()
    return [
        [float(e.scale) * math.fsum(a * b for a, b in zip(x, y, strict=True)) + float(e.bias) for y in text]
        for x in image
    ]


def log_sum_exp(values: Sequence[float]) -> float:
    return math.log(math.fsum(math.exp(v) for v in values))


def within(e: Embeddings, i: int, k: int) -> list[float]:
    """Logits of two images and of two texts."""
    products = [math.fsum(a * b for a, b in zip(x[i], x[k], strict=True)) for x in (e.image.tolist(), e.text.tolist())]
    return [float(e.scale) * product + float(e.bias) for product in products]


def diverse_gain(e: Embeddings, loss: str, i: int, chosen: Sequence[int]) -> float:
    """How much like the chosen ones a candidate is, within each modality."""
    if loss == "softmax":
        return math.fsum(log_sum_exp([0.0, *(within(e, i, k)[side] for k in chosen)]) / 2 for side in (0, 1))
    return math.fsum(math.log1p(math.exp(z)) for k in chosen for z in within(e, i, k))


def model_gain(z: list[list[float]], loss: str, i: int, chosen: Sequence[int]) -> float:
    """One model's share of g_i(K) without its sign."""
    if loss == "softmax":
        rows = log_sum_exp([z[i][i], *(z[i][k] for k in chosen)])
        columns = log_sum_exp([z[i][i], *(z[k][i] for k in chosen)])
        return (rows + columns) / 2 - z[i][i]
    own = math.log1p(math.exp(-z[i][i]))
    return own + math.fsum(math.log1p(math.exp(z[i][k])) + math.log1p(math.exp(z[k][i])) for k in chosen)


Oracle = Callable[[int, Sequence[int]], float]


def oracle(student: Embeddings, reference: Embeddings, score: str, loss: str) -> Oracle:
    """g_i(K) by loops."""
    if score == "diverse":
        return lambda i, chosen: -diverse_gain(reference, loss, i, chosen)
    matrices = [(weight, logits(e)) for weight, e in zip(WEIGHTS[score], (student, reference), strict=True)]
    return lambda i, chosen: math.fsum(weight * model_gain(z, loss, i, chosen) for weight, z in matrices)


def assert_gains(result: Selection, gain: Oracle, tolerance: float = 1e-5) -> None:
    """Every chosen one's gain, given all that was chosen in earlier chunks; and the scores of all."""
    indices, chunk = result.indices.tolist(), result.chunk.tolist()
    for position, i in enumerate(indices):
        earlier = [k for k, c in zip(indices, chunk, strict=True) if c < chunk[position]]
        assert result.gains[position].item() == pytest.approx(gain(i, earlier), abs=tolerance, rel=tolerance)
    for i, value in enumerate(result.scores.tolist()):
        assert value == pytest.approx(gain(i, []), abs=tolerance, rel=tolerance)


# --- scores -------------------------------------------------------------------------------------------------


def test_every_score_is_held_against_its_weights() -> None:
    assert set(SCORES) == set(BUILT_IN_SCORES)


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("chunks", [1, 4, 5, 14])
def test_joint_gains_agree_with_loops(score: str, loss: str, chunks: int) -> None:
    student, reference = models(32)
    result = select(student, reference, 14, score=score, loss=loss, chunks=chunks, generator=generator())
    assert result.chunk.max() == chunks - 1
    assert_gains(result, oracle(student, reference, score, loss))


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("loss", LOSSES)
def test_greedy_joint_choice_agrees_with_loops(score: str, loss: str) -> None:
    student, reference = models(24, seed=3)
    result = select(student, reference, 9, score=score, loss=loss, chunks=3, temperature=0)
    gain = oracle(student, reference, score, loss)
    chosen: list[int] = []
    for c in range(3):
        gains = {i: gain(i, chosen) for i in range(24) if i not in chosen}
        drawn = result.indices[result.chunk == c].tolist()
        # The softmax loss knows no difference in the first chunk, and nothing is unlike nothing.
        if c or (loss == "sigmoid" and score != "diverse"):
            assert drawn == sorted(gains, key=gains.__getitem__, reverse=True)[:3]
        chosen += drawn


@pytest.mark.parametrize("score", PAIRED)
@pytest.mark.parametrize("strategy", ["independent", "top-k"])
def test_independent_sigmoid_scores_are_the_pairs_own_losses(score: str, strategy: str) -> None:
    student, reference = models(20)
    result = select(student, reference, 6, score=score, strategy=strategy, generator=generator())
    gain = oracle(student, reference, score, "sigmoid")
    assert result.scores.tolist() == pytest.approx([gain(i, []) for i in range(20)], abs=1e-5)
    assert torch.equal(result.gains, result.scores[result.indices])
    assert result.chunk.tolist() == [0] * 6


@pytest.mark.parametrize("score", PAIRED)
@pytest.mark.parametrize("tile", [1, 50, 1 << 21])
def test_independent_softmax_scores_are_the_whole_batch_losses(
    score: str, tile: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gains, "_TILE", tile)
    student, reference = models(40)
    result = select(student, reference, 6, score=score, loss="softmax", strategy="top-k")

    def dense(e: Embeddings) -> Tensor:
        z = e.scale * e.image @ e.text.T + e.bias
        own = torch.arange(len(e))
        return (F.cross_entropy(z, own, reduction="none") + F.cross_entropy(z.T, own, reduction="none")) / 2

    want = WEIGHTS[score][0] * dense(student) + WEIGHTS[score][1] * dense(reference)
    torch.testing.assert_close(result.scores, want, atol=1e-5, rtol=1e-5)
    assert result.indices.tolist() == want.topk(6).indices.tolist()


def test_top_k_takes_the_largest_and_ignores_the_temperature() -> None:
    student, reference = models(50)
    result = select(student, reference, 10, strategy="top-k", temperature=5.0)
    assert result.indices.tolist() == result.scores.topk(10).indices.tolist()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("strategy", ["joint", "independent"])
def test_scores_are_float32_sums_of_the_rounded_embeddings(dtype: torch.dtype, loss: str, strategy: str) -> None:
    narrow = models(64, dtype=dtype)
    wide = [replace(e, image=e.image.float(), text=e.text.float()) for e in narrow]
    results = [
        select(*pair, 20, loss=loss, strategy=strategy, chunks=4, generator=generator()) for pair in (narrow, wide)
    ]
    for result in results:
        assert (result.scores.dtype, result.gains.dtype) == (torch.float32, torch.float32)
        assert (result.indices.dtype, result.chunk.dtype) == (torch.int64, torch.int64)
    assert torch.equal(results[0].indices, results[1].indices)
    assert torch.equal(results[0].scores, results[1].scores)
    assert torch.equal(results[0].gains, results[1].gains)


@pytest.mark.parametrize("loss", LOSSES)
def test_models_of_different_precision(loss: str) -> None:
    student, _ = models(30)
    _, reference = models(30, dtype=torch.bfloat16)
    result = select(student, reference, 9, loss=loss, chunks=3, generator=generator())
    assert_gains(result, oracle(student, reference, "learnability", loss))


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("strategy", ["joint", "independent"])
def test_autocast_changes_nothing(loss: str, strategy: str) -> None:
    student, reference = models(64)

    def run() -> Selection:
        return select(student, reference, 20, loss=loss, strategy=strategy, chunks=4, generator=generator())

    want = run()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = run()
    assert torch.equal(want.indices, got.indices)
    assert torch.equal(want.scores, got.scores)
    assert torch.equal(want.gains, got.gains)


def test_scale_and_bias_may_be_trained_tensors_of_any_type() -> None:
    student, reference = models(30)
    want = select(student, reference, 9, chunks=3, generator=generator())
    for dtype, shape in itertools.product((torch.float32, torch.float64, torch.bfloat16), ((), (1,))):
        scale = torch.full(shape, float(student.scale), dtype=dtype, requires_grad=True)
        bias = torch.full(shape, float(student.bias), dtype=dtype, requires_grad=True)
        image = student.image.clone().requires_grad_()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            got = select(Embeddings(image, student.text, scale, bias), reference, 9, chunks=3, generator=generator())
        assert torch.equal(got.indices, want.indices)
        assert torch.equal(got.gains, want.gains)
        assert not got.gains.requires_grad
        assert got.scores.shape == (30,)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("strategy", ["joint", "independent"])
@pytest.mark.parametrize("tile", [1, 7, 100])
def test_small_tiles_change_nothing(loss: str, strategy: str, tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    student, reference = models(45)

    def run() -> Selection:
        return select(student, reference, 13, loss=loss, strategy=strategy, chunks=3, generator=generator())

    want = run()
    monkeypatch.setattr(gains, "_TILE", tile)
    got = run()
    assert torch.equal(want.indices, got.indices)
    torch.testing.assert_close(got.scores, want.scores, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(got.gains, want.gains, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("loss", "strategy"), [("sigmoid", "joint"), ("sigmoid", "top-k"), ("softmax", "top-k")])
def test_greedy_choice_does_not_depend_on_the_candidates_order(loss: str, strategy: str) -> None:
    student, reference = models(60)
    order = torch.randperm(60, generator=generator(9))
    want = select(student, reference, 15, loss=loss, strategy=strategy, chunks=4, temperature=0)
    got = select(student[order], reference[order], 15, loss=loss, strategy=strategy, chunks=4, temperature=0)
    assert torch.equal(order[got.indices], want.indices)
    torch.testing.assert_close(got.scores, want.scores[order])
    torch.testing.assert_close(got.gains, want.gains)


def test_extreme_logits_stay_finite() -> None:
    student, reference = models(40)
    hot = replace(student, scale=1e30, bias=-1e30)
    for loss, strategy in itertools.product(LOSSES, ("joint", "independent")):
        result = select(hot, reference, 20, loss=loss, strategy=strategy, generator=generator())
        assert result.gains.isfinite().all()
        assert len(set(result.indices.tolist())) == 20


# --- how many, and which ------------------------------------------------------------------------------------


@given(data=st.data())
@settings(max_examples=150, deadline=None, derandomize=True)
def test_exactly_size_distinct_indices_in_even_chunks(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 40), label="B")
    size = data.draw(st.one_of(st.integers(1, count), st.just(count)), label="size")
    chunks = data.draw(st.integers(1, 50), label="chunks")
    temperature = data.draw(st.sampled_from([0.0, 1e-9, 0.3, 1.0, 1e6, 1e300]), label="temperature")
    strategy = data.draw(st.sampled_from(["joint", "independent", "top-k"]), label="strategy")
    student, reference = models(count, seed=data.draw(st.integers(0, 3), label="seed"))
    result = select(
        student,
        reference,
        size,
        score=data.draw(st.sampled_from(SCORES if strategy == "joint" else PAIRED), label="score"),
        loss=data.draw(st.sampled_from(LOSSES), label="loss"),
        strategy=strategy,
        chunks=chunks,
        temperature=temperature,
        generator=generator(),
    )
    assert result.indices.shape == result.gains.shape == result.chunk.shape == (size,)
    assert result.scores.shape == (count,)
    assert len(set(result.indices.tolist())) == size
    assert 0 <= result.indices.min() <= result.indices.max() < count
    assert result.gains.isfinite().all()
    sizes = torch.bincount(result.chunk).tolist()
    assert len(sizes) == (min(chunks, size) if strategy == "joint" else 1)
    assert max(sizes) - min(sizes) <= 1
    assert result.chunk.tolist() == sorted(result.chunk.tolist())


def test_within_a_chunk_the_order_is_that_of_the_draw() -> None:
    student, reference = models(30)
    result = select(student, reference, 12, chunks=3, temperature=0)
    for c in range(3):
        drawn = result.gains[result.chunk == c]
        assert torch.equal(drawn, drawn.sort(descending=True).values)


# --- the draw -----------------------------------------------------------------------------------------------


def frequencies(draws: int, count: int, length: int, run: Callable[[torch.Generator], Tensor]) -> list[int]:
    """How often each ordered tuple of `length` distinct candidates was drawn."""
    seen = dict.fromkeys(itertools.permutations(range(count), length), 0)
    source = generator(1234)
    for _ in range(draws):
        seen[tuple(run(source).tolist()[:length])] += 1
    return list(seen.values())


def sequential(gain: Oracle, count: int, temperature: float, joint: bool) -> list[float]:
    """Exact probabilities of the ordered pairs: softmax of g / tau, one after the other, none twice."""
    probabilities = []
    for i, j in itertools.permutations(range(count), 2):
        first = [math.exp(gain(k, []) / temperature) for k in range(count)]
        second = {k: math.exp(gain(k, [i] if joint else []) / temperature) for k in range(count) if k != i}
        probabilities.append(first[i] / sum(first) * second[j] / sum(second.values()))
    assert sum(probabilities) == pytest.approx(1)
    assert max(probabilities) > 2 * min(probabilities)  # far enough from uniform to tell
    return probabilities


@pytest.mark.parametrize(
    ("loss", "joint", "temperature"),
    [
        ("sigmoid", False, 0.5),
        ("sigmoid", False, 1.0),
        ("sigmoid", True, 1.0),
        ("sigmoid", True, 3.0),
        ("softmax", False, 1.0),
        ("softmax", True, 0.5),
    ],
)
def test_draw_follows_the_exact_probabilities(loss: str, joint: bool, temperature: float) -> None:
    student, reference = models(4, seed=5)
    if loss == "softmax":
        student, reference = replace(student, scale=20.0), replace(reference, scale=20.0)
    draws = 2000
    seen = frequencies(
        draws,
        4,
        2,
        lambda source: (
            select(
                student,
                reference,
                2,
                loss=loss,
                strategy="joint" if joint else "independent",
                chunks=2,
                temperature=temperature,
                generator=source,
            ).indices
        ),
    )
    gain = oracle(student, reference, "learnability", loss)
    if loss == "softmax" and not joint:
        whole = gain  # against the whole super-batch, in which i itself counts once
        gain = lambda i, _: whole(i, [k for k in range(4) if k != i])  # noqa: E731
    want = sequential(gain, 4, temperature, joint)
    assert chisquare(seen, [draws * p for p in want]).pvalue > 1e-3


def test_softmax_joint_draws_the_first_chunk_uniformly() -> None:
    student, reference = models(4, seed=5)
    seen = frequencies(
        1500,
        4,
        2,
        lambda source: select(student, reference, 4, loss="softmax", chunks=2, generator=source).indices,
    )
    assert chisquare(seen).pvalue > 1e-3


@pytest.mark.parametrize("temperature", [1e6, 1e300])
def test_a_high_temperature_is_uniform(temperature: float) -> None:
    student, reference = models(4, seed=5)
    seen = frequencies(
        1500,
        4,
        2,
        lambda source: (
            select(student, reference, 2, strategy="independent", temperature=temperature, generator=source).indices
        ),
    )
    assert chisquare(seen).pvalue > 1e-3


@pytest.mark.parametrize("strategy", ["joint", "independent"])
def test_a_low_temperature_is_greedy(strategy: str) -> None:
    student, reference = models(50)
    results = [
        select(student, reference, 12, strategy=strategy, chunks=4, temperature=t, generator=generator())
        for t in (0.0, 1e-8)
    ]
    assert torch.equal(results[0].indices, results[1].indices)


def test_the_same_generator_state_gives_the_same_indices() -> None:
    student, reference = models(60)
    runs = [select(student, reference, 20, generator=generator(s)).indices for s in (7, 7, 8)]
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])
    source = generator(7)
    first, second = (select(student, reference, 20, generator=source).indices for _ in range(2))
    assert torch.equal(first, runs[0])
    assert not torch.equal(first, second)  # the generator moved on


def test_the_global_generator_is_left_alone_where_one_is_given() -> None:
    student, reference = models(60)
    before = torch.get_rng_state()
    select(student, reference, 20, generator=generator())
    select(student, reference, 20, temperature=0)
    select(student, reference, 20, strategy="top-k")
    assert torch.equal(torch.get_rng_state(), before)


def test_without_a_generator_torchs_global_one_is_used() -> None:
    student, reference = models(60)
    with torch.random.fork_rng(devices=[]):
        runs = []
        for seed in (3, 3, 4):
            torch.manual_seed(seed)
            runs.append(select(student, reference, 20).indices)
        torch.manual_seed(3)
        select(student, reference, 20)
        assert not torch.equal(select(student, reference, 20).indices, runs[0])
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


# --- what it is for: near-duplicates ------------------------------------------------------------------------


@given(seed=st.integers(0, 10**6), copies=st.integers(20, 60))
@settings(max_examples=10, deadline=None, derandomize=True)
@pytest.mark.parametrize("loss", LOSSES)
def test_joint_selection_takes_fewer_copies_than_one_draw(loss: str, seed: int, copies: int) -> None:
    unique, size = 60, 20
    image = embed(unique, 16, seed=seed).image
    reference = Embeddings(image, image, 20.0, -10.0)  # every pair is equally good
    origin = torch.cat([torch.arange(unique), torch.zeros(copies, dtype=torch.int64)])
    crowd = reference[origin]

    def distinct(chunks: int) -> int:
        """How many different pairs are in ten batches; one chunk is a draw without regard to the others."""
        batches = [
            select(None, crowd, size, score="easy-reference", loss=loss, chunks=chunks, generator=source)
            for _ in range(10)
        ]
        return sum(len(set(origin[batch.indices].tolist())) for batch in batches)

    source = generator(seed)
    assert distinct(10) > distinct(1) + 10


@pytest.mark.parametrize("loss", LOSSES)
def test_a_diverse_draw_takes_one_of_each_whatever_fits(loss: str) -> None:
    """Four copies of each of five images, half of them with a caption that has nothing to do with it."""
    group = torch.arange(20) % 5
    image = F.normalize(torch.randn(5, 32, generator=generator(3)), dim=1)[group]
    other = F.normalize(torch.randn(20, 32, generator=generator(4)), dim=1)
    reference = Embeddings(image, torch.where(torch.arange(20)[:, None] < 10, image, other), 30.0, -15.0)
    for seed in range(20):
        chosen = select(
            None, reference, 5, score="diverse", loss=loss, chunks=5, temperature=0.1, generator=generator(seed)
        )
        assert sorted(group[chosen.indices].tolist()) == [0, 1, 2, 3, 4]
    assert any(
        (
            select(None, reference, 5, score="diverse", loss=loss, chunks=5, generator=generator(seed)).indices >= 10
        ).any()
        for seed in range(20)
    )


def test_one_chunk_is_the_independent_draw() -> None:
    student, reference = models(60)
    joint, independent = (
        select(student, reference, 20, strategy=strategy, chunks=1, generator=generator())
        for strategy in ("joint", "independent")
    )
    assert torch.equal(joint.indices, independent.indices)


# --- memory -------------------------------------------------------------------------------------------------


def allocations(count: int, size: int, **options: object) -> Allocations:
    student, reference = embed(count, 16, seed=0), embed(count, 32, seed=1)
    with Allocations() as record:
        select(student, reference, size, generator=generator(), **options)
    return record


@pytest.mark.parametrize("loss", LOSSES)
def test_joint_selection_never_makes_a_square_matrix(loss: str) -> None:
    record = allocations(2048, 409, loss=loss)
    assert record.largest <= 2048 * 32  # the embeddings; one chunk has 2048 x 26
    assert record.peak < 4 * 2048 * 2048 / 10


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(("strategy", "size"), [("joint", 1024), ("independent", 409)])
def test_no_tile_is_larger_than_the_limit(loss: str, strategy: str, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gains, "_TILE", 1 << 15)
    record = allocations(2048, size, loss=loss, strategy=strategy, chunks=2)
    assert record.largest <= 2048 * 32  # the embeddings
    assert record.peak < 4 * 2048 * 2048 / 10


# --- errors -------------------------------------------------------------------------------------------------

STUDENT, REFERENCE = models(10)


def with_row(e: Embeddings, row: int, value: float, side: str = "image") -> Embeddings:
    values = getattr(e, side).clone()
    values[row] = value
    return replace(e, **{side: values})


@pytest.mark.parametrize(
    ("student", "reference", "size", "options", "message"),
    [
        (STUDENT, REFERENCE, 11, {}, "11 of 10"),
        (STUDENT, REFERENCE, 0, {}, "size.*chunks.*1.*size=0, chunks=16"),
        (STUDENT, REFERENCE, 3, {"chunks": 0}, "size=3, chunks=0"),
        (
            STUDENT,
            REFERENCE,
            3,
            {"temperature": -1.0},
            "temperature.*-1.0",
        ),
        (STUDENT, REFERENCE, 3, {"temperature": math.inf}, r"temperature.* inf"),
        (STUDENT, REFERENCE, 3, {"temperature": math.nan}, r"temperature.* nan"),
        (
            STUDENT,
            REFERENCE,
            3,
            {"score": "loss"},
            "score 'loss'.*learnability, easy-reference",
        ),
        (STUDENT, REFERENCE, 3, {"loss": "hinge"}, "loss 'hinge'.*sigmoid, softmax"),
        (
            STUDENT,
            REFERENCE,
            3,
            {"strategy": "best"},
            "'best'.*joint, independent, top-k",
        ),
        (None, REFERENCE, 3, {"score": "diverse", "strategy": "top-k"}, "'joint'.*'top-k'"),
        (None, REFERENCE, 3, {}, "'learnability'.*student.*None"),
        (STUDENT, None, 3, {}, "'learnability'.*reference.*None"),
        (STUDENT, None, 3, {"score": "easy-reference"}, "'easy-reference'.*reference"),
        (None, REFERENCE, 3, {"score": "hard-student"}, "'hard-student'.*student"),
        (
            STUDENT,
            REFERENCE[:9],
            3,
            {},
            "student.* 10 .*reference.* 9",
        ),
        (
            with_row(STUDENT, 4, math.nan),
            REFERENCE,
            3,
            {},
            "student.*image.* 4 .*finite.*1 of 10",
        ),
        (
            STUDENT,
            with_row(REFERENCE, 7, math.inf, "text"),
            3,
            {},
            "reference.*text.*7.*finite",
        ),
        (
            STUDENT,
            with_row(REFERENCE, 2, 0.0),
            3,
            {},
            "reference.*image.*normalised.*row 2",
        ),
        (
            with_row(STUDENT, 6, 3.0, "text"),
            REFERENCE,
            3,
            {},
            "text.*normalised.*row 6.*6.7",
        ),
        (
            replace(STUDENT, scale=0.0),
            REFERENCE,
            3,
            {},
            "student.*logit scale.*0.0.*finite.*positive",
        ),
        (replace(STUDENT, scale=-1.0), REFERENCE, 3, {}, "student.*logit scale.*-1.0"),
        (STUDENT, replace(REFERENCE, scale=math.nan), 3, {}, "reference.*logit scale.*nan"),
        (STUDENT, replace(REFERENCE, scale=torch.tensor(math.inf)), 3, {}, "reference.*logit scale.*inf"),
        (
            STUDENT,
            replace(REFERENCE, bias=math.inf),
            3,
            {},
            "reference.*logit bias.*inf",
        ),
        (replace(STUDENT, bias=math.nan), REFERENCE, 3, {}, "student.*logit bias.*nan"),
        (
            STUDENT,
            REFERENCE.to("meta"),
            3,
            {},
            "student.*cpu.*reference.*meta",
        ),
    ],
)
def test_errors_say_what_is_wrong(
    student: Embeddings | None, reference: Embeddings | None, size: int, options: dict, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        select(student, reference, size, **options)


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("loss", LOSSES)
def test_a_draw_that_is_not_checked_says_what_it_could_not_score(score: str, loss: str) -> None:
    student, reference = models(30)
    how = {"score": score, "loss": loss, "chunks": 3}
    for broken, fine in ((False, True), (True, False)):
        pair = [with_row(e, 4, math.nan, "text") for e in (student, reference)] if broken else [student, reference]
        chosen = draw(*pair, 12, Alone(), [30], generator=generator(), **how)  # type: ignore[arg-type]
        assert bool(chosen.finite()) is fine
        assert len(set(chosen.indices.tolist())) == 12


def test_select_is_the_draw_over_a_world_of_one() -> None:
    student, reference = models(30)
    one = select(student, reference, 9, generator=generator())
    other = draw(student, reference, 9, Alone(), [30], generator=generator())
    assert all(torch.equal(getattr(one, name), getattr(other, name)) for name in ("indices", "gains", "scores"))


@pytest.mark.parametrize("chunks", [1, 2, 7])
@pytest.mark.parametrize("at_once", [1, 3, 100])
def test_noise_is_one_call_of_the_generator_for_each_chunk(
    chunks: int, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that the same pairs are drawn whatever is finished at once."""
    monkeypatch.setattr(gains, "_TILE", 60 * at_once)
    student, reference = models(60)
    used, plain = generator(3), generator(3)
    chosen = select(student, reference, 20, loss="softmax", chunks=chunks, generator=used)
    noise = [-torch.empty(60).exponential_(generator=plain).log() for _ in range(chunks)]
    # All are equally good at first.
    first = chosen.indices[chosen.chunk == 0]
    assert torch.equal(first, noise[0].topk(len(first)).indices)
    assert torch.equal(used.get_state(), plain.get_state())


def test_a_model_that_the_score_does_not_use_is_not_looked_at() -> None:
    broken = with_row(STUDENT, 4, math.nan)
    select(broken, REFERENCE, 3, score="easy-reference")
    select(STUDENT, with_row(REFERENCE, 4, math.nan), 3, score="hard-student")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rounded_unit_vectors_count_as_normalised(dtype: torch.dtype) -> None:
    for seed in range(20):
        select(*models(200, seed=seed, dtype=dtype), 10, generator=generator())
