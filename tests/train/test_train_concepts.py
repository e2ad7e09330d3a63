"""Batches by concepts: where these come from, what a step chooses, several processes, resuming."""

from __future__ import annotations

import io
import json
import pickle
import tarfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from aced.core.concepts import by_concepts
from aced.errors import AcedError
from aced.lab.scenes import Scenes, make_pool
from aced.lab.scenes.scene_captions import concepts
from aced.methods import METHODS
from aced.pool.concept_column import MOST, Concepts, concepts_of
from aced.pool.inmemory import InMemory
from aced.pool.manyviews import ManyViews
from aced.pool.shards import open_shards
from aced.pool.source import Candidates
from aced.runs.ledger import Ledger
from aced.train.run.fit import fit
from aced.train.run.inputs import Inputs
from aced.train.run.student import make_student
from aced.train.scoring.concept_choice import drawn_by_concepts
from rank_fakes import on_ranks
from run_fakes import BATCH, POOL, SUPER, picture, quiet, run_config, stopping_at, take, trainer_of


@pytest.fixture(scope="module")
def pool() -> Scenes:
    return make_pool(POOL, 1)


def at_positions(positions: Sequence[int]) -> Candidates:
    return Candidates(torch.tensor(positions, dtype=torch.int64), [""] * len(positions), {})


def test_scenes_know_what_they_show(pool: Scenes) -> None:
    values = pool.fields_at("concepts", [5, 0])
    assert values == [concepts(pool.params[row].tolist()) for row in (5, 0)]
    assert {len(value) for value in pool.fields_at("concepts", range(POOL))} == {6, 11}  # of one object and of two
    assert pool.fields_at("kind", [1, 2]) == [None, None]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("Golden  Retriever ", ["golden retriever"]),
        (["dog", "", 3, None, "Dog"], ["dog", "dog"]),
        ([], []),
        (None, []),
        (7, []),
        ({"dog": 1}, []),
    ],
)
def test_a_concept_is_a_word_or_one_of_a_list(value: object, words: list[str]) -> None:
    assert concepts_of(value) == words


def write_tar(path: Path, values: Sequence[object]) -> None:
    with tarfile.open(path, "w") as tar:
        for number, value in enumerate(values):
            parts = {"png": picture(number), "txt": b"a caption", "json": json.dumps({"classes": value}).encode()}
            for suffix, content in parts.items():
                info = tarfile.TarInfo(f"{number:03d}.{suffix}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))


def test_tars_name_them_in_a_field_of_their_json(tmp_path: Path) -> None:
    write_tar(tmp_path / "0.tar", [["dog", "ball"], None, "Ball"])
    write_tar(tmp_path / "1.tar", [[f"word {n}" for n in range(MOST + 9)], ["ball", "BALL"]])
    shards = open_shards([str(tmp_path)])
    asked = [4, 0, 1, 2, 3]
    values = shards.fields_at("classes", asked)
    assert values[:4] == [["ball", "BALL"], ["dog", "ball"], None, "Ball"]
    column = Concepts(shards, "classes")
    for source in (shards, ManyViews(shards), InMemory(shards, [])):
        assert torch.equal(Concepts(source, "classes").load(at_positions(asked)), column.load(at_positions(asked)))
    ids = pickle.loads(pickle.dumps(column)).load(at_positions(asked))
    assert (ids >= 0).sum(1).tolist() == [1, 2, 0, 1, MOST]
    assert ids[0, 0] == ids[3, 0]
    assert ids[0, 0] in ids[1]
    assert column.sent(ids[:4]).shape == (4, 2)
    assert torch.equal(column.sent(ids[2:3]), torch.tensor([[-1]]))
    with pytest.raises(AcedError, match=r"'tags'.*data\.concept_field"):
        Concepts(shards, "tags")


@pytest.mark.parametrize("name", ["cabs-dm", "cabs-fm"])
def test_a_step_chooses_by_them_and_no_model_scores(name: str, pool: Scenes, tmp_path: Path) -> None:
    config = run_config(tmp_path, name)
    trainer = trainer_of(config, pool)
    outcomes = take(trainer, config, pool, 3)
    column, how = Concepts(pool, "concepts"), METHODS[name].concepts
    assert how is not None
    for outcome in outcomes:
        wanted = by_concepts(column.load(at_positions(outcome.candidates.tolist())), BATCH, how)
        assert torch.equal(outcome.rows, wanted)
        assert len(outcome.candidates) == SUPER
    ledger = trainer.ledger
    assert ledger.samples_loaded == 3 * SUPER
    assert [ledger.flops[phase] for phase in ("scoring", "selection", "reference", "teacher")] == [0.0] * 4


@pytest.mark.parametrize("scope", ["global", "quota", "local"])
@pytest.mark.parametrize("counts", [[40, 40], [9, 0, 60, 11]])
def test_processes_together_choose_what_one_does_or_each_its_share(scope: str, counts: list[int], pool: Scenes) -> None:
    column, positions = (
        Concepts(pool, "concepts"),
        torch.randperm(POOL, generator=torch.Generator().manual_seed(1))[:80],
    )
    ids, parts = column.load(at_positions(positions.tolist())), positions.split(counts)

    def work(ranks: Any) -> tuple[list[int], list[int]]:
        settings = SimpleNamespace(batch=BATCH, scope=scope)
        at: Any = SimpleNamespace(
            world=ranks,
            counts=counts,
            settings=settings,
            method=METHODS["cabs-dm"],
            ledger=Ledger(),
            sources=None,
            generator=torch.Generator(),
        )
        rows, each = drawn_by_concepts(column, at_positions(parts[ranks.rank].tolist()), at)
        return rows.tolist(), each

    found = on_ranks(len(counts), work)
    assert all(one == found[0] for one in found)
    rows, each = found[0]
    if scope == "global":
        assert rows == by_concepts(ids, BATCH, "diversity").tolist()
    else:
        share, starts = BATCH // len(counts), [sum(counts[:rank]) for rank in range(len(counts))]
        assert each == [min(share, count) for count in counts]
        wanted = [
            start + row
            for start, part, size in zip(starts, ids.split(counts), each, strict=True)
            if size
            for row in by_concepts(part, size, "diversity").tolist()
        ]
        assert rows == wanted
    assert each == [
        sum(start <= row < start + n for row in rows)
        for start, n in zip([sum(counts[:rank]) for rank in range(len(counts))], counts, strict=True)
    ]


def test_a_resumed_run_with_loading_processes_is_the_uninterrupted_one(pool: Scenes, tmp_path: Path) -> None:
    keys: dict[str, Any] = {"train__steps": 5, "method__until": 0.8, "run__checkpoint_every": 1}
    for out, workers in (("whole", 0), ("halves", 1)):
        config = run_config(tmp_path / out, "cabs-dm", data__workers=workers, **keys)
        if out == "halves":
            with pytest.raises(KeyboardInterrupt):
                fit(config, Inputs(pool, []), make_student(config), stopping_at(2))
        fit(config, Inputs(pool, []), make_student(config), quiet(), resume=out == "halves")
    one, other = (tmp_path / out / "model/model.safetensors" for out in ("whole", "halves"))
    assert one.read_bytes() == other.read_bytes()


def test_a_pool_without_concepts_is_told_before_anything_is_trained(pool: Scenes, tmp_path: Path) -> None:
    config = run_config(tmp_path, "cabs-fm", data__concept_field="classes")
    with pytest.raises(AcedError, match="'classes'"):
        trainer_of(config, replace(pool))
