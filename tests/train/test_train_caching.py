"""Cached and live embeddings in training: what is said of their cost, and that both see the same views."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from aced.models import load_tower
from aced.pool.manyviews import ManyViews
from aced.programs.train import train_program
from aced.report import load_run, results_table, write_report
from aced.runs.run_results import results_of
from aced.runtime.progress import Bars
from aced.train.providers import Cached
from aced.train.run.caching import embedding_cost_of, live_cost_of
from aced.train.run.inputs import make_inputs
from aced.train.run.student import make_student
from run_fakes import even_pool, inputs_of, run_config, take, trainer_of, with_holes, write_pairs
from wording import tells


@pytest.mark.parametrize(
    ("method", "phase"), [("aced", "reference"), ("i-acid", "reference"), ("softmax-kd", "teacher")]
)
def test_the_cost_that_is_told_is_what_the_steps_count(
    method: str, phase: str, tmp_path: Path, trained: dict[str, Path]
) -> None:
    source = even_pool()
    config = run_config(tmp_path, method, trained)
    trainer = trainer_of(config, source)
    take(trainer, config, source, 3)
    flops = trainer.ledger.flops
    sentence = live_cost_of(phase, load_tower(trained["large"]), trainer.student, config, source)
    pairs = 80 if phase == "reference" else 16
    step, times, own, run = re.search(
        rf"{pairs} pairs .*?(\S+) FLOPs.*?(\S+) times .*?(\d\S*); .*3 steps (\S+)\. ",
        sentence,
    ).groups()  # type: ignore[union-attr]
    assert float(step) == pytest.approx(flops[phase] / 3, rel=0.06)
    assert float(run) == pytest.approx(flops[phase], rel=0.06)
    student = flops["forward_backward"] + flops["scoring"]
    assert float(own) == pytest.approx(student / 3, rel=0.06)
    assert float(times) == pytest.approx(flops[phase] / student, rel=0.1)
    assert sentence.endswith(f"{phase}.cache=runs/cache")


def test_a_teacher_of_its_own_embeds_the_batch_and_not_the_super_batch(
    tmp_path: Path, trained: dict[str, Path]
) -> None:
    config = run_config(tmp_path, "aced", trained, teacher__model=str(trained["large"]))
    tower, student = load_tower(trained["large"]), make_student(config)
    for name, pairs in (("teacher", 16), ("reference", 80)):
        assert f"({name}) embeds {pairs} pairs" in live_cost_of(name, tower, student, config, even_pool())


def test_a_run_without_a_cache_says_the_command_that_makes_one(tmp_path: Path, trained: dict[str, Path]) -> None:
    write_pairs(tmp_path / "pool/0.tar", range(60))
    keys: dict[str, Any] = {"data__shards": [str(tmp_path / "pool")], "data__views": 2, "train__batch": 8}
    config = run_config(tmp_path / "run", "i-acid", trained, **keys, reference__cache_dtype="int8")
    console = Console(record=True, width=1000, file=open("/dev/null", "w"))  # noqa: SIM115
    with Bars(console) as bars:
        inputs = make_inputs(config, make_student(config), bars)
    assert isinstance(inputs.source, ManyViews)
    text = console.export_text()
    command = f"`aced embed {trained['large']} {tmp_path / 'pool'} --out runs/cache --dtype int8 --views 2`"
    assert tells(text, f"{command} … reference.cache=runs/cache")
    keys |= {"data__caption_choice": "first", "data__decoding": "exact", "data__spool_dir": "spool"}
    config = run_config(tmp_path / "run", "i-acid", trained, **keys)
    with Bars(console) as bars:
        make_inputs(config, make_student(config), bars)
    more = " --views 2 --caption-choice first --decoding exact --spool-dir spool`, then reference.cache=runs/cache"
    assert more in console.export_text()
    # Two views and a text of 96 dimensions and two scales, and a mark.
    assert "60 pairs" in text
    assert "18.1 kB" in text


def test_the_cost_of_a_cache_is_in_results_and_report(tmp_path: Path, trained: dict[str, Path]) -> None:
    write_pairs(tmp_path / "pool/0.tar", range(120))
    keys: dict[str, Any] = {"reference__cache": str(tmp_path / "cache"), "data__shards": [str(tmp_path / "pool")]}
    config = run_config(tmp_path / "run", "i-aced", trained, **keys)
    results = train_program(config, Console(quiet=True), resume=False)
    cost = results["rows"][0]["embedding"]
    assert cost["samples"] == 120
    assert cost["flops"] > 0 < cost["seconds"]
    assert results["reference"]["embed_flops"] == cost["flops"]
    assert "embedding" in (tmp_path / "run/report.html").read_text()
    again = run_config(tmp_path / "again", "i-aced", trained, **keys)
    assert train_program(again, Console(quiet=True), resume=False)["rows"][0]["embedding"] == cost
    runs = [load_run(tmp_path / name) for name in ("run", "again")]
    both = results_of(runs)
    assert both["reference"]["embed_seconds"] == cost["seconds"]
    results_table(both)
    assert "Reference" in write_report(tmp_path / "page.html", both, runs).read_text()


def test_no_cache_no_cost(tmp_path: Path, trained: dict[str, Path]) -> None:
    config = run_config(tmp_path, "aced", trained)
    inputs = inputs_of(config, even_pool())
    assert embedding_cost_of([inputs.reference, *inputs.teachers]) is None
    cached = inputs_of(config, even_pool(), tmp_path / "cache")
    assert isinstance(cached.reference, Cached)
    once = embedding_cost_of([cached.reference])
    assert once == embedding_cost_of([cached.reference, *cached.teachers, None])


@pytest.mark.parametrize("holes", [0, 9])
def test_cached_and_live_runs_see_the_same_views(holes: int, tmp_path: Path, trained: dict[str, Path]) -> None:
    pool = with_holes(even_pool(), holes) if holes else even_pool()
    keys: dict[str, Any] = {"data__views": 3, "reference__cache_dtype": "float32", "data__max_bad_share": 0.5}
    config = run_config(tmp_path, "aced", trained, **keys)
    live, cached = trainer_of(config, pool), trainer_of(config, pool, tmp_path / "cache")
    assert isinstance(cached.reference, Cached)
    assert cached.reference.store.info.views == 3
    source = ManyViews(pool)
    outcomes = [take(trainer, config, source, 6) for trainer in (live, cached)]  # more than an epoch
    for one, other in zip(*outcomes, strict=True):
        assert one.candidates.tolist() == other.candidates.tolist()
        assert one.rows.tolist() == other.rows.tolist()
        assert one.parts.loss.item() == pytest.approx(other.parts.loss.item(), abs=1e-4)
    whole = run_config(tmp_path, "aced", trained, data__max_bad_share=0.5)
    first = take(trainer_of(whole, pool), whole, pool, 1)[0]
    assert first.candidates.tolist() == outcomes[0][0].candidates.tolist()
    other = outcomes[0][0].parts.loss.item()
    assert first.parts.loss.item() != pytest.approx(other, abs=1e-6)  # the same pairs in other views
