"""What is told before several processes begin, and how they share out what was chosen."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from aced.config import make_config
from aced.errors import AcedError
from aced.lab.scenes import Scenes, make_pool
from aced.pool.source import Candidates
from aced.runs.ledger import Ledger
from aced.train.dealing import Pool
from aced.train.distributed import World, local_device, open_world
from aced.train.ending import ending_together
from aced.train.run.fit import make_trainer
from aced.train.run.inputs import Inputs
from aced.train.run.ordering import check_divisible
from aced.train.run.student import make_student
from aced.train.scoring.draw import count_draw
from run_fakes import POOL, SUPER, run_config


@pytest.fixture(scope="module")
def pool() -> Scenes:
    return make_pool(POOL, 1)


class Fake(World):
    """Rank `rank` of a job whose ranks have `sizes` candidates; it exchanges nothing."""

    def __init__(self, rank: int, sizes: list[int]) -> None:
        self.rank, self.size = rank, len(sizes)


def pool_of(rank: int, sizes: list[int], scope: Any) -> Pool:
    positions = list(torch.arange(sum(sizes)).split(sizes))
    return Pool(Candidates(positions[rank], [""] * sizes[rank], {}), Fake(rank, sizes), scope, positions, {})


@pytest.mark.parametrize("seed", range(5))
def test_shares_are_even_and_as_few_as_can_be_move(seed: int) -> None:
    sizes = [10, 30, 20, 5]
    rows = torch.randperm(65, generator=torch.Generator().manual_seed(seed))[:22]
    dealt = pool_of(0, sizes, "global").deal(rows)
    assert sorted(dealt.rows.tolist()) == sorted(rows.tolist())
    assert torch.bincount(dealt.takers, minlength=4).tolist() == [6, 6, 5, 5]
    assert dealt.takers.tolist() == sorted(dealt.takers.tolist())
    owned = torch.bincount(dealt.owners, minlength=4).tolist()
    surplus = sum(max(0, have - share) for have, share in zip(owned, [6, 6, 5, 5], strict=True))
    assert int((dealt.owners != dealt.takers).sum()) == surplus
    ends = torch.tensor(sizes).cumsum(0)
    assert [int((ends <= row).sum()) for row in dealt.rows] == dealt.owners.tolist()


@pytest.mark.parametrize("scope", ["quota", "local"])
def test_other_scopes_move_nothing(scope: str) -> None:
    there = pool_of(1, [20, 20, 20], scope)
    rows = there.draw(12, torch.Generator().manual_seed(0))
    dealt = there.deal(rows)
    assert torch.equal(dealt.owners, dealt.takers)
    assert torch.bincount(dealt.owners, minlength=3).tolist() == [4, 4, 4]
    assert len(there.take([dealt])[0].batch) == 4


def test_one_process_keeps_the_order_of_the_draw(pool: Scenes) -> None:
    own = pool.read(range(50), [])
    there = Pool(own, World(), "global", [own.indices], {})
    rows = torch.randperm(50)[:20]
    dealt = there.deal(rows)
    assert torch.equal(dealt.rows, rows)
    assert there.take([dealt])[0].batch.texts == [own.texts[i] for i in rows.tolist()]


@pytest.mark.parametrize("loss", ["sigmoid", "softmax"])
@pytest.mark.parametrize("name", ["h-acid", "h-acid-independent"])
def test_ranks_together_count_the_draw_of_one_process(
    name: str, loss: str, tmp_path: Path, trained: dict[str, Path]
) -> None:
    config = run_config(tmp_path, name, trained, method__loss=loss)
    trainer = make_trainer(config, Inputs(make_pool(SUPER, 1), []), make_student(config))

    def counted(*sizes: int, scope: str = "global") -> float:
        ledger, settings = Ledger(), replace(trainer.settings, scope=scope)  # type: ignore[arg-type]
        for rank, size in enumerate(sizes):
            there = Fake(rank, list(sizes))
            count_draw(ledger, settings, trainer.method, there, (size, sum(sizes)), 16, [64, 128])
        return ledger.flops["selection"]

    one = counted(80)
    assert (one == 0) == (name == "h-acid-independent" and loss == "sigmoid")
    assert counted(40, 40) == counted(20, 20, 20, 20) == counted(0, 70, 3, 7) == one
    # By itself a rank meets its own alone.
    assert counted(40, 40, scope="local") == one / 2
    assert counted(20, 20, 20, 20, scope="local") == one / 4


# -- bad input ---------------------------------------------------------------------------------------------------------


def test_an_environment_that_is_not_torchruns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    assert type(open_world(1)) is World
    monkeypatch.setenv("RANK", "0")
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with pytest.raises(AcedError, match=r"RANK.*WORLD_SIZE.*torchrun"):
        open_world(1)


@pytest.mark.parametrize(
    ("batch", "ratio", "words"),
    [(30, 0.0, "batch of 30.* 4"), (32, 0.62, "super-batch of 84.* 8")],
)
def test_shares_that_are_not_whole(
    batch: int, ratio: float, words: str, tmp_path: Path, trained: dict[str, Path]
) -> None:
    config = run_config(tmp_path, "h-acid", trained, train__batch=batch, method__filtering_ratio=ratio)
    with pytest.raises(AcedError, match=words):
        check_divisible(config, int(words[-1]))


def test_more_processes_than_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "9")
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert local_device("cpu") == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert local_device("auto") == local_device("cuda") == "cuda:3"
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(AcedError, match=r"Process 3 .*GPU.* 2"):
        local_device("auto")


def test_fsdp_takes_no_fp16() -> None:
    with pytest.raises(AcedError, match=r"'fsdp'.*bf16.*fp32"):
        make_config({"run": {"parallel": "fsdp"}, "method": {"name": "iid"}, "train": {"precision": "fp16"}})


def test_one_process_ends_as_it_always_did() -> None:
    with pytest.raises(AcedError, match="a reason"), ending_together(World()):
        raise AcedError("a reason")
