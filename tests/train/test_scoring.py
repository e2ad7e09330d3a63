"""Cheap scoring: each piece against what it stands for, worked out by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from aced.config import make_config
from aced.core.embeddings import Embeddings
from aced.core.selection import select
from aced.errors import AcedError
from aced.lab.scenes import Scenes, make_pool
from aced.models.flops import countable
from aced.pool.source import Candidates
from aced.runs.ledger import selection_flops
from aced.train.dealing import Pool
from aced.train.draws import generator_of
from aced.train.run.ordering import make_order
from aced.train.scoring.student_embeddings import embed
from aced.train.step import Trainer
from run_fakes import (
    BATCH,
    POOL,
    SUPER,
    Make,
    even_pool,
    inputs_of,
    positions,
    take,
    trainer_of,
    with_holes,
)

KEPT = 32
"""What a cascade of 0.4 keeps of 80."""


@pytest.fixture(scope="module")
def pool() -> Scenes:
    return make_pool(POOL, 1)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def make(pool: Scenes, cache: Path, trained: dict[str, Path], tmp_path: Path) -> Make:
    return Make(pool, cache, trained, tmp_path / "run")


def hand_select(trainer: Trainer, student: Embeddings | None, reference: Embeddings, size: int, **how: Any) -> Any:
    cfg = trainer.settings
    return select(student, reference, size, loss=cfg.loss, chunks=cfg.chunks, temperature=cfg.temperature, **how)


# -- nothing asked for -------------------------------------------------------------------------------------------------


def test_without_options_the_choice_is_one_draw_by_both_models(make: Make) -> None:
    config = make.config(cascade=1.0, reuse=0)
    trainer, other = make.trainer(config), make.trainer(config)
    candidates = make.pool.read(make_order(config, POOL).indices(0).tolist(), [trainer.student.view])
    assert other.reference is not None
    reference = other.reference.embed(candidates, other.ledger, "reference")
    student = other.student.score(candidates, 1024)
    by_hand = hand_select(other, student, reference, BATCH, score="learnability", generator=other.generator)
    outcome = take(trainer, config, make.pool, 1)[0]
    assert outcome.rows.tolist() == by_hand.indices.tolist()
    torch.testing.assert_close(outcome.scores, by_hand.scores, rtol=1e-5, atol=1e-6)


# -- cascade -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("early", [False, True])
def test_the_cascade_is_two_draws_one_after_the_other(make: Make, early: bool) -> None:
    config = make.config(cascade=0.4, early=early)
    trainer, other = make.trainer(config), make.trainer(config)
    outcome = take(trainer, config, make.pool, 1)[0]

    candidates = make.pool.read(make_order(config, POOL).indices(0).tolist(), [trainer.student.view])
    assert other.reference is not None
    reference = other.reference.embed(candidates, other.ledger, "reference")
    easy = hand_select(other, None, reference, KEPT, score="easy-reference", generator=generator_of("sieve", 0, 0))
    kept = easy.indices.sort().values
    student = other.student.score(candidates[kept], 1024)
    by_hand = hand_select(other, student, reference[kept], BATCH, score="learnability", generator=other.generator)
    assert positions(outcome) == candidates.indices[kept[by_hand.indices]].tolist()
    assert outcome.scores is not None
    scored = (~outcome.scores.isnan()).nonzero().flatten()
    assert outcome.candidates[scored].tolist() == candidates.indices[kept].tolist()
    assert trainer.ledger.samples_loaded == (KEPT if early else SUPER)


@pytest.mark.parametrize(
    ("method", "loss"), [("aced", "sigmoid"), ("aced", "softmax"), ("h-acid-independent", "sigmoid")]
)
def test_deciding_before_loading_changes_nothing_but_what_is_loaded(make: Make, method: str, loss: str) -> None:
    keys = {"cascade": 0.4, "method__loss": loss}
    (late, a), (early, b) = (make.steps(6, method, early=early, **keys) for early in (False, True))
    assert [positions(o) for o in late] == [positions(o) for o in early]
    assert [o.parts.loss.item() for o in late] == [o.parts.loss.item() for o in early]
    assert a.ledger.flops == b.ledger.flops
    assert a.ledger.cached_flops == pytest.approx(b.ledger.cached_flops, rel=1e-12)
    assert a.ledger.samples_loaded == 6 * SUPER
    assert b.ledger.samples_loaded == 6 * KEPT


@pytest.mark.parametrize("method", ["i-aced", "i-acid"])
def test_early_i_aced_loads_what_it_trains_on(make: Make, method: str) -> None:
    outcomes, trainer = make.steps(5, method, early=True)
    assert trainer.ledger.samples_loaded == trainer.ledger.samples_trained == 5 * BATCH
    other = make.trainer(make.config(method))
    order = make_order(make.config(method), POOL)
    assert other.reference is not None
    for step, outcome in enumerate(outcomes):
        candidates = make.pool.read(order.indices(step).tolist(), [])
        reference = other.reference.embed(candidates, other.ledger, "reference")
        easy = hand_select(
            other, None, reference, BATCH, score="easy-reference", generator=generator_of("sieve", 0, step)
        )
        assert sorted(positions(outcome)) == sorted(candidates.indices[easy.indices].tolist())
    assert trainer.ledger.cached_flops == pytest.approx(other.ledger.cached_flops, rel=1e-12)


def test_the_sieve_draws_anew_at_every_step_and_for_every_seed() -> None:
    states = {tuple(generator_of("sieve", seed, step).get_state().tolist()) for seed in range(3) for step in range(3)}
    assert len(states) == 9


def test_early_leaves_out_what_the_cache_has_not(make: Make, tmp_path: Path) -> None:
    make.cache = tmp_path / "another"
    make.trainer(make.config(), with_holes(make.pool, 4))  # makes the cache
    outcomes, trainer = make.steps(3, cascade=0.4, early=True, data__max_bad_share=0.3)
    assert all(not (o.candidates % 4 == 0).any() for o in outcomes)
    assert trainer.ledger.samples_loaded == 3 * KEPT
    # They are never read, so the cache's own count is what tells of them, and what is limited.
    assert trainer.faults.counts.total() == len(make.pool) / 4
    with pytest.raises(AcedError, match=r"reference.*data\.max_bad_share"):
        make.steps(1, cascade=0.4, early=True)


def test_scoring_is_counted_for_the_survivors(make: Make) -> None:
    make.pool = even_pool()
    (_, full), (_, cascaded) = (make.steps(3, cascade=share) for share in (1.0, 0.4))
    assert cascaded.ledger.flops["scoring"] == pytest.approx(0.4 * full.ledger.flops["scoring"])
    widths = [cascaded.student.width, cascaded.reference.width]  # type: ignore[union-attr]
    drawn = selection_flops(SUPER, KEPT, 4, widths[1:]) + selection_flops(KEPT, BATCH, 4, widths)
    assert cascaded.ledger.flops["selection"] == 3 * drawn


# -- reuse -------------------------------------------------------------------------------------------------------------


def test_embeddings_age_out_and_training_refreshes_them(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the student embeds at each step, and the values it scores by, against a plain dictionary."""
    age, config = 6, make.config(reuse=6)
    trainer = make.trainer(config)
    known: dict[int, tuple[int, torch.Tensor]] = {}
    asked: list[list[int]] = []
    score, embed = trainer.student.score, trainer.student.embed

    def watched_score(candidates: Candidates, micro_batch: int) -> Embeddings:
        embedded = score(candidates, micro_batch)
        asked.append(candidates.indices.tolist())
        for i, row in zip(candidates.indices.tolist(), embedded.image, strict=True):
            known[i] = (trainer.step, row)
        return embedded

    def watched_embed(candidates: Candidates) -> Embeddings:
        embedded = embed(candidates)
        if trainer.student.training:
            for i, row in zip(candidates.indices.tolist(), embedded.image.detach(), strict=True):
                known[i] = (trainer.step, row.clone())
        return embedded

    monkeypatch.setattr(trainer.student, "score", watched_score)
    monkeypatch.setattr(trainer.student, "embed", watched_embed)
    order = make_order(config, POOL)
    memory = trainer.memory
    assert memory is not None
    refreshed = 0
    for step in range(14):  # an epoch is five steps
        indices = order.indices(step).tolist()
        due = [i for i in indices if i not in known or step - known[i][0] > age]
        refreshed += sum(i in known and known[i][0] >= step - age for i in indices)
        before = len(asked)
        take(trainer, config, make.pool, 1)
        assert [i for part in asked[before:] for i in part] == due
        there = torch.tensor(indices)
        image, text = memory.get(there)
        assert torch.equal(image, torch.stack([known[i][1] for i in indices]))
        assert memory.made(there, step).tolist() == [known[i][0] for i in indices]
        assert text.shape == image.shape
    assert refreshed > 100


def test_reuse_of_age_zero_steps_would_be_the_plain_run(make: Make) -> None:
    """Within an epoch nothing is seen twice, so nothing is reused and the run is the plain one."""
    (plain, _), (reused, _) = make.steps(5), make.steps(5, reuse=50)
    assert [positions(o) for o in plain] == [positions(o) for o in reused]
    assert [o.parts.loss.item() for o in plain] == [o.parts.loss.item() for o in reused]


def test_reuse_spares_scoring(make: Make) -> None:
    (_, plain), (_, reused) = make.steps(15), make.steps(15, reuse=50)
    assert reused.ledger.flops["scoring"] == pytest.approx(plain.ledger.flops["scoring"] / 3, rel=0.05)


def test_reuse_goes_with_autocast(make: Make) -> None:
    """There scoring gives bfloat16 and training float32."""
    outcomes, trainer = make.steps(7, reuse=50, train__precision="bf16")
    assert trainer.memory is not None
    held = trainer.memory.tensors()
    assert held["memory.image"].dtype == held["memory.text"].dtype == torch.float32
    assert int(held["memory.step"].max()) == 6
    assert outcomes[-1].parts.loss.item() < outcomes[0].parts.loss.item()


# -- lower resolution --------------------------------------------------------------------------------------------------


def test_a_lower_resolution_is_counted_as_the_counter_counts(make: Make) -> None:
    make.pool = even_pool()
    _, trainer = make.steps(1, resolution=16, cascade=0.4)
    candidates = make.pool.read(range(KEPT), [trainer.student.view])
    pool = Pool(candidates, trainer.world, "global", [candidates.indices], {})
    with countable(), FlopCounterMode(display=False) as counter:
        embed(candidates, trainer.moment(pool), trainer.plan.side)
    assert trainer.ledger.flops["scoring"] == 2 * counter.get_total_flops()  # embedded twice: above, and in the step
    assert counter.get_total_flops() < 0.7 * KEPT * trainer.student.forward_flops(candidates.texts)


def test_training_partly_coarse_is_counted_as_the_counter_counts(make: Make) -> None:
    make.pool = even_pool()
    config = make.config("iid", resolution=16, coarse_share=0.5)
    trainer = make.trainer(config)
    take(trainer, config, make.pool, 1)
    candidates = make.pool.read(range(BATCH), [trainer.student.view])
    trainer.student.train()
    assert trainer.student.partly is not None
    marked = replace(candidates, coarse=trainer.student.partly.rows(BATCH))
    with countable(), torch.no_grad(), FlopCounterMode(display=False) as counter:
        trainer.student.embed(marked)
    assert trainer.ledger.flops["forward_backward"] == 3 * counter.get_total_flops()


def test_gradient_caching_sees_the_same_pairs_coarsely(make: Make) -> None:
    """Three at a time, of which a third is coarse, is not one of every three."""
    keys = {"resolution": 16, "coarse_share": 0.4}
    (plain, _), (cached, _) = (make.steps(2, "iid", train__grad_cache=size, **keys) for size in (0, 3))
    assert [o.parts.loss.item() for o in plain] == pytest.approx([o.parts.loss.item() for o in cached], rel=1e-5)
    assert [o.grad_norm.item() for o in plain] == pytest.approx([o.grad_norm.item() for o in cached], rel=1e-4)


# -- together, and what does not go together ---------------------------------------------------------------------------


def test_all_pieces_together_learn(make: Make) -> None:
    keys = {"cascade": 0.5, "early": True, "reuse": 10, "resolution": 16, "coarse_share": 0.5}
    outcomes, trainer = make.steps(12, train__steps=12, **keys)
    assert outcomes[-1].parts.loss.item() < outcomes[0].parts.loss.item()
    assert trainer.ledger.samples_trained == 12 * BATCH


@pytest.mark.parametrize(
    ("method", "keys", "sentence"),
    [
        ("i-aced", {"reuse": 5}, r"scoring\.reuse .*'i-aced'"),
        ("iid", {"reuse": 5}, r"scoring\.reuse.*'iid'"),
        ("i-aced", {"resolution": 16}, r"scoring\.resolution"),
        ("hard-student", {"cascade": 0.5}, r"scoring\.cascade"),
        ("aced", {"early": True}, r"scoring\.early.*'aced'"),
        ("iid", {"early": True}, r"scoring\.early"),
        ("aced", {"coarse_share": 0.5}, r"scoring\.coarse_share.*scoring\.resolution"),
        ("aced", {"unseen": "predict"}, r"'predict'.*scoring\.reuse"),
        (
            "aced",
            {"unseen": "predict", "reuse": 5, "resolution": 16},
            r"scoring\.resolution",
        ),
        ("hard-student", {"unseen": "predict", "reuse": 5}, "'hard-student'"),
        ("aced", {"reuse": 5, "refresh": 0.5}, r"scoring\.refresh.*scoring\.unseen = 'embed'"),
        ("i-aced", {"unseen": "predict"}, r"scoring\.(reuse|unseen)"),
        ("aced", {"cascade": 0.0}, r"scoring\.cascade = 0\.0"),
    ],
)
def test_what_does_not_go_together_is_told(method: str, keys: dict[str, Any], sentence: str) -> None:
    with pytest.raises(AcedError, match=sentence):
        make_config({"reference": {"model": "x"}, "method": {"name": method}, "scoring": keys})


@pytest.mark.parametrize(
    "keys",
    [{"early": True, "cascade": 0.5}, {"unseen": "predict", "reuse": 5}],
)
def test_a_cache_is_asked_for_where_one_is_needed(make: Make, keys: dict[str, Any]) -> None:
    with pytest.raises(AcedError, match=r"reference\.cache"):
        trainer_of(make.config(**keys), make.pool)


def test_a_resolution_that_the_student_cannot_see(make: Make) -> None:
    with pytest.raises(AcedError, match=r"scoring\.resolution.*20.*'aced-demo-s'.*8"):
        make.trainer(make.config(resolution=20))


def test_the_inputs_of_a_run_are_as_before(make: Make) -> None:
    assert inputs_of(make.config("iid"), make.pool).reference is None
