"""Which rows the demo trains, and how long each is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from rich.console import Console

from aced.errors import AcedError
from aced.lab.demo import rows as recipe
from aced.lab.demo.demo_references import DemoSetup, References
from aced.lab.demo.demo_run import _work
from aced.lab.demo.rows import (
    DEFAULT,
    FULL,
    QUICK,
    ROWS,
    choose_rows,
    reference_config,
    reference_model,
    student_config,
)
from aced.lab.scenes import make_pool
from aced.methods import METHODS
from aced.runtime.progress import Bars


def names(methods: str | None) -> list[str]:
    return [row.name for row in choose_rows(methods)]


def test_the_default_rows_are_those_of_the_table() -> None:
    assert names(None) == [name for name in ROWS if name in DEFAULT]
    assert {"iid", "softmax-kd", "i-acid", "h-acid", "i-aced", "aced", "d-aced"} <= set(DEFAULT)


def test_every_method_is_a_row_and_all_takes_every_row() -> None:
    assert set(METHODS) < set(ROWS)
    assert names("all") == list(ROWS)


def test_rows_come_in_the_tables_order_each_once() -> None:
    assert names("aced, iid ,aced") == ["iid", "aced"]


@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if row.wall])
def test_a_row_of_equal_time_brings_what_it_is_measured_against(name: str) -> None:
    chosen = names(name)
    assert set(chosen) == {name, ROWS[name].method, recipe.WALL_OF}
    assert chosen[-1] == name  # it can only be run once they have been


@pytest.mark.parametrize(
    ("word", "near"), [("icad", "i-acid"), ("IID-longr", "iid-longer"), ("softmaxkd", "softmax-kd")]
)
def test_an_unknown_row_names_the_nearest(word: str, near: str) -> None:
    with pytest.raises(AcedError, match=f"'{word}'.*'{near}'"):
        choose_rows(f"iid,{word}")


@pytest.mark.parametrize("words", ["", " , "])
def test_no_row_at_all_is_told(words: str) -> None:
    with pytest.raises(AcedError, match="method"):
        choose_rows(words)


@pytest.mark.parametrize("name", ROWS)
def test_every_rows_config_differs_in_method_length_and_seed_alone(name: str, tmp_path: Path) -> None:
    row = ROWS[name]
    config = student_config(row, 3, FULL, tmp_path, split="validation", steps=7 if row.wall else None)
    base = student_config(ROWS["iid"], 3, FULL, tmp_path, split="validation")
    assert config.run == base.run
    assert config.student == base.student
    assert config.data == base.data
    assert config.eval == base.eval
    assert config.train.steps == (7 if row.wall else round(FULL.steps * row.factor))
    assert config.train.model_copy(update={"steps": base.train.steps}) == base.train
    assert config.method.name == row.method
    if METHODS[row.method].needs_peer:
        assert config.reference.model == recipe.STUDENT


def test_the_reference_learns_from_clean_pairs_of_another_seed() -> None:
    config = reference_config(recipe.REFERENCE, FULL, Path("x"), split="test")
    pool = student_config(ROWS["iid"], 0, FULL, Path("x"), split="test")
    assert config.data.scenes == "curated"
    assert config.data.scenes_seed != pool.data.scenes_seed
    assert config.method.name == "iid"


def test_the_whole_work_is_that_of_its_parts() -> None:
    packaged, anew = references(), references(anew=True)
    one = _work(choose_rows("iid"), 1, packaged)
    assert _work(choose_rows("iid"), 3, packaged) == 3 * one
    assert _work(choose_rows("iid,aced"), 1, anew) == _work(choose_rows("iid,aced"), 1, packaged) + anew.work(
        "aced-demo-l"
    )
    assert _work(choose_rows("iid"), 1, references(anew=True, keep=Path("kept"))) == one + anew.work("aced-demo-l")


def references(*, anew: bool = False, keep: Path | None = None) -> References:
    """References of which none was made."""
    pool, bars = make_pool(4, 0), Bars(Console(quiet=True))
    setup = DemoSetup(Path("out"), QUICK, "test", torch.device("cpu"), bars, [], pool)
    return References(setup, anew=anew, keep=keep)


def test_the_package_brings_the_large_reference_and_the_peer_is_trained() -> None:
    packaged, anew = references(), references(anew=True)
    assert not packaged.trains(recipe.REFERENCE)
    assert packaged.work(recipe.REFERENCE) == 0
    assert packaged.trains(recipe.STUDENT)
    assert 0 < packaged.work(recipe.STUDENT) < anew.work(recipe.REFERENCE)


@pytest.mark.parametrize(("name", "model"), [("iid", None), ("aced", recipe.REFERENCE), ("jest", recipe.STUDENT)])
def test_a_row_names_the_reference_that_it_asks_for(name: str, model: str | None) -> None:
    assert reference_model(ROWS[name]) == model
    config = student_config(ROWS[name], 0, FULL, Path("out"), split="test")
    assert config.reference.model == (model or recipe.REFERENCE)


@pytest.mark.parametrize("name", METHODS)
def test_the_rows_of_the_methods_train_on_equally_many_samples(name: str) -> None:
    config = student_config(ROWS[name], 0, FULL, Path("out"), split="validation")
    batches = 2 if METHODS[name].distill_on == "iid" else 1
    assert config.train.steps * config.train.batch * batches == FULL.steps * config.train.batch
