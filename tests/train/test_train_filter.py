"""The filter of a pool by the reference's similarities, once and before training."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from aced.errors import AcedError
from aced.lab.scenes import Scenes
from aced.pool.orders.mixture import Mixture
from aced.pool.orders.order import Order
from aced.train.providers import Cached
from aced.train.run.inputs import make_inputs
from aced.train.run.student import make_student
from aced.train.scoring.filtering import FILTERED, FilteredOrder, kept_pairs, similarities
from run_fakes import BATCH, POOL, even_pool, inputs_of, quiet, run_config, take, trainer_of


@pytest.fixture(scope="module")
def pool() -> Scenes:
    return even_pool()


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.mark.parametrize(("name", "ratio"), [("clip-filter", 0.8), ("clip-filter", 0.5), ("clip-filter-kd", 0.7)])
def test_random_batches_of_the_pairs_that_the_reference_finds_most_alike(
    name: str, ratio: float, pool: Scenes, cache: Path, tmp_path: Path, trained: dict[str, Path]
) -> None:
    config = run_config(tmp_path, name, trained, method__filtering_ratio=ratio)
    provider = inputs_of(config, pool, cache).reference
    assert isinstance(provider, Cached)
    found = provider.store.lookup(torch.arange(POOL))
    alike = [
        math.fsum(a * b for a, b in zip(x, y, strict=True))
        for x, y in zip(found.image.tolist(), found.text.tolist(), strict=True)
    ]
    kept = set(sorted(range(POOL), key=alike.__getitem__, reverse=True)[: round((1 - ratio) * POOL)])

    trainer = trainer_of(config, pool, cache)
    assert trainer.reference is None  # no step asks it
    assert trainer.ledger.cached_flops == POOL * provider.forward_flops
    steps = len(kept) // BATCH
    epochs = [take(trainer, config, pool, steps) for _ in range(2)]
    for outcomes in epochs:
        seen = torch.cat([outcome.candidates for outcome in outcomes]).tolist()
        assert len(seen) == len(set(seen)) == steps * BATCH
        assert set(seen) <= kept
    assert not torch.equal(epochs[0][0].candidates, epochs[1][0].candidates)
    assert trainer.ledger.samples_loaded == trainer.ledger.samples_trained == 2 * steps * BATCH


def test_pairs_without_embeddings_are_never_kept_and_of_equal_ones_the_first() -> None:
    scores = torch.tensor([0.1, -torch.inf, 0.5, 0.5, -0.2, 0.5])
    assert kept_pairs(scores, 0.6).tolist() == [2, 3]
    assert kept_pairs(scores, 0.0).tolist() == [0, 2, 3, 4, 5]


def test_similarities_are_looked_up_in_parts(
    pool: Scenes, cache: Path, tmp_path: Path, trained: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    provider = inputs_of(run_config(tmp_path, "clip-filter", trained), pool, cache).reference
    assert isinstance(provider, Cached)
    whole = similarities(provider.store)
    monkeypatch.setattr("aced.train.scoring.filtering._AT_ONCE", 37)
    torch.testing.assert_close(similarities(provider.store), whole)


def test_what_a_filter_cannot_do(pool: Scenes, tmp_path: Path, trained: dict[str, Path]) -> None:
    with pytest.raises(AcedError, match=r"needs the reference's cached embeddings: set reference\.cache"):
        trainer_of(run_config(tmp_path, "clip-filter", trained), pool)
    with pytest.raises(AcedError, match=r"3 of 400 .*16: .*method\.filtering_ratio"):
        FilteredOrder(Order(POOL, BATCH, 0), torch.arange(3))
    with pytest.raises(AcedError, match=r"data\.locality=0"):
        FilteredOrder(Mixture([200, 200], [1.0, 1.0], BATCH, 0), torch.arange(100))


def test_a_checkpoint_knows_the_choice(pool: Scenes, cache: Path, tmp_path: Path, trained: dict[str, Path]) -> None:
    marks = [
        trainer_of(run_config(tmp_path, "clip-filter", trained, method__filtering_ratio=ratio), pool, cache).marks
        for ratio in (0.5, 0.5, 0.7)
    ]
    assert marks[0] == marks[1]
    assert {what for what in marks[0] if marks[0][what] != marks[2][what]} == {FILTERED}


def test_a_loss_that_looks_at_the_reference_has_it_after_the_filter(
    pool: Scenes, cache: Path, tmp_path: Path, trained: dict[str, Path]
) -> None:
    config = run_config(tmp_path, "clip-filter", trained, method__loss="drrho")
    trainer = trainer_of(config, pool, cache)
    assert trainer.reference is not None
    assert len(take(trainer, config, pool, 2)) == 2


def test_a_filter_without_a_cache_is_refused_before_anything_is_decoded(
    tmp_path: Path, trained: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aced.train.run.inputs._decoded", lambda *_: pytest.fail("it was decoded"))
    config = run_config(tmp_path, "clip-filter", trained)
    with pytest.raises(AcedError, match=r"reference\.cache"):
        make_inputs(config, make_student(config), quiet())
