"""The keys of a run: documented, bounded, overridden, written and read again."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from aced.config import Config, describe_keys, dump_config, load_config, make_config, recipes
from aced.errors import AcedError
from aced.methods import METHODS
from wording import tells

KEYS = {key: (default, meaning) for key, default, meaning in describe_keys()}


@pytest.mark.parametrize("key", KEYS)
def test_every_key_is_documented_and_its_default_is_toml(key: str) -> None:
    default, meaning = KEYS[key]
    assert meaning.endswith(".")
    assert len(meaning) > 12
    section, name = key.split(".")
    value = getattr(getattr(Config.model_construct(), section), name)
    if value is not None:
        read = tomllib.loads(f"v = {default}")["v"]
        assert read == (list(value) if isinstance(value, tuple) else value)


def test_the_sections_are_those_of_the_config() -> None:
    assert {key.partition(".")[0] for key in KEYS} == set(Config.model_fields)
    assert {"train.lr", "method.filtering_ratio", "data.shards", "reference.cache"} <= set(KEYS)


@pytest.mark.parametrize("name", recipes())
def test_a_recipe_is_a_whole_config_and_says_how_it_is_used(name: str) -> None:
    text = recipes()[name].read_text(encoding="utf-8")
    assert text.startswith("# ")
    assert f"aced train {name}" in text
    assert load_config(name).method.name in METHODS


def test_a_file_its_defaults_and_overrides(tmp_path: Path) -> None:
    file = tmp_path / "my.toml"
    file.write_text('[method]\nname = "iid"\n[train]\nsteps = 7\nlr = 1\n')
    config = load_config(
        file,
        [
            "train.steps=9",
            "train.lr=2.5e-4",
            "train.betas=[0.8, 0.9]",
            "run.out=runs/with space",
            "data.in_memory=true",
            "method.loss=softmax",
            'student.model="aced-demo-m"',
            "data.shards=['a.tar', 'b/{00..03}.tar']",
            "eval.tasks=one/folder",
        ],
    )
    assert (config.train.steps, config.train.lr, config.train.betas) == (9, 2.5e-4, (0.8, 0.9))
    assert config.run.out == "runs/with space"
    assert config.data.in_memory is True
    assert (config.method.loss, config.student.model) == ("softmax", "aced-demo-m")
    assert config.data.shards == ["a.tar", "b/{00..03}.tar"]
    assert config.eval.tasks == ["one/folder"]
    assert config.train.batch == 64
    assert load_config(file, ["data.shards=[]"]).data.shards == []


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    config = make_config(
        {
            "run": {"out": 'a "quoted"\\ path', "seed": 3},
            "data": {"shards": ["x/{0..3}.tar"]},
            "reference": {"model": "large"},
            "method": {"name": "aced", "weight": 1.5},
            "train": {"betas": [0.7, 0.8], "lr": 1e-5},
        }
    )
    file = tmp_path / "config.toml"
    file.write_text(dump_config(config), encoding="utf-8")
    assert load_config(file) == config
    assert dump_config(load_config(file)) == dump_config(config)


ACED: dict[str, Any] = {"method": {"name": "aced"}, "reference": {"model": "x"}}


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"train": {"stepz": 1}}, "'train.stepz' … 'steps'"),
        ({"trian": {"steps": 1}}, "'trian' … 'train'"),
        ({"method": {"name": "h-acd"}}, "'h-acd' … 'h-acid'"),
        ({"method": {"filtering_ratio": 1.0}}, "method.filtering_ratio = 1.0"),
        ({"method": {"filtering_ratio": -0.1}}, "method.filtering_ratio = -0.1"),
        ({"method": {"name": "iid", "weight": 2.0}}, "'iid'"),
        ({"method": {"name": "aced"}, "reference": {"model": "x"}}, ""),
        ({"method": {"name": "aced"}}, "'aced' … reference.model"),
        ({"method": {"name": "aced"}, "teacher": {"model": "x"}}, "'aced' … reference"),
        ({"method": {"name": "softmax-kd"}, "teacher": {"model": "x"}}, ""),
        ({"method": {"name": "softmax-kd"}}, "'softmax-kd' … reference"),
        ({"method": {"name": "jest"}}, "'jest' … reference"),
        ({"train": {"steps": 0}}, "train.steps = 0"),
        ({"train": {"lr": "fast"}}, "train.lr = 'fast'"),
        ({"train": {"lr": float("nan")}}, "train.lr = nan"),
        ({"train": {"betas": [0.9, 1.0]}}, "train.betas.1 = 1.0"),
        ({"train": {"clip": 0}}, "train.clip = 0"),
        ({"train": 3}, "train = 3"),
        ({"run": {"seed": -1}}, "run.seed = -1"),
        (
            {"data": {"bad_tars": "ignore"}},
            "data.bad_tars = 'ignore' … 'stop' … 'skip'",
        ),
        ({"scoring": {"stale": True}}, "'scoring.stale' … scoring.cascade … scoring.reuse"),
        ({"scoring": {"every": 4}}, "'scoring.every' … scoring.cascade … scoring.reuse"),
        ({"scoring": {"every": 1, "stale": False, "device": ""}}, ""),
        ({"scoring": {"device": "cpu"}}, "'scoring.device'"),
        ({"scoring": {"unseen": "assume"}}, "scoring.unseen = 'assume' … scoring.unseen=predict"),
        ({"method": {"name": "rho"}}, "method.name = 'rho' … h-acid-independent"),
        ({"scoring": {"unseen": "guess"}}, "scoring.unseen = 'guess' … 'embed'"),
        ({"data": {"max_bad_share": 2}}, "data.max_bad_share = 2"),
        ({"data": {"workers": -1}}, "data.workers = -1"),
        ({"data": {"workers": "many"}}, "data.workers = 'many'"),
        (
            {"data": {"in_memory": "maybe"}},
            "data.in_memory = 'maybe' … true, false",
        ),
        ({"train": {"tf32": 0.5}}, "train.tf32 = 0.5"),
        ({"train": {"precision": "half"}}, "train.precision = 'half'"),
        ({"eval": {"split": "tset"}}, "eval.split = 'tset'"),
        ({"data": {"shards": ["p"]}, "eval": {"every": 5}}, "eval.every"),
        ({"data": {"shards": ["p"], "weights": [1.0], "views": 2}}, "data.views … data.weights"),
        ({**ACED, "scoring": {"reuse": 4}, "data": {"views": 2}}, "data.views"),
        ({**ACED, "scoring": {"cascade": 0.4, "early": True}, "data": {"views": 2}}, "scoring.early … data.views"),
        (
            {**ACED, "method": {"name": "aced-iidistill"}, "scoring": {"cascade": 0.4, "early": True}},
            "'aced-iidistill'",
        ),
        (
            {**ACED, "scoring": {"resolution": 16, "coarse_share": 0.1}, "train": {"batch": 8}},
            "scoring.coarse_share … train.batch",
        ),
    ],
)
def test_a_wrong_value_is_one_sentence(values: dict[str, Any], sentence: str) -> None:
    values = {"method": {"name": "iid"}} | values
    if not sentence:
        make_config(values)
        return
    with pytest.raises(AcedError) as caught:
        make_config(values, "my.toml")
    told = str(caught.value)
    assert told.startswith("my.toml: ")
    assert tells(told, sentence)
    assert told[-1] in ".?"
    assert not told.endswith(("..", "?."))


def test_every_problem_is_told() -> None:
    with pytest.raises(AcedError, match=r"train\.steps = 0.*'train\.bath'.*'batch'"):
        make_config({"train": {"steps": 0, "bath": 3}})


@pytest.mark.parametrize("override", ["steps=3", "train.steps", "train.=3", ".steps=3", "train.lr.peak=3", "=", ""])
def test_an_override_of_another_form_is_told(override: str) -> None:
    with pytest.raises(AcedError, match=r"section\.key=value.*train\.steps=100"):
        load_config("scenes", [override])


def test_the_super_batch_is_that_of_the_filtering_ratio() -> None:
    def size(name: str, ratio: float) -> int:
        values = {"method": {"name": name, "filtering_ratio": ratio}, "reference": {"model": "x"}}
        return make_config(values | {"train": {"batch": 64}}).super_batch

    assert size("aced", 0.8) == 320
    assert size("aced", 0.5) == 128
    assert size("aced", 0.9) == 640
    assert size("aced", 0.0) == 64
    assert size("iid", 0.8) == size("softmax-kd", 0.8) == 64


@pytest.mark.parametrize("key", ["data.workers", "data.in_memory", "train.tf32"])
def test_a_key_that_may_be_auto_is_written_and_read_as_what_it_is(key: str, tmp_path: Path) -> None:
    section, name = key.split(".")
    other = 3 if name == "workers" else True
    for word, value in (("auto", "auto"), (str(other).lower(), other)):
        config = load_config("scenes", [f"{key}={word}"])
        found = getattr(getattr(config, section), name)
        assert (found, type(found)) == (value, type(value))
        (tmp_path / "config.toml").write_text(dump_config(config), encoding="utf-8")
        assert load_config(tmp_path / "config.toml") == config
