"""Candidates on their way into the loop: the same with any number of workers, faults counted once."""

from __future__ import annotations

import json
import os
import pickle
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from aced.errors import AcedError
from aced.lab.scenes import Scenes, make_pool
from aced.models import load_tower
from aced.pool.loader.filling import Fill
from aced.pool.loader.loading import Loading
from aced.pool.orders.order import Order
from aced.pool.source import Candidates, Column, Fault
from aced.pool.views import View
from aced.train.feed import Faults, _Plan, chunk_bytes, chunks_of, feed, fewest_rows
from aced.train.met import Met
from aced.train.providers import Cached
from aced.train.run.ordering import make_order
from aced.train.run.student import make_student
from run_fakes import POOL, provider_of, run_config, with_holes

VIEWS = [View(32), View(24)]


@pytest.fixture(scope="module")
def pool() -> Scenes:
    return make_pool(POOL, 1)


def test_workers_load_what_the_order_says(pool: Scenes) -> None:
    order = Order(POOL, 80, seed=3)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    alone, helped = (list(feed(Fill(pool, VIEWS), order, range(3, 7), Loading(n))) for n in (0, 2))
    assert torch.equal(torch.get_rng_state(), state)  # the global generator belongs to the user
    assert len(alone) == len(helped) == 4
    for step, (one, other) in enumerate(zip(alone, helped, strict=True), start=3):
        assert torch.equal(one.indices, order.indices(step))
        assert torch.equal(one.indices, other.indices)
        assert one.texts == other.texts
        assert set(one.images) == set(other.images) == set(VIEWS)
        assert all(torch.equal(one.images[view], other.images[view]) for view in VIEWS)


@dataclass(frozen=True, eq=False)
class Broken(Scenes):
    """A pool that cannot be read."""

    die: bool = False

    def read(self, indices: Sequence[int], views: Sequence[View]) -> Candidates:
        if self.die:
            os._exit(7)
        raise AcedError("The tar has changed.")


def broken(pool: Scenes, **how: Any) -> Broken:
    return Broken(**{name: getattr(pool, name) for name in Scenes.__dataclass_fields__}, **how)


@pytest.mark.parametrize("workers", [0, 1])
def test_the_sources_error_is_the_feeds(workers: int, pool: Scenes) -> None:
    batches = feed(Fill(broken(pool), VIEWS), Order(POOL, 80, 0), range(4), Loading(workers))
    with pytest.raises(AcedError, match=r"^The tar has changed\.$"):
        next(batches)


def test_a_worker_that_dies_is_told(pool: Scenes) -> None:
    batches = feed(Fill(broken(pool, die=True), VIEWS), Order(POOL, 80, 0), range(4), Loading(1))
    with pytest.raises(AcedError, match=r"status 7.*data\.workers"):
        next(batches)


def test_the_order_of_a_config(tmp_path: Path, trained: dict[str, Path]) -> None:
    assert make_order(run_config(tmp_path), 400).batch == 16
    assert make_order(run_config(tmp_path, "aced", trained), 400).batch == 80
    assert make_order(run_config(tmp_path, "aced", trained, method__filtering_ratio=0.0), 16).batch == 16
    with pytest.raises(AcedError, match=r"16 \(train\.batch\).*15 samples"):
        make_order(run_config(tmp_path), 15)
    with pytest.raises(AcedError, match=r" 80 \(train\.batch 16 / .*train\.batch.*method"):
        make_order(run_config(tmp_path, "aced", trained), 79)


def faults(*keys: str, name: str = "image_empty") -> list[Fault]:
    return [Fault(key, name, f"{key}: broken.") for key in keys]


def test_a_fault_counts_once_for_each_key() -> None:
    count = Faults(max_share=0.5, total=100)
    count.add(faults("a", "b"), 60)
    count.add(faults("b", "c") + faults("d", name="caption_empty"), 60)
    assert count.counts == {"image_empty": 3, "caption_empty": 1}
    assert count.read == 100  # the second epoch reads nothing new
    assert count.examples["image_empty"].key == "a"


def test_too_large_a_share_stops_the_run() -> None:
    count = Faults(max_share=0.01, total=1000)
    count.add(faults(*"abc"), 100)  # as many as three times the share may come by chance
    with pytest.raises(
        AcedError,
        match=r"^11 of 160 samples.*data\.max_bad_share = 0\.01.*image_empty: a: broken",
    ):
        count.add(faults(*"defghijk"), 60)


def test_a_pool_that_was_read_wholly_is_judged_exactly() -> None:
    within = Faults(max_share=0.01, total=1000)
    within.add(faults(*"abcdefghij"), 1000)
    within.add(faults(*"abcdefghij"), 1000)  # once more, in the second epoch
    with pytest.raises(AcedError, match="11 of 1000"):
        within.add(faults("k"), 100)
    Faults(max_share=0.29, total=100).add(faults(*map(str, range(29))), 100)  # 0.29 * 200 is 57.99 in floats
    Faults(max_share=0.01, total=100).add(faults("a", "b"), 100)  # of 200 there may be two
    with pytest.raises(AcedError, match="3 of 100"):
        Faults(max_share=0.01, total=100).add(faults("a", "b", "c"), 100)


def test_a_resumed_count_judges_as_one_that_was_not_interrupted() -> None:
    rng = np.random.default_rng(0)
    bad = {f"{n}": n for n in rng.choice(3000, 90, replace=False).tolist()}  # 3 %

    def run(stop_at: int | None) -> str:
        count = Faults(max_share=0.01, total=3000)
        for step in range(60):
            if step == stop_at:
                fresh = Faults(max_share=0.01, total=3000)
                # With counts and examples, what a checkpoint holds.
                fresh.read, fresh.met = count.read, Met(count.met.most, count.met.count, set(count.met.hashes))
                fresh.counts, fresh.examples = Counter(count.counts), dict(count.examples)
                count = fresh
            met = [key for key, n in bad.items() if n // 50 == step]
            try:
                count.add(faults(*met), 50)
            except AcedError as error:
                return f"{step}: {error}"
        return "went through"

    whole = run(None)
    assert whole != "went through"
    assert {run(step) for step in range(1, int(whole.partition(":")[0]) + 1)} == {whole}


def test_no_fault_is_allowed_with_a_share_of_zero_and_all_with_one() -> None:
    with pytest.raises(AcedError, match="1 of 10 samples"):
        Faults(max_share=0.0, total=10).add(faults("a"), 10)
    Faults(max_share=1.0, total=10).add(faults(*"abcdefghij"), 10)


def test_what_indexing_left_out_is_counted_but_limits_nothing() -> None:
    count = Faults(max_share=0.0, total=10)
    count.note(faults("x", "y", name="no_caption"))
    count.add([], 10)
    assert count.counts == {"no_caption": 2}
    assert not count.met.count


# -- a batch is a table ------------------------------------------------------------------------------------------------


class Letters(Column):
    """A user's own column: lengths of captions; pairs at some positions have none."""

    def __init__(self, missing: Sequence[int] = ()) -> None:
        super().__init__("letters", torch.int64, ())
        self.missing = set(missing)

    def load(self, candidates: Candidates) -> torch.Tensor:
        return torch.tensor([len(text) for text in candidates.texts], dtype=torch.int64)

    def valid(self, candidates: Candidates) -> torch.Tensor:
        return torch.tensor([index not in self.missing for index in candidates.indices.tolist()], dtype=torch.bool)


@pytest.fixture(scope="module")
def cached(pool: Scenes, trained: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Cached:
    """A cache made when some of the pool could not be read."""
    config = run_config(tmp_path_factory.mktemp("run"), "aced", trained)
    provider = provider_of(config, with_holes(pool, 9), tmp_path_factory.mktemp("cache"))
    assert isinstance(provider, Cached)
    return provider


def equal(one: Candidates, other: Candidates) -> bool:
    """Whether two batches hold the same, bit for bit."""
    tensors, theirs = one.tensors(), other.tensors()
    facts = [(list(c.texts), c.faults, c.notes, c.dropped) for c in (one, other)]
    return (
        tensors.keys() == theirs.keys()
        and all(torch.equal(values, theirs[key]) for key, values in tensors.items())
        and facts[0] == facts[1]
    )


@pytest.mark.parametrize("start_method", ["fork", "forkserver"])
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_tables_are_the_same_with_any_number_of_processes_and_chunks(
    workers: int, start_method: Any, pool: Scenes, cached: Cached, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aced.train.feed._CHUNK", 11)  # seven chunks of each batch
    clip = load_tower(str(clip_config(tmp_path)), seed=1)
    columns = [make_student(run_config(tmp_path)).ids, clip.ids, cached.rows, Letters(missing=[3, 5])]
    order, source = Order(POOL, 80, seed=3), with_holes(pool, 7)

    def batches(count: int) -> list[Candidates]:
        loading = Loading(count, start=start_method)
        return list(feed(Fill(source, VIEWS, columns), order, range(3, 8), loading))

    alone, helped = batches(0), batches(workers)
    assert len(alone) == len(helped) == 5
    assert all(map(equal, alone, helped))
    for step, batch in enumerate(alone, start=3):
        asked = order.indices(step).tolist()
        left = [i for i in asked if i % 7 and i % 9 and i not in (3, 5)]
        assert batch.indices.tolist() == left
        assert batch.asked == len(asked)
        assert len(batch.faults) == sum(i % 7 == 0 for i in asked)
        assert batch.columns["letters"].tolist() == [len(text) for text in batch.texts]
        found = cached.store.lookup(batch.indices)
        assert torch.equal(batch.columns[cached.rows.name], torch.stack([found.image, found.text], 1))
        for tower_ids in columns[:2]:
            assert torch.equal(batch.columns[tower_ids.name], tower_ids.load(batch))


def clip_config(folder: Path) -> Path:
    """A tiny model with CLIP's own tokenizer."""
    vision = {"image_size": 32, "layers": 1, "width": 32, "patch_size": 16, "head_width": 16}
    text = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
    path = folder / "clip.json"
    path.write_text(json.dumps({"embed_dim": 16, "vision_cfg": vision, "text_cfg": text}))
    return path


@dataclass(frozen=True, eq=False)
class Short(Scenes):
    """A source of a user who leaves samples out and says nothing."""

    every: int = 3

    def read(self, indices: Sequence[int], views: Sequence[View]) -> Candidates:
        return super().read([i for i in indices if i % self.every], views)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_source_that_loses_samples_is_told_with_the_numbers(workers: int, pool: Scenes) -> None:
    short = Short(**{name: getattr(pool, name) for name in Scenes.__dataclass_fields__})
    order = Order(POOL, 80, 0)
    there = sum(i % 3 > 0 for i in order.indices(0).tolist())
    with pytest.raises(AcedError, match=rf"^[^\n]*\b80\b[^\n]*\b{there}\b[^\n]*$"):
        next(feed(Fill(short, VIEWS), order, range(4), Loading(workers)))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_column_that_is_not_what_it_says_is_told_by_name(workers: int, pool: Scenes) -> None:
    wrong = Letters()
    wrong.dtype = torch.int32
    with pytest.raises(AcedError, match=r"letters.*int64.*int32"):
        next(feed(Fill(pool, VIEWS, [wrong]), Order(POOL, 80, 0), range(2), Loading(workers)))


def test_a_cached_row_that_is_gone_is_one_sentence(pool: Scenes, cached: Cached) -> None:
    (path,) = Path(cached.store.name).glob("*.safetensors")
    batches = feed(Fill(pool, VIEWS, [cached.rows]), Order(POOL, 80, 0), range(5), Loading(1))
    rows = pickle.loads(pickle.dumps(cached.rows))  # has nothing open
    away = path.rename(path.with_suffix(".away"))
    try:
        with pytest.raises(AcedError, match=rf"^[^\n]*{path.name}[^\n]*$"):
            list(feed(Fill(pool, VIEWS, [rows]), Order(POOL, 80, 0), range(5), Loading(1)))
    finally:
        away.rename(path)
    assert len(list(batches)) == 5  # those that have it open read on


def test_what_is_under_way_does_not_grow_with_the_batch() -> None:
    """b = 4,096, f = .8, 8 ranks with 8 processes each, 224 px, rows of 768: chunks on their way and two batches."""
    rows = 5 * 4096 // 8
    views, columns = [View(224)], [Column("ids", torch.int32, (77,)), Column("rows", torch.float32, (2, 768))]
    row_bytes = 3 * 224**2 + 4 * 77 + 2 * 768 * 4
    chunk = chunk_bytes(rows, views, columns)
    # In /dev/shm, what the loading processes are at, and two batches.
    assert (2 * 8 + 1) * chunk + 8 * chunk + 2 * rows * row_bytes < 1.4e9
    assert chunk_bytes(100 * rows, views, columns) <= chunk
    assert [chunks_of(n, 256) for n in (0, 1, 511, 512)] == [(1, 0), (1, 1), (1, 511), (2, 256)]


def test_chunks_of_small_pairs_have_many_rows_and_of_large_ones_few() -> None:
    rows = [fewest_rows([View(size)], []) for size in (32, 64, 128, 224, 336, 1024)]
    assert rows[:2] == [256, 256]
    assert rows == sorted(rows, reverse=True)
    assert rows[-1] == 64
    for size, fewest in zip((128, 224), rows[2:4], strict=True):
        assert 15e6 < fewest * 3 * size**2 <= 20 << 20 or fewest == 256


class Thinned(Order):
    """An order of which less is loaded, as with `scoring.early`; it notes the steps that are asked for."""

    def __init__(self, kept: int) -> None:
        super().__init__(4096, 1024, seed=0)
        self.kept, self.asked = kept, list[int]()

    def indices(self, step: int) -> torch.Tensor:
        self.asked.append(step)
        return super().indices(step)[: self.kept]

    def epochs(self, step: int) -> torch.Tensor:
        return super().epochs(step)[: self.kept]

    def parts(self, step: int, world: int) -> list[int]:
        return [len(part) for part in super().indices(step)[: self.kept].tensor_split(world)]


def test_processes_with_uneven_parts_ask_for_steps_at_the_same_jobs() -> None:
    """511 rows would be one chunk and 512 two: one process would exchange for a step that the other is not at."""
    asked, parts = [], []
    for rank in range(2):
        order = Thinned(1023)
        plan, steps, jobs = _Plan(order, range(3), (rank, 2), fewest=256), list[int](), list[torch.Tensor]()
        for job in plan:
            steps.append(order.asked[-1])
            jobs.append(job.positions)
        assert len(jobs) <= plan.count
        assert max(map(len, jobs)) <= plan.rows
        asked.append(steps)
        parts.append(torch.cat(jobs[: steps.count(0)]))
    assert asked[0] == asked[1]
    assert torch.equal(torch.cat(parts), Order(4096, 1024, seed=0).indices(0)[:1023])
