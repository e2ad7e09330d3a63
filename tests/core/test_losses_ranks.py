"""Each rank computes its own rows of a loss: what the ranks get together, what each pays, what they exchange."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from core_losses import embed
from core_memory import Allocations
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from aced.core import losses
from aced.core.embeddings import Embeddings
from aced.core.shares import Share, as_share
from rank_fakes import ThreadRanks, on_ranks

COLUMNS = embed(11, width=9, seed=5)


class Projections(nn.Module):
    """Maps from the student's width, 5, to those of two teachers; the same on every rank."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.maps = nn.ParameterList(torch.randn(w, 5, generator=generator).to(dtype) for w in (9, 3, 9))

    def __getitem__(self, number: int) -> Callable[[Tensor], Tensor]:
        return lambda x: x @ self.maps[number].T


LOSSES: dict[str, Callable[[Share, list[Share], Projections], Tensor]] = {
    "sigmoid": lambda s, t, p: losses.sigmoid(s),
    "softmax": lambda s, t, p: losses.softmax(s),
    "drrho": lambda s, t, p: losses.drrho(s, t[0], scale=9.0, eps=0.3),
    "softmax_kd": lambda s, t, p: losses.softmax_kd(s, t, teacher_temperature=1.7),
    "sigmoid_kd": lambda s, t, p: losses.sigmoid_kd(s, t),
    "feature_matching": lambda s, t, p: losses.feature_matching(s, t, project=[p[0], p[1]]),
    "column_kd": lambda s, t, p: losses.column_kd(
        s, t[0], cast(COLUMNS, s.own.image.dtype), project=(p[0], p[2]), scale=s.own.scale
    ),
    "sigmoid and softmax_kd": lambda s, t, p: losses.sigmoid(s) + 2 * losses.softmax_kd(s.scaled(s.own.scale, 0.0), t),
}
OVER_PAIRS = [name for name in LOSSES if name not in ("feature_matching", "column_kd")]
SPREADS = [[31], [16, 15], [3, 20, 0, 8], [0, 31], [1] * 4 + [27]]


def cast(e: Embeddings, dtype: torch.dtype) -> Embeddings:
    return Embeddings(*(v.to(dtype) for v in (e.image, e.text, e.scale, e.bias)))  # type: ignore[union-attr]


class Counted:
    """A rank that counts its exchanges."""

    def __init__(self, ranks: ThreadRanks) -> None:
        self.ranks, self.rank, self.size = ranks, ranks.rank, ranks.size
        self.calls: Counter[str] = Counter()

    def gather(self, rows: Tensor, counts: Sequence[int]) -> Tensor:
        self.calls["gather"] += 1
        return self.ranks.gather(rows, counts)

    def sum(self, values: Tensor) -> Tensor:
        self.calls["sum"] += 1
        return self.ranks.sum(values)

    def sum_rows(self, values: Tensor, counts: Sequence[int]) -> Tensor:
        self.calls["sum_rows"] += 1
        return self.ranks.sum_rows(values, counts)


class Multiplied(TorchDispatchMode):
    """Counts multiply-adds of matrix products, those that are added in place too, which torch's counter leaves out."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        assert name not in ("bmm", "baddbmm", "matmul")
        if name in ("mm", "addmm", "addmm_"):
            a, b = args[-2:]
            self.count += a.shape[0] * a.shape[1] * b.shape[1]
        return func(*args, **(kwargs or {}))


@dataclass
class Found:
    """What one rank has of a loss: its part, its gradients, its exchanges forward and backward, its multiply-adds."""

    part: Tensor
    rows: list[Tensor]
    shared: list[Tensor]
    forward: Counter[str]
    backward: Counter[str]
    multiplied: int


def run(name: str, counts: list[int], *, dtype: torch.dtype = torch.float64) -> list[Found]:
    """The loss of one batch on as many ranks as there are counts."""
    b = sum(counts)
    student = cast(embed(b), dtype)  # the same numbers in either type
    teachers = [cast(embed(b, w, seed=w, scale=13.0, bias=-6.0), dtype) for w in (9, 3)]

    def work(ranks: ThreadRanks) -> Found:
        start, group = sum(counts[: ranks.rank]), Counted(ranks)
        own = slice(start, start + counts[ranks.rank])
        rows = [side[own].clone().requires_grad_() for side in (student.image, student.text)]
        scalars = [v.clone().requires_grad_() for v in (student.scale, student.bias)]  # type: ignore[union-attr]
        projections = Projections(dtype)
        mine = Share(Embeddings(*rows, *scalars), counts, group, dtype)
        theirs = [Share(t[own], counts, group, dtype) for t in teachers]
        with Multiplied() as counter:
            part = LOSSES[name](mine, theirs, projections)
            forward = Counter(group.calls)
            (3 * part).backward()
        shared = [p.grad for p in (*scalars, *projections.parameters()) if p.grad is not None]
        backward = group.calls - forward
        assert [r.grad is not None for r in rows] == [True, True]
        return Found(
            part.detach(), [r.grad for r in rows if r.grad is not None], shared, forward, backward, counter.count
        )

    return on_ranks(len(counts), work)


def close(got: Tensor, want: Tensor, relative: float) -> bool:
    return bool((got - want).norm() <= relative * want.norm().clamp_min(1e-3))


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("counts", SPREADS, ids=str)
@pytest.mark.parametrize("tile", [1 << 22, 100], ids=["whole", "tiled"])
@pytest.mark.parametrize(("dtype", "relative"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
def test_parts_add_up_to_the_loss_of_one_process_and_its_gradients(
    name: str, counts: list[int], tile: int, dtype: torch.dtype, relative: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    (one,) = run(name, [31])  # in float64, which is the truth
    monkeypatch.setattr(losses, "_TILE", tile)
    found = run(name, counts, dtype=dtype)
    assert close(sum(f.part.double() for f in found), one.part, relative)  # type: ignore[arg-type]
    for side in (0, 1):
        assert close(torch.cat([f.rows[side] for f in found]).double(), one.rows[side], relative)
    for number, want in enumerate(one.shared):  # scale, bias, projections: each rank has a part
        assert close(sum(f.shared[number].double() for f in found), want, relative)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "forward", "backward"),
    [
        ("sigmoid", 1, 1),  # the texts; and what the others say about one's own
        ("softmax", 2, 1),  # beside them the columns' log-sum-exps
        ("drrho", 3, 1),  # texts of student and reference; the log-sum-exps with the diagonal
        ("softmax_kd", 4, 1),  # texts of student and two teachers; the log-sum-exps of all three at once
        ("sigmoid_kd", 3, 1),
        ("feature_matching", 0, 0),
        ("column_kd", 0, 0),
        ("sigmoid and softmax_kd", 4, 1),  # the student's texts are gathered once and their gradients added up first
    ],
)
def test_exchanges_are_few_and_the_same_on_every_rank(name: str, forward: int, backward: int) -> None:
    for counts in ([16, 15], [3, 20, 0, 8]):
        for found in run(name, counts):
            assert found.forward == Counter(gather=forward)
            assert found.backward == Counter(sum_rows=backward)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("tile", [1 << 22, 32], ids=["whole", "row by row"])
def test_a_rank_multiplies_its_share(name: str, ranks: int, tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(losses, "_TILE", tile)
    (one,) = run(name, [32])
    assert one.multiplied > 0
    for found in run(name, [32 // ranks] * ranks):
        assert found.multiplied * ranks == one.multiplied


@pytest.mark.parametrize("name", OVER_PAIRS)
def test_memory_is_that_of_the_rows(name: str) -> None:
    """Of a batch that is one tile: nothing is larger than this rank's rows, and the peak falls with them."""

    def most(ranks: int) -> tuple[int, int]:
        def work(group: ThreadRanks) -> tuple[int, int]:
            e, t = (embed(512 // ranks, 8, seed=seed, dtype=torch.float32) for seed in (group.rank, 9))
            own = Embeddings(e.image.requires_grad_(), e.text.requires_grad_(), e.scale, e.bias)
            counts = [len(own)] * ranks
            with Allocations() as record:
                share = Share(own, counts, group, torch.float32)
                LOSSES[name](share, [Share(t, counts, group, torch.float32)], Projections(torch.float32)).backward()
            return record.largest, record.peak

        return max(on_ranks(ranks, work))

    whole, half, quarter = (most(ranks) for ranks in (1, 2, 4))
    assert (whole[0], half[0], quarter[0]) == (512 * 512, 512 * 256, 512 * 128)
    assert half[1] < 0.6 * whole[1]
    assert quarter[1] < 0.35 * whole[1]


@pytest.mark.parametrize("name", ["softmax", "softmax_kd"])
def test_columns_that_one_rank_alone_is_sure_of_stay_finite(name: str) -> None:
    """Logits of a column are +1000 on one rank and -1000 on the others: their exponentials alone would overflow."""
    image = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [-1.0, 1e-3], [-1.0, 2e-3]], dtype=torch.float64)
    texts = torch.tensor([[1.0, 0.0]], dtype=torch.float64).repeat(4, 1)
    whole = as_share(Embeddings(image, texts, 1000.0, 0.0))
    want = LOSSES[name](whole, [whole], Projections(torch.float64))

    def work(group: ThreadRanks) -> tuple[Tensor, Tensor]:
        own = slice(group.rank, group.rank + 1)
        rows = image[own].clone().requires_grad_()
        share = Share(Embeddings(rows, texts[own], 1000.0, 0.0), [1] * 4, group, torch.float64)
        part = LOSSES[name](share, [share], Projections(torch.float64))
        part.backward()
        assert rows.grad is not None
        return part.detach(), rows.grad

    found = on_ranks(4, work)
    torch.testing.assert_close(sum(part for part, _ in found), want)
    assert all(gradient.isfinite().all() for _, gradient in found)


def test_counts_that_are_not_the_shares_are_refused() -> None:
    class Pair:
        rank, size = 1, 2

    def share(group: Any, *counts: int) -> Share:
        return Share(embed(7), list(counts), group, torch.float64)

    assert (len(share(Pair(), 3, 7)), share(Pair(), 3, 7).start) == (10, 3)
    for counts in ((7, 3), (7,), (3, 4, 7)):
        with pytest.raises(ValueError, match=r"rank 1 of 2.* 7 "):
            share(Pair(), *counts)
    with pytest.raises(ValueError, match=r"3 \+ 7 .*teacher 4 \+ 7"):
        losses.sigmoid_kd(share(Pair(), 3, 7), [share(Pair(), 4, 7)])
