"""Processes that evaluate together give the figures of one, and fail and stop together."""

from __future__ import annotations

import copy
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from aced.errors import AcedError
from aced.evaluate.image_faults import ImageFaults
from aced.evaluate.task_embedder import TaskEmbedder
from aced.evaluate.task_folders import load_task_folder
from aced.evaluate.tasks import Task
from aced.evaluate.zeroshot import Scores, score_all
from aced.pool.loader.loading import Loading
from aced.pool.views import View
from aced.train.distributed import World
from aced.train.evaluating import Cutting, dealt, embed_together, to_the_end
from rank_fakes import ThreadRanks, on_ranks

sys.path.insert(0, str(Path(__file__).parents[1] / "evaluate"))

from task_fakes import BROKEN, COUNT, KINDS, LOST, PixelTower, members, noise, texts, write_task

MICRO_BATCH = 5


class ThreadWorld(World):
    """A job whose processes are threads."""

    def __init__(self, ranks: ThreadRanks, words: set[str]) -> None:
        self.rank, self.size, self._ranks, self._words = ranks.rank, ranks.size, ranks, words
        self.gather, self.sum = ranks.gather, ranks.sum  # type: ignore[method-assign]

    def meet(self) -> None:
        self._ranks._all(torch.zeros(0))

    def leave(self, word: str) -> None:
        self._words.add(word)

    def finds(self, word: str) -> bool:
        return word in self._words


@dataclass
class Counting(PixelTower):
    """Counts what it embeds."""

    images: list[int] = field(default_factory=list)
    texts: list[int] = field(default_factory=list)
    model: nn.Module = field(default_factory=nn.Module)

    def __post_init__(self) -> None:
        super().__init__()

    def embed_image(self, images: Tensor) -> Tensor:
        self.images.append(len(images))
        return super().embed_image(images)

    def embed_text(self, texts: list[str]) -> Tensor:
        self.texts.append(len(texts))
        return super().embed_text(texts)


class Plain:
    """Images that are had all at once."""

    def __call__(self, view: View) -> Tensor:
        draw = torch.Generator().manual_seed(1)
        return torch.randint(256, (12, 3, view.size, view.size), generator=draw, dtype=torch.uint8)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    place, draw = tmp_path_factory.mktemp("tasks"), np.random.default_rng(3)
    content = [BROKEN if i in LOST else noise(draw) for i in range(COUNT)]
    names = {kind: "fairface" if kind == "faces" else f"wds_{kind}" for kind in KINDS}
    return [write_task(place / names[kind], members(kind, content, set(range(COUNT))), **texts(kind))
            for kind in KINDS]  # fmt: skip


def load(folders: Sequence[Path]) -> list[Task]:
    """The tasks of some folders, and two that share images that cannot be read in parts."""
    from aced.evaluate.tasks import Classification, Retrieval

    tasks = [task for folder in folders for task in load_task_folder(folder)]
    plain, labels = Plain(), torch.arange(12) % 3
    tasks.append(Classification("plain", plain, labels, ["a", "b", "c"], ["{c}", "a {c}"], 1 / 3))
    tasks.append(Retrieval("captions", plain, [[f"number {i}", "a"] for i in range(12)], "both", 1 / 12))
    return tasks


@dataclass
class Outcome:
    """What one process has of an evaluation."""

    scores: Scores | None
    tower: Counting
    before: tuple[int, int]


def evaluated(
    ranks: int,
    tasks: Callable[[int], list[Task]],
    cutting: Callable[[int], Cutting] = lambda rank: to_the_end,
    tower: Callable[[int], Counting] = lambda rank: Counting(),
) -> list[Outcome]:
    """As `aced.train.run.run_scores` evaluates, by threads."""
    words: set[str] = set()

    def work(threads: ThreadRanks) -> Outcome:
        own, model, world = tasks(threads.rank), tower(threads.rank), ThreadWorld(threads, words)
        embedder = embed_together(
            world,
            model,  # type: ignore[arg-type]
            own,
            micro_batch=MICRO_BATCH,
            precision="fp32",
            loading=Loading(),
            step=1,
            cutting=cutting(threads.rank),
        )
        before = sum(model.images), sum(model.texts)
        scores = score_all(model, own, embedder) if embedder is not None and world.first else None
        return Outcome(scores if embedder is not None else None, model, before)

    return on_ranks(ranks, work)


def in_one(tasks: list[Task]) -> Scores:
    tower = Counting()
    return score_all(tower, tasks, TaskEmbedder(tower, MICRO_BATCH))


def same(found: Scores | None, expected: Scores) -> None:
    """Every number and every fault."""
    assert found is not None
    assert found.failed == expected.failed
    assert list(found.results) == list(expected.results)
    for name, result in expected.results.items():
        other = found.results[name]
        assert (other, other.metrics, other.stderr) == (result, result.metrics, result.stderr), name
        assert other.faults == result.faults


@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_the_figures_are_those_of_one_process(ranks: int, folders: list[Path]) -> None:
    first, *others = evaluated(ranks, lambda rank: load(folders))
    expected = in_one(load(folders))
    same(first.scores, expected)
    assert any(result.faults.lost for result in expected.results.values())
    # All is embedded together, by each as much, and nothing is left for the first one alone.
    assert (sum(first.tower.images), sum(first.tower.texts)) == first.before
    made = [sum(outcome.tower.images) for outcome in (first, *others)]
    tower = Counting()
    score_all(tower, load(folders), TaskEmbedder(tower, MICRO_BATCH))
    assert sum(made) == sum(tower.images)
    assert max(made) <= sum(made) / ranks + 2 * MICRO_BATCH + 12
    written = [sum(outcome.tower.texts) for outcome in (first, *others)]
    assert sum(written) <= sum(tower.texts)
    assert max(written) <= sum(written) / ranks + 2 * MICRO_BATCH
    assert all(outcome.scores is None for outcome in others)


class Failing:
    """Images that raise from some position on, in parts."""

    structure = "the same"

    def __init__(self, inner: Any, error: Exception) -> None:
        self._inner, self._error = inner, error

    def __len__(self) -> int:
        return len(self._inner)

    def __call__(self, view: View) -> Tensor:
        raise self._error

    def parts(self, *words: Any, **named: Any) -> Iterator[tuple[Tensor, ImageFaults]]:
        for part in self._inner.parts(*words, **named):
            yield part
            raise self._error


def with_images(tasks: list[Task], name: str, change: Callable[[Any], Any]) -> list[Task]:
    from dataclasses import replace

    return [replace(task, images=change(task.images)) if task.name == name else task for task in tasks]


@pytest.mark.parametrize(
    "error", [AcedError("A tar is gone."), MemoryError(), IndexError("index 7"), OSError(5, "I/O")]
)
@pytest.mark.parametrize("failing", [0, 1])
def test_a_task_that_fails_in_one_process_fails_for_all(failing: int, error: Exception, folders: list[Path]) -> None:
    def tasks(rank: int) -> list[Task]:
        own = error if rank == failing else AcedError("not me")
        return with_images(load(folders), "retrieval", lambda images: Failing(images, own) if rank == failing
                           else _Marked(images))  # fmt: skip

    found = evaluated(2, tasks)[0].scores
    assert found is not None
    expected = in_one(load(folders))
    assert list(found.failed) == ["retrieval"]
    assert "not me" not in found.failed["retrieval"]
    alone = in_one(with_images(load(folders), "retrieval", lambda images: Failing(images, error)))
    assert found.failed["retrieval"].split("(")[0] == alone.failed["retrieval"].split("(")[0]
    del expected.results["retrieval"]
    same(Scores(found.results), expected)


class _Marked:
    """The same images under the name of `Failing`'s."""

    structure = "the same"

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __len__(self) -> int:
        return len(self._inner)

    def parts(self, *words: Any, **named: Any) -> Any:
        return self._inner.parts(*words, **named)


def test_what_processes_see_differently_is_the_first_ones(folders: list[Path]) -> None:
    """A task that is not there, or another one, on another machine."""

    def tasks(rank: int) -> list[Task]:
        found = load(folders)
        if rank == 0:
            return found
        return [
            task for task in with_images(found, "selection", lambda images: _Marked(images)) if task.name != "plain"
        ]

    same(evaluated(2, tasks)[0].scores, in_one(load(folders)))


@pytest.mark.parametrize("cut", [0, 1])
@pytest.mark.parametrize("phase", [1, 2])
def test_all_are_cut_short_where_one_is(cut: int, phase: int, folders: list[Path]) -> None:
    calls: list[int] = []

    def cutting(rank: int) -> Cutting:
        def do(work: Callable[[], object]) -> bool:
            calls.append(rank)
            if rank == cut and calls.count(rank) == phase:
                return False
            work()
            return True

        return do

    outcomes = evaluated(3, lambda rank: load(folders), cutting)
    assert [outcome.scores for outcome in outcomes] == [None] * 3
    assert len(calls) == 3 * phase


def test_the_others_leave_off_at_once(folders: list[Path]) -> None:
    left = threading.Event()

    def cutting(rank: int) -> Cutting:
        def do(work: Callable[[], object]) -> bool:
            if rank == 1:
                left.set()
                return False
            left.wait(30)
            threading.Event().wait(0.2)  # until the word is there
            work()
            return True

        return do

    outcomes = evaluated(2, lambda rank: load(folders), cutting)
    assert outcomes[0].scores is None
    assert sum(outcomes[0].tower.images) == 0


@dataclass
class Normed(Counting):
    """Takes running statistics off the pixels, which every process has its own of."""

    rank: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.model = nn.BatchNorm1d(3)
        self.model.running_mean = torch.tensor([0.1, -0.2, 0.3]) * (self.rank + 1)

    def embed_image(self, images: Tensor) -> Tensor:
        mean = self.model.running_mean
        assert isinstance(mean, Tensor)
        return super().embed_image(images.float() + 255 * mean[:, None, None])


def test_running_statistics_are_the_first_ones_and_come_back(folders: list[Path]) -> None:
    outcomes = evaluated(3, lambda rank: load(folders), tower=lambda rank: Normed(rank=rank))
    tower = Normed(rank=0)
    same(outcomes[0].scores, score_all(tower, load(folders), TaskEmbedder(tower, MICRO_BATCH)))
    for rank, outcome in enumerate(outcomes):
        kept = copy.deepcopy(outcome.tower.model.state_dict())
        assert torch.equal(kept["running_mean"], torch.tensor([0.1, -0.2, 0.3]) * (rank + 1))


def test_parts_are_dealt_in_order_and_evenly() -> None:
    draw = np.random.default_rng(0)
    for ranks in (1, 2, 3, 8):
        for count in (0, 1, 5, 40):
            sizes = draw.integers(1, 100, size=count).tolist()
            takers = dealt(sizes, ranks)
            assert len(takers) == count
            assert takers == sorted(takers)
            assert all(0 <= taker < ranks for taker in takers)
            loads = [sum(s for s, t in zip(sizes, takers, strict=True) if t == rank) for rank in range(ranks)]
            assert max(loads, default=0) <= sum(sizes) / ranks + max(sizes, default=0)
