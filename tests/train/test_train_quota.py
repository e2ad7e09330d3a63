"""Quotas by source in a run: what each step takes of each source, a filter's thresholds, resuming, what is refused."""

from __future__ import annotations

import io
import itertools
import json
import tarfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from aced.config import Config, make_config
from aced.core.concepts import by_concepts
from aced.core.quotas import apportioned
from aced.errors import AcedError
from aced.lab.scenes import Scenes, make_pool
from aced.pool.concept_column import Concepts
from aced.pool.inmemory import InMemory
from aced.pool.shards import open_shards
from aced.pool.source import Candidates
from aced.train.distributed import World
from aced.train.providers import Cached
from aced.train.run.fit import fit, make_trainer
from aced.train.run.inputs import Inputs, make_source
from aced.train.run.quota import source_ends
from aced.train.run.student import make_student
from aced.train.scoring.filtering import FILTERED, kept_pairs, similarities
from aced.train.step import Outcome
from run_fakes import BATCH, POOL, SUPER, inputs_of, picture, quiet, run_config, stopping_at, take, trainer_of

SIZES = (290, 85, 25)
"""Pairs of each source of the pool of scenes."""
ENDS = torch.tensor(SIZES).cumsum(0)


class Parted(Scenes):
    """Scenes in three sources."""

    mixture = SIZES


@pytest.fixture(scope="module")
def pool() -> Parted:
    whole = make_pool(POOL, 1)
    return Parted(**{name: getattr(whole, name) for name in Scenes.__dataclass_fields__})


def counts_of(positions: Tensor) -> list[int]:
    """How many of the positions each source has."""
    edges = [0, *ENDS.tolist()]
    return [int(((positions >= a) & (positions < b)).sum()) for a, b in itertools.pairwise(edges)]


def check_share(taken: Sequence[int], given: Sequence[int], size: int = BATCH) -> None:
    """A batch has of each source its exact share of the candidates, rounded."""
    assert sum(taken) == size
    for one, count in zip(taken, given, strict=True):
        assert size * count // sum(given) <= one <= -(-size * count // sum(given))


def check_counts(outcomes: Sequence[Outcome], size: int = BATCH) -> None:
    """Every batch has of each source what its candidates ask for."""
    for outcome in outcomes:
        check_share(counts_of(outcome.candidates[outcome.rows]), counts_of(outcome.candidates), size)
        assert len(set(outcome.rows.tolist())) == size


# -- steps -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("hard-student", {}),
        ("hard-student", {"method__temperature": 0.0, "method__loss": "softmax"}),
        ("h-acid-independent", {}),
        ("aced", {"scoring__reuse": 4, "scoring__unseen": "predict", "reference__cache": "cache"}),
        ("cabs-fm", {}),
        ("dissect", {}),
    ],
)
def test_each_source_has_its_share_of_every_batch(
    name: str, keys: dict[str, Any], pool: Parted, tmp_path: Path, trained: dict[str, Path]
) -> None:
    config = run_config(tmp_path, name, trained, method__quota=True, train__steps=4, **keys)
    cache = tmp_path if "reference__cache" in keys else None
    outcomes = take(trainer_of(config, pool, cache), config, pool, 4)
    check_counts(outcomes)
    given = {tuple(counts_of(outcome.candidates)) for outcome in outcomes}
    assert len(given) > 1  # they differ from step to step, and so does what is taken


def test_a_choice_by_concepts_is_each_sources_own(pool: Parted, tmp_path: Path) -> None:
    config = run_config(tmp_path, "cabs-dm", method__quota=True)
    column = Concepts(pool, "concepts")
    for outcome in take(trainer_of(config, pool), config, pool, 2):
        positions, wanted = outcome.candidates, []
        for source, quota in enumerate(counts_of(positions[outcome.rows])):
            own = [row for row, at in enumerate(positions) if counts_of(at[None])[source]]
            if not quota:
                continue
            ids = column.load(Candidates(positions[own], [""] * len(own), {}))
            wanted += [own[row] for row in by_concepts(ids, quota, "diversity").tolist()]
        assert outcome.rows.tolist() == wanted
        check_counts([outcome])


def test_outside_the_window_batches_are_random(pool: Parted, tmp_path: Path) -> None:
    config = run_config(tmp_path, "hard-student", method__quota=True, train__steps=4, method__since=0.5)
    outcomes = take(trainer_of(config, pool), config, pool, 4)
    assert [len(outcome.candidates) for outcome in outcomes] == [BATCH, BATCH, SUPER, SUPER]
    check_counts(outcomes[2:])


@pytest.mark.parametrize("name", ["hard-student", "cabs-fm", "dissect"])
def test_the_smallest_source_is_not_left_out_for_good(
    name: str, tmp_path: Path, trained: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A source with at most .4 pairs in a batch: largest remainders would never take one."""
    sizes = (290, 108, 2)
    monkeypatch.setattr(Parted, "mixture", sizes)
    whole = make_pool(POOL, 1)
    small = Parted(**{part: getattr(whole, part) for part in Scenes.__dataclass_fields__})
    config = run_config(tmp_path, name, trained, method__quota=True, train__steps=40)
    outcomes = take(trainer_of(config, small), config, small, 40)
    given, taken = (
        [int((positions >= 398).sum()) for positions in side]
        for side in ([o.candidates for o in outcomes], [o.candidates[o.rows] for o in outcomes])
    )
    wanted = BATCH * sum(given) / SUPER
    assert max(given) * BATCH < SUPER / 2  # always less than half a pair of a batch
    assert 0 < sum(taken) < 2.5 * wanted


def test_without_a_quota_sources_do_not_matter(pool: Parted, tmp_path: Path) -> None:
    plain = make_pool(POOL, 1)
    config = run_config(tmp_path, "hard-student")
    rows = [[o.rows.tolist() for o in take(trainer_of(config, one), config, one, 2)] for one in (pool, plain)]
    assert rows[0] == rows[1]


# -- tars --------------------------------------------------------------------------------------------------------------


def write(path: Path, kind: str, numbers: range) -> str:
    path.parent.mkdir(parents=True)
    with tarfile.open(path, "w") as tar:
        for number in numbers:
            about = json.dumps({"kind": kind}).encode()
            for part, content in {"png": picture(number), "txt": f"{kind} {number}".encode(), "json": about}.items():
                info = tarfile.TarInfo(f"{number:05}.{part}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return str(path.parent)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("kinds")
    names = {"a": range(90), "b": range(90, 150), "c": range(150, 162)}
    return [write(folder / name / f"{name}.tar", name, numbers) for name, numbers in names.items()]


def tars_config(out: Path, shards: Sequence[str], **keys: Any) -> Config:
    data = {"data__shards": list(shards), "data__kind_field": "kind", "data__weights": [5, 9, 1]}
    own = {"method__quota": True, "method__filtering_ratio": 0.5, "run__log_every": 1, "run__checkpoint_every": 1}
    return run_config(out, "hard-student", **data | own | {"train__steps": 4} | keys)


def trained_on(config: Config, bars: Any = None, *, resume: bool = False) -> None:
    source = make_source(config, quiet())
    fit(config, Inputs(source, []), make_student(config), bars or quiet(), resume=resume)


@pytest.mark.parametrize("weights", [[5, 9, 1], []])
def test_the_kinds_of_a_run_follow_the_quota_and_a_resumed_one_is_the_uninterrupted(
    weights: list[int], shards: list[str], tmp_path: Path
) -> None:
    for out in ("whole", "halves"):
        config = tars_config(tmp_path / out, shards, data__weights=weights)
        if out == "halves":
            with pytest.raises(KeyboardInterrupt):
                trained_on(config, stopping_at(2))
        trained_on(config, resume=out == "halves")
    lines = [json.loads(line) for line in (tmp_path / "whole/metrics.jsonl").read_text().splitlines()]
    assert len(lines) == 4
    total = Counter[str]()
    for line in lines:
        given, taken = (Counter(line["kinds"][side]) for side in ("pool", "chosen"))
        check_share([taken[kind] for kind in "abc"], [given[kind] for kind in "abc"])
        total.update(given)
    if weights:
        assert abs(total["b"] - 4 * 32 * 9 / 15) < 4
    one, other = (tmp_path / out / "model/model.safetensors" for out in ("whole", "halves"))
    assert one.read_bytes() == other.read_bytes()


def test_other_entries_with_the_same_pairs_are_another_run(shards: list[str], tmp_path: Path) -> None:
    config = tars_config(tmp_path / "run", shards, data__weights=[], train__steps=2)
    with pytest.raises(KeyboardInterrupt):
        trained_on(config, stopping_at(1))
    merged = [f"{shards[0]}/../[ab]/*.tar", shards[2]]
    with pytest.raises(AcedError, match=r"data\.shards"):
        trained_on(tars_config(tmp_path / "run", merged, data__weights=[], train__steps=2), resume=True)
    with pytest.raises(AcedError, match=r"method\.quota"):
        trained_on(tars_config(tmp_path / "run", shards, data__weights=[], method__quota=False), resume=True)


# -- filter ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("thrown", [0.0, 0.5, 0.83])
def test_a_filter_has_a_threshold_for_each_source(thrown: float) -> None:
    scores = torch.randn(POOL, generator=torch.Generator().manual_seed(3)) + torch.arange(POOL) / 100
    scores[::7] = -torch.inf
    kept = kept_pairs(scores, thrown, ENDS).tolist()
    edges, wanted = [0, *ENDS.tolist()], []
    usable = [[at for at in range(a, b) if at % 7] for a, b in itertools.pairwise(edges)]
    sizes = [len(part) for part in usable]
    for part, count in zip(usable, apportioned(round((1 - thrown) * sum(sizes)), sizes), strict=True):
        wanted += sorted(sorted(part, key=lambda at: -float(scores[at]))[:count])
    assert kept == wanted
    assert thrown == 0 or kept != kept_pairs(scores, thrown).tolist()
    assert len(kept) == len(kept_pairs(scores, thrown))


def test_a_run_with_a_filter_keeps_its_share_of_each_source(
    pool: Parted, tmp_path: Path, trained: dict[str, Path]
) -> None:
    marks = set()
    for quota in (True, False):
        config = run_config(tmp_path, "clip-filter", trained, method__quota=quota, method__filtering_ratio=0.6)
        inputs = inputs_of(config, pool, tmp_path)
        assert isinstance(inputs.reference, Cached)
        scores = similarities(inputs.reference.store)
        trainer = make_trainer(config, inputs, make_student(config))
        assert trainer.plan.kept is not None
        assert trainer.plan.kept.tolist() == kept_pairs(scores, 0.6, ENDS if quota else None).tolist()
        marks.add(trainer.marks[FILTERED])
        if quota:
            assert counts_of(trainer.plan.kept) == apportioned(160, SIZES)
    assert len(marks) == 2


# -- what is refused ---------------------------------------------------------------------------------------------------

TWO = {"shards": ["a", "b"]}


@pytest.mark.parametrize(
    ("values", "keys"),
    [
        ({"method": {"name": "iid"}}, ["method.quota", "'iid'"]),
        ({"method": {"name": "hard-student"}, "data": {"shards": ["a"]}}, ["method.quota", "data.shards"]),
        ({"method": {"name": "hard-student", "scope": "local"}}, ["method.quota", "method.scope = 'local'"]),
        ({"method": {"name": "aced"}, "scoring": {"cascade": 0.5}}, ["method.quota", "scoring.cascade"]),
        ({"method": {"name": "i-acid"}, "scoring": {"early": True}}, ["method.quota", "scoring.early"]),
        ({"method": {"name": "hard-student"}, "data": {**TWO, "views": 2}}, ["method.quota", "data.views"]),
    ],
)
def test_what_does_not_go_with_a_quota_is_one_sentence_with_both_keys(values: dict[str, Any], keys: list[str]) -> None:
    whole = {"data": TWO, "reference": {"model": "x", "cache": "c"}} | values
    whole["method"] = {**values["method"], "quota": True}
    with pytest.raises(AcedError) as caught:
        make_config(whole)
    assert all(key in str(caught.value) for key in keys)
    del whole["method"]["quota"]
    make_config(whole)


def test_a_pool_of_one_source_is_refused(tmp_path: Path) -> None:
    config = run_config(tmp_path, "hard-student", method__quota=True)
    with pytest.raises(AcedError, match=r"method\.quota.*data\.shards"):
        trainer_of(config, make_pool(POOL, 1))


def test_several_processes_choose_no_quotas_but_filter_by_them(
    pool: Parted, tmp_path: Path, trained: dict[str, Path]
) -> None:
    chooses, filters = (run_config(tmp_path, name, trained, method__quota=True) for name in ("aced", "clip-filter"))
    with pytest.raises(AcedError, match=r"method\.quota.* 2\b"):
        source_ends(chooses, pool, 2)
    for config, ranks in ((chooses, World().size), (filters, 2)):
        found = source_ends(config, pool, ranks)
        assert found is not None
        assert torch.equal(found, ENDS)
    assert source_ends(replace_quota(chooses), pool, 2) is None


def replace_quota(config: Config) -> Config:
    """The config without its quota."""
    return config.model_copy(update={"method": config.method.model_copy(update={"quota": False})})


def test_a_tar_in_two_sources_is_refused(shards: list[str], tmp_path: Path) -> None:
    config = tars_config(tmp_path, [shards[0], shards[0]], data__weights=[])
    with pytest.raises(AcedError, match=r"method\.quota"):
        make_source(config, quiet())


def test_pools_in_memory_know_their_sources(shards: list[str]) -> None:
    apart = open_shards(shards, apart=True)
    assert InMemory(apart, []).mixture == apart.mixture == (90, 60, 12)
