"""Every row of the methods table trains, and the ledger counts exactly what METHOD section 4 says."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from aced.core.columns import column_flops
from aced.errors import AcedError
from aced.lab.scenes import Scenes
from aced.methods import METHODS
from aced.models.flops import countable
from aced.runs.ledger import flops_per_trained_sample, selection_flops
from aced.train.providers import Cached, Live
from aced.train.scoring import draw
from run_fakes import BATCH, SUPER, even_pool, run_config, take, trainer_of

STEPS = 3
RUNS = [
    pytest.param(name, cached, id=f"{name}-{'cached' if cached else 'live'}")
    for name, method in METHODS.items()
    for cached in ((False, True) if method.needs_large or method.needs_peer else (False,))
    if cached or not (method.columns or method.filters)
]


@pytest.fixture(scope="module")
def pool() -> Scenes:
    return even_pool()


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.mark.parametrize(("name", "cached"), RUNS)
def test_a_method_trains_and_its_ledger_is_exact(
    name: str, cached: bool, pool: Scenes, cache: Path, tmp_path: Path, trained: dict[str, Path]
) -> None:
    method = METHODS[name]
    config = run_config(tmp_path, name, trained)
    trainer = trainer_of(config, pool, cache if cached else None)
    before = {key: value.clone() for key, value in trainer.student.state_dict().items()}
    outcomes = take(trainer, config, pool, STEPS)

    assert any(not torch.equal(before[key], value) for key, value in trainer.student.state_dict().items())
    candidates = SUPER if method.chooses else BATCH
    for outcome in outcomes:
        assert math.isfinite(outcome.parts.loss.item())
        assert (outcome.parts.distillation is not None) == (method.distill is not None)
        assert len(outcome.rows) == len(set(outcome.rows.tolist())) == BATCH
        assert len(outcome.candidates) == candidates
        assert (outcome.scores is None) == (method.score is None)

    ledger, batches = trainer.ledger, 2 if method.distill_on == "iid" else 1
    student = trainer.student.forward_flops(pool.captions[:2])
    frozen = trainer.reference or (trainer.teachers[0] if trainer.teachers else None)
    large = frozen.tower.forward_flops(pool.captions[:2]) if isinstance(frozen, Live) else 0.0
    assert ledger.samples_trained == STEPS * BATCH * batches
    assert ledger.samples_loaded == STEPS * candidates
    assert ledger.flops["forward_backward"] == 3 * student * STEPS * BATCH * batches
    assert ledger.flops["scoring"] == (student * STEPS * SUPER if method.scores_student else 0)
    of_reference = SUPER if method.scores_reference else BATCH if method.guided and not method.distill else 0
    assert ledger.flops["reference"] == large * STEPS * of_reference
    compared = column_flops(BATCH, method.columns, frozen.width) if method.columns and frozen is not None else 0.0
    of_teacher = large * BATCH if method.distill and not method.score else 0
    assert ledger.flops["teacher"] == STEPS * (of_teacher + compared)
    widths = [64] * method.scores_student
    widths += [frozen.width] if frozen is not None and method.scores_reference else []
    joint = method.score is not None and method.strategy == "joint"
    assert ledger.flops["selection"] == (STEPS * selection_flops(SUPER, BATCH, 4, widths) if joint else 0)
    if batches == 1:
        expected = flops_per_trained_sample(
            filtering_ratio=0.8 if method.chooses else 0.0,
            reference=large / student,
            scores_student=method.scores_student,
            uses_reference=frozen is not None,
            cached=cached,
        )
        spent = sum(ledger.flops.values()) - ledger.flops["selection"] - STEPS * compared
        assert spent / (student * ledger.samples_trained) == pytest.approx(expected, rel=1e-12)
    assert (ledger.cached_flops > 0) == cached


def test_a_cache_notes_what_the_model_would_have_cost(
    pool: Scenes, cache: Path, tmp_path: Path, trained: dict[str, Path]
) -> None:
    config = run_config(tmp_path, "aced", trained)
    live, cached = trainer_of(config, pool), trainer_of(config, pool, cache)
    outcomes = [take(trainer, config, pool, 2) for trainer in (live, cached)]
    # The reference is the teacher too and is asked once: also as it would have been.
    assert cached.ledger.cached_flops == live.ledger.flops["reference"] > 0
    assert cached.ledger.flops["reference"] == cached.ledger.flops["teacher"] == live.ledger.flops["teacher"] == 0
    # Nobody downstream can tell: the embeddings agree up to float16, and so do the losses.
    for one, other in zip(*outcomes, strict=True):
        assert one.parts.distillation.item() == pytest.approx(other.parts.distillation.item(), rel=2e-2)


@pytest.mark.parametrize(("name", "batches"), [("aced", [SUPER]), ("aced-iidistill", [SUPER]), ("softmax-kd", [BATCH])])
def test_a_live_model_embeds_each_super_batch_once(
    name: str, batches: list[int], pool: Scenes, tmp_path: Path, trained: dict[str, Path]
) -> None:
    config = run_config(tmp_path, name, trained)
    trainer = trainer_of(config, pool)
    provider = trainer.teachers[0]
    assert isinstance(provider, Live)
    seen: list[int] = []
    score = provider.tower.score

    def counted(candidates: Any, micro_batch: int) -> Any:
        seen.append(len(candidates))
        return score(candidates, micro_batch)

    provider.tower.score = counted  # type: ignore[method-assign]
    take(trainer, config, pool, STEPS)
    assert seen == batches * STEPS


def test_the_teacher_sees_the_rows_that_are_distilled_on(
    pool: Scenes, tmp_path: Path, trained: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = run_config(tmp_path, "aced", trained)
    trainer = trainer_of(config, pool)
    provider = trainer.teachers[0]
    assert isinstance(provider, Live)
    taught: list[Any] = []
    objective = trainer.objective.forward
    monkeypatch.setattr(trainer.objective, "forward", lambda *parts: (taught.append(parts), objective(*parts))[1])
    (outcome,) = take(trainer, config, pool, 1)
    contrastive, distilled, (teacher,), columns, _ = taught[0]
    assert contrastive is distilled
    assert columns == []
    chosen = pool.read(outcome.candidates[outcome.rows].tolist(), [provider.tower.view])
    torch.testing.assert_close(teacher.own.image, provider.tower.score(chosen, 64).image)
    torch.testing.assert_close(teacher.own.text, provider.tower.score(chosen, 64).text)


def test_columns_are_the_teachers_and_follow_from_seed_and_step(
    pool: Scenes, cache: Path, tmp_path: Path, trained: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def columns_of(seed: int) -> list[Any]:
        config = run_config(tmp_path, "columns-kd", trained, method__columns=9, run__seed=seed)
        trainer = trainer_of(config, pool, cache)
        seen: list[Any] = []
        objective = trainer.objective.forward
        monkeypatch.setattr(trainer.objective, "forward", lambda *parts: (seen.append(parts[3]), objective(*parts))[1])
        take(trainer, config, pool, 2)
        provider = trainer.teachers[0]
        assert isinstance(provider, Cached)
        whole = provider.store.lookup(torch.arange(len(pool))).image
        for (columns,) in seen:
            assert columns.image.shape == columns.text.shape == (9, provider.width)
            assert all((whole == row).all(1).any() for row in columns.image)
        return [columns.image for (columns,) in seen]

    first, again, other = columns_of(3), columns_of(3), columns_of(4)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first[0], other[0])


def test_columns_need_a_cache_and_the_config_can_leave_them_out(
    pool: Scenes, tmp_path: Path, trained: dict[str, Path]
) -> None:
    with pytest.raises(AcedError, match=r"512 columns.*reference.cache.*method.columns=0"):
        trainer_of(run_config(tmp_path, "d-aced", trained), pool)
    trainer = trainer_of(run_config(tmp_path, "d-aced", trained, method__columns=0), pool)
    assert trainer.further is None
    take(trainer, run_config(tmp_path, "d-aced", trained, method__columns=0), pool, 1)
    with pytest.raises(AcedError, match=r"'h-acid'.*columns"):
        run_config(tmp_path, "h-acid", trained, method__columns=5)


def test_a_reference_that_the_method_does_not_need_costs_nothing(
    pool: Scenes, tmp_path: Path, trained: dict[str, Path]
) -> None:
    config = run_config(tmp_path, "iid", trained)
    trainer = trainer_of(config, pool)
    assert trainer.reference is None
    assert trainer.teachers == []


@pytest.mark.parametrize(
    ("name", "cached"), [("iid", False), ("softmax-kd", False), ("h-acid", False), ("h-acid", True)]
)
def test_the_ledger_agrees_with_torchs_counter(
    name: str,
    cached: bool,
    pool: Scenes,
    cache: Path,
    tmp_path: Path,
    trained: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = run_config(tmp_path, name, trained)
    trainer = trainer_of(config, pool, cache if cached else None)
    measured = dict.fromkeys(("scoring", "reference", "teacher", "selection", "forward"), 0)

    def count(phase: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            with FlopCounterMode(display=False) as counter:
                result = call(*args, **kwargs)
            measured[phase] += counter.get_total_flops()
            return result

        return counted

    embed = trainer.student.embed
    monkeypatch.setattr(trainer.student, "score", count("scoring", trainer.student.score))
    # Scoring embeds too, without gradient; the training forward is the one with it.
    forward = count("forward", embed)
    monkeypatch.setattr(trainer.student, "embed", lambda c: (forward if torch.is_grad_enabled() else embed)(c))
    monkeypatch.setattr(draw.selection, "draw", count("selection", draw.selection.draw))
    providers = [("reference", trainer.reference), *(("teacher", teacher) for teacher in trainer.teachers)]
    for phase, provider in providers:
        if isinstance(provider, Live):
            monkeypatch.setattr(provider.tower, "score", count(phase, provider.tower.score))
            provider.tower.forward_flops(pool.captions[:2])
    # The towers count each length of text once: outside of what is measured here.
    trainer.student.forward_flops(pool.captions[:2])
    with countable(), FlopCounterMode(display=False) as counter:
        take(trainer, config, pool, 1)

    flops = trainer.ledger.flops
    for phase in ("scoring", "reference", "teacher", "selection"):
        assert measured[phase] == flops[phase], phase
    assert 3 * measured["forward"] == flops["forward_backward"] > 0
    # The backward pass has no gradient of the pixels to compute, and the loss its own b x b products.
    assert counter.get_total_flops() == pytest.approx(sum(flops.values()), rel=0.04)
