"""`aced cost`: the ledger of real steps, what it adds up and assumes, and what it refuses."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest

from aced.config import Config, load_config, recipes
from aced.lab.scenes import Scenes, make_pool
from aced.models import load_tower, outline
from aced.programs.cost import Assumed, cost_of
from aced.runs.ledger import flops_per_trained_sample
from aced.train.providers import Live
from aced.train.run.caching import embedding_cost_of
from aced.train.run.fit import make_trainer
from aced.train.run.inputs import Inputs
from aced.train.run.student import make_student
from cli_fakes import Cli
from run_fakes import BATCH, POOL, even_pool, provider_of, run_config, take, trainer_of

STEPS = 4
"""Together fewer pairs than the pool has, so that none comes again."""


@pytest.fixture(scope="module")
def pool() -> Scenes:
    return even_pool()


@pytest.fixture(scope="module")
def tokens(pool: Scenes) -> int:
    return int(load_tower("aced-demo-s", seed=0).tokens(pool.captions[:1]).shape[1])


def named(config: Config) -> Config:
    """The config with the frozen models' architectures by name, as `aced cost` needs no weights."""
    names = {"large": "aced-demo-m", "peer": "aced-demo-s"}
    section = config.reference
    if not section.model:
        return config
    return config.model_copy(
        update={"reference": section.model_copy(update={"model": names[Path(section.model).name]})}
    )


def check(config: Config, ledger: Any, tokens: int) -> dict[str, Any]:
    """Compare what `aced cost` says with the ledger of the same steps."""
    found = cost_of(config, Assumed(text_tokens=tokens, pairs=POOL))
    assert found["flops"] == pytest.approx(ledger.flops, rel=1e-12)
    assert found["cached_flops"] == pytest.approx(ledger.cached_flops, rel=1e-12)
    assert (found["samples_trained"], found["samples_loaded"]) == (ledger.samples_trained, ledger.samples_loaded)
    return found


CHEAP = {"scoring__cascade": 0.5, "scoring__early": True, "scoring__reuse": 9}
RUNS = [
    ("iid", False, {}),
    ("softmax-kd", False, {}),
    ("softmax-kd", True, {}),
    ("i-acid", False, {}),
    ("i-acid", True, {"scoring__early": True}),
    ("h-acid", True, {"method__loss": "softmax"}),
    ("aced", False, {}),
    ("aced", True, {"train__grad_cache": 4, "train__activation_checkpointing": True}),
    ("aced", True, {"train__lock": ["image"]}),
    ("aced", True, {"scoring__cascade": 0.5}),
    ("aced", True, {"scoring__cascade": 0.5, "scoring__early": True}),
    ("aced", True, CHEAP),
    ("aced", True, {**CHEAP, "scoring__unseen": "predict", "scoring__refresh": 0.3}),
    ("aced", True, {"scoring__resolution": 16, "scoring__coarse_share": 0.25}),
    ("aced-iidistill", True, {}),
    ("columns-kd", True, {}),
    ("d-aced", True, {"scoring__early": True}),
    ("jest", False, {}),
    ("h-acid-independent", True, {"method__loss": "softmax"}),
    ("hard-student", False, {}),
    ("kd-only", True, {}),
    ("cabs-dm", False, {}),
    ("cabs-fm", False, {"method__until": 0.5}),
    ("dissect", False, {}),
    ("dissect", False, {"method__since": 0.5, "scoring__resolution": 16, "method__loss": "softmax"}),
    ("clip-filter", True, {}),
    ("clip-filter-kd", True, {"method__loss": "drrho"}),
    ("drrho", False, {}),
    ("drrho", True, {}),
    ("drrho-kd", False, {}),
    ("aced", True, {"method__since": 0.5}),
    ("aced", False, {"method__until": 0.25}),
    ("d-aced", True, {"method__since": 0.5, "scoring__early": True}),
]


@pytest.mark.parametrize(("method", "cached", "keys"), RUNS, ids=[f"{m}-{c}-{'+'.join(k)}" for m, c, k in RUNS])
def test_the_cost_of_a_run_is_what_its_ledger_says(
    method: str,
    cached: bool,
    keys: dict[str, Any],
    trained: dict[str, Path],
    pool: Scenes,
    tokens: int,
    tmp_path: Path,
) -> None:
    cache = {"reference__cache": str(tmp_path / "cache")} if cached else {}
    config = run_config(tmp_path, method, trained, train__steps=STEPS, **cache, **keys)
    trainer = trainer_of(config, pool, tmp_path / "cache" if cached else None)
    take(trainer, config, pool, STEPS)
    found = check(named(config), trainer.ledger, tokens)
    assert found["flops_total"] == pytest.approx(trainer.ledger.budgets()["flops"], rel=1e-12)


def test_a_teacher_beside_the_reference_is_counted(
    trained: dict[str, Path], pool: Scenes, tokens: int, tmp_path: Path
) -> None:
    config = run_config(tmp_path, "aced", trained, train__steps=STEPS, teacher__model="aced-demo-l")
    reference = provider_of(config, pool, None)
    teacher = Live(load_tower("aced-demo-l", seed=1).eval(), BATCH)
    trainer = make_trainer(config, Inputs(pool, [], reference, [teacher]), make_student(config))
    take(trainer, config, pool, STEPS)
    found = check(named(config), trainer.ledger, tokens)
    assert [one["key"] for one in found["models"]] == ["student", "reference", "teacher"]
    assert found["flops"]["teacher"] > 0


def test_making_side_cars_costs_what_it_is_said_to(
    trained: dict[str, Path], pool: Scenes, tokens: int, tmp_path: Path
) -> None:
    config = run_config(tmp_path, "i-aced", trained, reference__cache=str(tmp_path / "cache"), data__views=2)
    spent = embedding_cost_of([provider_of(config, pool, tmp_path / "cache")])
    assert spent is not None
    (sidecar,) = cost_of(named(config), Assumed(text_tokens=tokens))["sidecars"]
    assert sidecar["flops"] == pytest.approx(spent["flops"], rel=1e-12)
    assert (sidecar["width"], sidecar["dtype"], sidecar["views"]) == (96, "float16", 2)
    # Besides its embeddings a side-car has keys and a header.
    assert sidecar["bytes"] == POOL * (3 * 96 * 2 + 1) < spent["bytes"] < sidecar["bytes"] + 30_000


def test_texts_of_full_length_are_the_most_that_real_ones_cost(trained: dict[str, Path], tmp_path: Path) -> None:
    pool = make_pool(POOL, 1)  # captions of many lengths
    config = run_config(tmp_path, "aced", trained, train__steps=STEPS)
    trainer = trainer_of(config, pool)
    take(trainer, config, pool, STEPS)
    spent = trainer.ledger.budgets()["flops"]
    shortest, longest = (cost_of(named(config), Assumed(text_tokens=n))["flops_total"] for n in (1, None))
    assert shortest < spent < longest


# -- what is added up --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "expected"), [("i-acid", 3.0), ("h-acid", 8.0)])
def test_without_selection_it_is_the_table_of_the_method(method: str, expected: float) -> None:
    config = load_config("aced-f0", [f"method.name={method}"])
    found = cost_of(config, Assumed())
    student = 2 * 3.30e9
    rest = found["flops_total"] - found["flops"]["selection"]
    assert rest / found["samples_trained"] / student == pytest.approx(expected, rel=0.02)
    flops = outline("aced-f0").flops(64).total
    table = flops_per_trained_sample(
        filtering_ratio=0.8, reference=5.0, scores_student=method == "h-acid", uses_reference=True, cached=True
    )
    assert rest / found["samples_trained"] / flops == pytest.approx(table) == pytest.approx(expected)


def test_an_uncached_reference_costs_its_ratio_more() -> None:
    cached, live = (
        cost_of(load_config("aced-f0", ["method.name=i-acid", *more]), Assumed()) for more in ([], ["reference.cache="])
    )
    assert live["flops"]["reference"] == pytest.approx(cached["cached_flops"])
    assert not live["cached_flops"]
    assert not live["sidecars"]
    student, reference = (one["image_flops"] + one["text_flops"] for one in live["models"])
    added = (live["flops_total"] - cached["flops_total"]) / live["samples_trained"] / student
    assert added == pytest.approx(5 * reference / student)


def test_hours_pairs_and_bytes_follow_from_what_is_assumed() -> None:
    config = load_config("aced-f0", ["reference.cache_dtype=int8"])
    found = cost_of(config, Assumed(pairs=10**9, pair_kb=30, gpu_tflops=312, utilisation=0.5))
    assert found["gpu_hours"] == pytest.approx(found["flops_total"] / (156e12 * 3600))
    assert found["samples_loaded"] == 5 * found["samples_trained"]
    assert found["bytes"]["read"] == pytest.approx(30e3 * found["samples_loaded"])
    assert found["bytes"]["decoded"] == 3 * 288**2 * found["samples_loaded"]
    (sidecar,) = found["sidecars"]
    assert sidecar["flops"] / 10**9 == sum(found["models"][1][key] for key in ("image_flops", "text_flops"))
    assert 2 * 1024 < sidecar["bytes"] / 10**9 < 2.2 * 1024
    whole = cost_of(config, Assumed())
    assert whole["assumed"]["pairs"] == whole["samples_loaded"]


def test_two_frozen_models_of_one_name_have_side_cars_each() -> None:
    found = cost_of(load_config("aced-two-models"), Assumed(pairs=1000))
    assert [one["checkpoint"] for one in found["sidecars"]] == ["dfn2b", "laion2b_s32b_b82k"]


# -- the command -------------------------------------------------------------------------------------------------------

NAMED = [name for name in recipes() if "runs/" not in load_config(name).reference.model and name != "scenes"]


@pytest.mark.parametrize("name", NAMED)
def test_every_recipe_has_a_cost_and_nothing_is_downloaded(
    name: str, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a connection was made")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    ended = cli("cost", name, "--json")
    assert ended.status == 0, ended.err
    assert json.loads(ended.out) == json.loads(json.dumps(cost_of(load_config(name), Assumed())))


def test_the_table_says_what_it_assumes(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "my.toml"
    file.write_text('[method]\nname = "aced"\n[reference]\nmodel = "aced-demo-l"\n', encoding="utf-8")
    words = ["--gpu-tflops", 312, "--utilisation", 0.25, "--text-tokens", 12, "--pairs", 4321]
    ended = cli("cost", file, "train.steps=10", "scoring.reuse=4", *words)
    assert ended.status == 0, ended.err
    for number in ("312", "25 %", "12 tokens", "4,321", "64 of 320", "scoring.reuse"):
        assert number in " ".join(ended.out.split())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["photos"], "runs/photos-reference/model reference.model=NAME"),
        (["aced-f0", "student.model=aced-f9"], "aced-f9 student.model=NAME"),
        (
            ["aced-f0", "reference.model=hf-hub:timm/ViT-B-16-SigLIP"],
            "hf-hub:timm/ViT-B-16-SigLIP reference.model=NAME",
        ),
        (["aced-f0", "reference.model=given"], "reference.model 'given'"),
        (["aced-f0", "train.lock=visuals"], "train.lock visuals"),
        (["aced-two-models", "teacher.model=ViT-L-99"], "ViT-L-99 teacher.model=NAME"),
        (["no-recipe"], "no-recipe"),
        (["iid", "--utilisation", "2"], "--utilisation"),
        (["iid", "--text-tokens", "0"], "--text-tokens"),
    ],
)
def test_what_has_no_cost_is_one_sentence(words: list[str], said: str, cli: Cli) -> None:
    ended = cli("cost", *words)
    assert ended.status == 2
    for word in said.split():
        assert word in ended.err
    assert not ended.out
