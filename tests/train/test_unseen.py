"""Scores with little or no scoring pass: what is remembered, what is guessed, and what is embedded after all."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from aced.core.embeddings import Embeddings
from aced.lab.scenes import make_pool
from aced.pool.source import Candidates
from aced.train.dealing import Pool
from aced.train.providers import Cached
from aced.train.run.ordering import make_order
from aced.train.scoring.memory import Memory
from aced.train.scoring.student_embeddings import recall
from aced.train.step import Trainer
from run_fakes import BATCH, POOL, Make, positions, take


@pytest.fixture
def make(trained: dict[str, Path], tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Make:
    return Make(make_pool(POOL, 1), tmp_path_factory.getbasetemp() / "unseen-cache", trained, tmp_path / "run")


def memory_of(trainer: Trainer) -> Memory:
    assert trainer.memory is not None
    return trainer.memory


def test_what_training_has_not_seen_is_predicted_from_the_reference(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the maps that were fitted to what training embedded; no tower is asked."""
    config = make.config(reuse=50, unseen="predict")
    trainer = make.trainer(config)
    monkeypatch.setattr(trainer.student, "score", None)
    take(trainer, config, make.pool, 4)
    memory, guess = memory_of(trainer), memory_of(trainer).guess
    assert guess is not None
    candidates = make.pool.read(range(60), [trainer.student.view])
    missing = memory.missing(candidates.indices, trainer.step)
    assert 0 < len(missing) < 60
    assert isinstance(trainer.reference, Cached)
    reference = trainer.reference.store.lookup(candidates.indices)
    pool = Pool(candidates, trainer.world, "global", [candidates.indices], {})
    embedded, width = recall(memory, candidates, reference, trainer.moment(pool)), trainer.student.width
    reference = reference[missing]
    for side, name in enumerate(("image", "text")):
        rows, known = getattr(embedded, name), getattr(reference, name)
        expected = known @ guess.fit.maps[side, :-1] + guess.fit.maps[side, -1]
        expected /= expected.norm(dim=1, keepdim=True).clamp(min=1)
        torch.testing.assert_close(rows[missing, :width], expected)
        assert not rows[missing, width + 1 - side].any()
        torch.testing.assert_close(rows.norm(dim=1), torch.ones(60))
    # The fit knows something: a prediction is nearer to what the student makes of the pair than nothing is.
    monkeypatch.undo()
    truth = trainer.student.score(candidates[missing], 1024)
    assert ((embedded.image[missing, :width] - truth.image).norm(dim=1) < 1).float().mean() > 0.9


def test_a_few_are_embedded_after_all_the_oldest_first(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which ones at each step, and what is then known of them, against a plain dictionary."""
    age, refreshed = 6, 10
    config = make.config(reuse=age, unseen="predict", refresh=refreshed / BATCH, train__steps=14)
    trainer = make.trainer(config)
    made: dict[int, int] = {}
    asked: list[list[int]] = []
    score, order = trainer.student.score, make_order(config, POOL)

    def watched(candidates: Candidates, micro_batch: int) -> Embeddings:
        asked.append(candidates.indices.tolist())
        return score(candidates, micro_batch)

    monkeypatch.setattr(trainer.student, "score", watched)
    for step in range(14):
        indices = order.indices(step).tolist()
        when = {i: made[i] if i in made and step - made[i] <= age else -1 for i in indices}
        # Twice as many at every second step.
        due = sorted(sorted(indices, key=lambda i: when[i])[: 2 * refreshed * (step % 2 == 0)], key=indices.index)
        before = len(asked)
        outcome = take(trainer, config, make.pool, 1)[0]
        assert [i for part in asked[before:] for i in part] == due
        made |= dict.fromkeys([*due, *positions(outcome)], step)
        assert memory_of(trainer).made(torch.tensor(indices), step).tolist() == [
            made[i] if i in made and step - made[i] <= age else -1 for i in indices
        ]
    assert len({i for part in asked for i in part}) > 80


def test_what_is_embedded_after_all_is_counted(make: Make) -> None:
    (_, without), (_, few) = (make.steps(4, reuse=5, unseen="predict", refresh=share) for share in (0.0, 0.5))
    extra = few.ledger.flops["scoring"] - without.ledger.flops["scoring"]
    # Texts of different lengths cost the tower differently; a forward pass costs a third of a training pass.
    assert extra == pytest.approx(few.ledger.flops["forward_backward"] / 3 / 2, rel=0.1)


def test_predicted_scores_learn(make: Make) -> None:
    keys = {"cascade": 0.5, "early": True, "reuse": 10}
    outcomes, trainer = make.steps(12, unseen="predict", refresh=0.25, train__steps=12, **keys)
    assert outcomes[-1].parts.loss.item() < outcomes[0].parts.loss.item()
    assert trainer.ledger.samples_trained == 12 * BATCH
