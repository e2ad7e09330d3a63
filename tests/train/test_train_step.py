"""The step: what it sees, what it does with samples that are gone, and when it stops."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, overload

import pytest
import torch

from aced.errors import AcedError
from aced.lab.scenes import Scenes, make_pool
from aced.methods import METHODS
from aced.pool.source import Fault
from aced.train.objective import LossParts
from aced.train.run.fit import fit
from aced.train.run.student import make_student
from run_fakes import BATCH, POOL, SUPER, inputs_of, lines_of, quiet, run_config, take, trainer_of, with_holes


@pytest.fixture(scope="module")
def pool() -> Scenes:
    return make_pool(POOL, 1)


# -- kinds -------------------------------------------------------------------------------------------------------------

WATCHERS = {"watch.py", "gallery.py"}


class Watched(Sequence[str]):
    """Kinds that only those may read who report what was kept."""

    def __init__(self, kinds: Sequence[str]) -> None:
        self.kinds = kinds
        self.read = 0

    def __len__(self) -> int:
        return len(self.kinds)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...
    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        callers = list(frames())
        assert WATCHERS & set(callers), f"kinds were read by {callers}"
        assert "step.py" not in callers, "kinds were read inside the step"
        self.read += 1
        return self.kinds[index]


def frames() -> Iterator[str]:
    """The package's files that are on the stack."""
    frame: Any = sys._getframe(1)
    while frame is not None:
        if "aced" in frame.f_code.co_filename:
            yield Path(frame.f_code.co_filename).name
        frame = frame.f_back


@pytest.mark.parametrize("name", ["aced", "h-acid-independent", "iid"])
def test_only_those_who_report_read_the_kinds(
    name: str, pool: Scenes, tmp_path: Path, trained: dict[str, Path]
) -> None:
    assert pool.kinds is not None
    kinds = Watched(pool.kinds)
    weights = []
    for folder, source in (("with", replace(pool, kinds=kinds)), ("without", replace(pool, kinds=None))):
        config = run_config(tmp_path / folder, name, trained)
        fitted = fit(config, inputs_of(config, source), make_student(config), quiet())
        assert (fitted.clean_share is None) == (folder == "without")
        weights.append((tmp_path / folder / "model/model.safetensors").read_bytes())
    assert kinds.read > 0
    assert weights[0] == weights[1]


def test_kinds_of_other_names_say_nothing_about_soundness(
    pool: Scenes, tmp_path: Path, trained: dict[str, Path]
) -> None:
    config = run_config(tmp_path, "iid", trained, train__steps=2)
    source = replace(pool, kinds=["aerial"] * len(pool))
    fitted = fit(config, inputs_of(config, source), make_student(config), quiet())
    assert fitted.clean_share is None
    assert lines_of(tmp_path / "metrics.jsonl")[-1]["kinds"]["chosen"] == {"aerial": 2 * BATCH}


def test_the_line_counts_what_was_kept(pool: Scenes, tmp_path: Path, trained: dict[str, Path]) -> None:
    config = run_config(tmp_path, "i-acid", trained, train__steps=4)
    fitted = fit(config, inputs_of(config, pool), make_student(config), quiet())
    lines = lines_of(tmp_path / "metrics.jsonl")
    assert [line["step"] for line in lines] == [2, 4]
    for line in lines:
        assert sum(line["kinds"]["pool"].values()) == 2 * SUPER
        assert sum(line["kinds"]["chosen"].values()) == 2 * BATCH
    sound = sum(line["kinds"]["chosen"].get(kind, 0) for line in lines for kind in ("clean", "duplicate"))
    assert fitted.clean_share == sound / (4 * BATCH)


def test_softmax_scores_of_single_pairs_are_not_reported_as_zero(
    pool: Scenes, tmp_path: Path, trained: dict[str, Path]
) -> None:
    config = run_config(tmp_path, "aced", trained, method__loss="softmax")
    fit(config, inputs_of(config, pool), make_student(config), quiet())
    assert [line["learnability"] for line in lines_of(tmp_path / "metrics.jsonl")] == [None, None]


# -- samples that are gone ---------------------------------------------------------------------------------------------


# A filter has chosen before the first step, by a cache: see test_train_filter.
@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if not method.filters])
def test_a_few_unreadable_samples_make_smaller_batches(
    name: str, pool: Scenes, tmp_path: Path, trained: dict[str, Path]
) -> None:
    config = run_config(tmp_path, name, trained, data__max_bad_share=0.5)
    source = with_holes(pool, 10)
    trainer = trainer_of(config, source, tmp_path / "cache" if METHODS[name].columns else None)
    outcomes = take(trainer, config, source, 3)
    asked = SUPER if METHODS[name].chooses else BATCH
    assert trainer.ledger.samples_loaded == 3 * asked
    assert all(not (outcome.candidates % 10 == 0).any() for outcome in outcomes)
    rows = [len(outcome.rows) for outcome in outcomes]
    assert rows == [min(BATCH, len(outcome.candidates)) for outcome in outcomes]
    assert trainer.ledger.samples_trained == sum(rows) * (2 if METHODS[name].distill_on == "iid" else 1)
    assert trainer.faults.counts == {"image_empty": 3 * asked - sum(len(o.candidates) for o in outcomes)}


def test_most_unreadable_samples_stop_the_run(pool: Scenes, tmp_path: Path) -> None:
    config = run_config(tmp_path, data__max_bad_share=1.0)
    source = replace(pool, captions=pool.captions)
    trainer = trainer_of(config, source)
    batch = source.read(range(7), [trainer.student.view])
    faults = tuple(Fault(key, "image_empty", f"{key}: empty.") for key in source.keys[7:16])
    from aced.train.step import train_step

    with pytest.raises(AcedError, match=r"^Step 1: .*7 of 16 candidates"):
        train_step(trainer, iter([replace(batch, faults=faults)]))


def test_samples_without_an_embedding_are_left_out(pool: Scenes, tmp_path: Path, trained: dict[str, Path]) -> None:
    config = run_config(tmp_path / "run", "i-aced", trained, data__max_bad_share=0.5)
    # The cache is made while some cannot be read; then they are repaired.
    trainer = trainer_of(config, with_holes(pool, 4), tmp_path / "cache")
    outcomes = take(trainer, config, pool, 3)
    assert all(not (outcome.candidates % 4 == 0).any() for outcome in outcomes)
    assert not trainer.faults.counts
    # The gallery leaves them out too.
    fit(config, inputs_of(config, pool, tmp_path / "cache"), make_student(config), quiet())
    assert (tmp_path / "run/gallery.json").is_file()


# -- divergence --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("broken", ["loss", "gradient"])
def test_a_loss_or_gradient_that_is_not_finite_stops_before_the_weights_change(
    broken: str, pool: Scenes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = run_config(tmp_path)
    trainer = trainer_of(config, pool)
    take(trainer, config, pool, 2)
    before = {key: value.clone() for key, value in trainer.student.state_dict().items()}
    state = str(trainer.optimizer.state_dict()["state"])
    forward = trainer.objective.forward

    def diverging(*parts: Any) -> tuple[torch.Tensor, LossParts]:
        loss, found = forward(*parts)
        if broken == "loss":
            return loss * torch.nan, replace(found, loss=found.loss * torch.nan)
        loss.register_hook(lambda gradient: gradient * torch.inf)
        return loss, found

    monkeypatch.setattr(trainer.objective, "forward", diverging)
    with pytest.raises(AcedError, match=r"^Step 3: .*loss.*(nan|inf)"):
        take(trainer, config, pool, 1)
    assert all(torch.equal(before[key], value) for key, value in trainer.student.state_dict().items())
    assert str(trainer.optimizer.state_dict()["state"]) == state
    assert trainer.step == 2


def test_a_step_keeps_the_scales_in_bounds(pool: Scenes, tmp_path: Path, trained: dict[str, Path]) -> None:
    config = run_config(tmp_path, "softmax-kd", trained)
    trainer = trainer_of(config, pool)
    scales = [trainer.student.model.logit_scale, trainer.objective.log_scale]
    with torch.no_grad():
        for scale in scales:
            scale.fill_(5.0)
    take(trainer, config, pool, 1)
    assert [scale.exp().item() for scale in scales] == pytest.approx([100.0, 100.0])


def test_a_selection_that_cannot_be_made_names_the_step(pool: Scenes, tmp_path: Path, trained: dict[str, Path]) -> None:
    config = run_config(tmp_path, "aced", trained)
    trainer = trainer_of(config, pool)
    with torch.no_grad():
        trainer.student.model.logit_scale.fill_(torch.nan)
    with pytest.raises(AcedError, match=r"^Step 1: .*student.*logit scale.*nan"):
        take(trainer, config, pool, 1)


# -- precision ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["aced", "fm-kd", "h-acid-independent", "sigmoid-kd"])
def test_bf16_runs_and_agrees_roughly(name: str, pool: Scenes, tmp_path: Path, trained: dict[str, Path]) -> None:
    losses = []
    for precision in ("fp32", "bf16"):
        keys: dict[str, Any] = {"train__precision": precision, "train__batch": 4, "method__temperature": 0.0}
        config = run_config(tmp_path, name, trained, **keys)
        trainer = trainer_of(config, pool)
        losses.append(take(trainer, config, pool, 1)[0].parts.loss.item())
        assert all(p.dtype == torch.float32 for p in trainer.student.parameters())
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.1)


def test_scoring_is_in_evaluation_mode_and_training_is_not(
    pool: Scenes, tmp_path: Path, trained: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = run_config(tmp_path, "aced", trained)
    trainer = trainer_of(config, pool)
    modes = []
    embed = trainer.student.embed
    monkeypatch.setattr(
        trainer.student,
        "embed",
        lambda c: (modes.append((len(c), trainer.student.model.training, torch.is_grad_enabled())), embed(c))[1],
    )
    trainer.settings = replace(trainer.settings, micro_batch=50)
    trainer.student.eval()  # as an evaluation elsewhere may leave it
    take(trainer, config, pool, 1)
    assert modes == [(50, False, False), (30, False, False), (BATCH, True, True)]
