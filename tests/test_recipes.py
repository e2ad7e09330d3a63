"""The packaged recipes: what they say is what the papers say, and each of them trains.

A CPU takes two steps with small batches and small stand-ins for the frozen models, whose weights would have to be
downloaded; the stand-ins are models with trained weights of the packaged family, and what a recipe says about method,
loss and optimiser stays as it is. The real architectures are built without weights, and ACED-F0's with them.
"""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch

from aced.config import load_config, recipes
from aced.lab.scenes import make_pool
from aced.methods import METHODS
from aced.models import import_open_clip, outline
from aced.train.run.frozen import frozen_models, frozen_section, teachers_of
from cli_fakes import Cli
from run_fakes import take, trainer_of

BATCH, STEPS = 4, 2
SIGLIP2 = ("siglip2-b32", "siglip2-b16")
STUDENTS = ("aced-f0", "aced-f1", "aced-f2")
NAMED = (*SIGLIP2, *STUDENTS, "clip-b32-continue", "aced-two-models")


def shrunk(name: str, trained: dict[str, Path], out: Path, *more: str) -> list[str]:
    """Overrides of a recipe that a CPU can carry, with frozen models at hand in the place of its own."""
    config = load_config(name)
    words = ["data.shards=[]", "data.scenes_size=60", "eval.tasks=[]", "eval.split=validation", "run.threads=1"]
    words += [f"run.out={out / 'run'}", f"train.batch={BATCH}", f"train.steps={STEPS}"]
    words += ["student.model=aced-demo-s", "student.checkpoint="]
    for key, folder in (("reference", "large"), ("teacher", "peer")):
        if getattr(config, key).model:
            words += [f"{key}.model={trained[folder]}", f"{key}.checkpoint=", f"{key}.cache={out / 'cache'}"]
    return [*words, *more]


def trained_by(cli: Cli, name: str, words: list[str], out: Path) -> dict[str, Any]:
    """The results of a run, which ended well."""
    ended = cli("train", name, *words)
    assert ended.status == 0, ended.err
    results: dict[str, Any] = json.loads((out / "run/results.json").read_text(encoding="utf-8"))
    return results


def leaves(values: dict[str, Any]) -> dict[str, Any]:
    return {f"{section}.{key}": value for section, keys in values.items() for key, value in keys.items()}


@pytest.mark.parametrize("name", recipes())
def test_every_recipe_takes_two_steps(name: str, trained: dict[str, Path], tmp_path: Path, cli: Cli) -> None:
    words = shrunk(name, trained, tmp_path, *["reference.model="] * (name == "scenes"))
    row = trained_by(cli, name, words, tmp_path)["rows"][0]
    config = load_config(name)
    share = 1 - config.method.filtering_ratio if METHODS[config.method.name].score else 1
    assert row["budgets"]["samples_trained"] == BATCH * STEPS
    assert row["budgets"]["samples_loaded"] == round(BATCH / share) * STEPS
    # What was not shrunk is as the recipe says.
    asked = leaves(tomllib.loads(recipes()[name].read_text(encoding="utf-8")))
    ran = leaves(tomllib.loads((tmp_path / "run/config.toml").read_text(encoding="utf-8")))
    shrunken = {word.partition("=")[0] for word in words}
    kept = {key: value for key, value in asked.items() if key not in shrunken}
    assert {key: ran[key] for key in kept} == kept
    assert any(key.startswith("method.") for key in kept)


def test_the_first_of_the_papers_students_trains_as_it_is(trained: dict[str, Path], tmp_path: Path) -> None:
    own = {"student.model=aced-demo-s", "student.checkpoint=", f"train.batch={BATCH}"}
    words = [word for word in shrunk("aced-f0", trained, tmp_path) if word not in own]
    config = load_config("aced-f0", [*words, "train.batch=2", "method.filtering_ratio=0.5", "run.device=cpu"])
    pool = make_pool(60, 1)
    trainer = trainer_of(config, pool, tmp_path / "cache")
    before = next(trainer.student.parameters()).detach().clone()
    outcomes = take(trainer, config, pool, STEPS)
    assert all(torch.isfinite(outcome.parts.loss) for outcome in outcomes)
    assert not torch.equal(before, next(trainer.student.parameters()))
    assert trainer.ledger.samples_trained == 2 * STEPS
    flops = outline("aced-f0").flops(64)
    assert flops.image < trainer.ledger.flops["forward_backward"] / (3 * 2 * STEPS) < flops.total


@pytest.mark.parametrize("name", NAMED)
def test_the_models_of_a_recipe_are_architectures_and_tags_of_open_clip(name: str) -> None:
    config, known = load_config(name), import_open_clip()
    sections = [config.student, *(frozen_section(one, config) for one in frozen_models(config))]
    for section in sections:
        tower = outline(section.model)
        assert tower.flops(tower.context_length).total > 0
        if section.checkpoint:
            assert section.checkpoint in known.list_pretrained_tags_by_model(section.model)
    assert all(section.checkpoint for section in sections[1:])
    student, *frozen = (outline(section.model).flops(64).total for section in sections)
    assert all(flops > 1.5 * student for flops in frozen)  # a reference is larger than the student


@pytest.mark.parametrize("name", NAMED)
def test_a_recipe_says_where_it_comes_from_and_what_is_derived(name: str) -> None:
    comment = recipes()[name].read_text(encoding="utf-8").partition("[run]")[0]
    assert "arXiv 24" in comment or "arXiv 25" in comment
    assert "ours" in comment or "erived" in comment
    assert f"aced cost {name}" in comment
    assert load_config(name).data.shards  # never the built-in scenes by accident


def test_siglip_2_is_continued_as_its_paper_says() -> None:
    for name, ratio in zip(SIGLIP2, (0.75, 0.5), strict=True):
        config = load_config(name)
        assert (config.method.name, config.method.loss, config.method.filtering_ratio) == ("h-acid", "sigmoid", ratio)
        assert (config.train.lr, config.train.weight_decay) == (1e-5, 0)
        assert config.train.batch * config.train.steps == pytest.approx(4e9, rel=1e-4)
        assert teachers_of(config) == []


def test_the_papers_students_are_trained_at_its_scale() -> None:
    for name in STUDENTS:
        config = load_config(name)
        assert (config.student.model, config.student.checkpoint) == (name, "")
        assert (config.method.name, config.method.loss, config.method.chunks) == ("aced", "sigmoid", 16)
        assert (config.train.batch, config.super_batch) == (32_768, 163_840)
        assert config.train.batch * config.train.steps == pytest.approx(13e9, rel=1e-4)


def test_two_models_are_two() -> None:
    config = load_config("aced-two-models")
    assert frozen_models(config) == ["reference", "teacher"]
    assert teachers_of(config) == ["teacher"]
