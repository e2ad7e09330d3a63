"""What a resumed run may change: where things lie and how sums are rounded, and nothing that it computes with."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from aced.config import Config, describe_keys, resume_rules
from aced.config.resume import Resume
from aced.models import load_tower, save_tower
from aced.train.run.checkpoint import latest_checkpoint
from aced.train.run.resuming import Earlier
from cli_fakes import Cli, Ended
from run_fakes import write_pairs
from wording import tells

SMALL: dict[str, Any] = {
    "embed_dim": 8,
    "vision_cfg": {"image_size": 16, "layers": 1, "width": 8, "head_width": 8, "patch_size": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 450, "width": 8, "heads": 1, "layers": 1},
}
KEYS = {
    "method.name": "i-acid",
    "method.filtering_ratio": 0.5,
    "train.batch": 8,
    "train.steps": 4,
    "run.checkpoint_every": 2,
    "run.log_every": 1,
    "run.threads": 1,
    "run.out": "run",
    "student.model": "student.json",
    "reference.model": "ref",
    "reference.cache": "cache",
    "data.shards": "pool",
}

Go = Callable[..., Ended]


def write_json(path: Path, **vision: Any) -> Path:
    path.write_text(json.dumps({**SMALL, "vision_cfg": {**SMALL["vision_cfg"], **vision}}))
    return path


def words(keys: dict[str, Any]) -> list[str]:
    return [f"{key}={json.dumps(value) if not isinstance(value, str) else value}" for key, value in keys.items()]


def stop_half_way(folder: Path) -> None:
    """Leave what a kill behind the checkpoint of step 2 would leave."""
    shutil.rmtree(folder / "checkpoints/step-00000004")
    shutil.rmtree(folder / "model")
    (folder / "results.json").unlink()


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a pool of three tars, a student, a reference with weights, and a run that was stopped half-way.

    `whole` is the run as it was before it lost its second half.
    """
    from rich.console import Console

    from aced.config import load_config
    from aced.programs.train import train_program

    folder = tmp_path_factory.mktemp("begun")
    for number, name in enumerate("abc"):
        write_pairs(folder / f"pool/{name}.tar", range(100 * number, 100 * number + 16))
    write_json(folder / "student.json")
    save_tower(load_tower(write_json(folder / "large.json"), seed=3), folder / "ref")
    before = Path.cwd()
    os.chdir(folder)
    try:
        train_program(load_config("photos", words(KEYS)), Console(quiet=True), resume=False)
    finally:
        os.chdir(before)
    shutil.copytree(folder / "run", folder / "whole")
    stop_half_way(folder / "run")
    return folder


@pytest.fixture
def place(begun: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, to work in."""
    shutil.copytree(begun, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


@pytest.fixture
def go(place: Path, cli: Cli) -> Go:
    """Resumes the run with some keys changed."""

    def resume(recipe: str = "photos", **changed: Any) -> Ended:
        keys = KEYS | {key.replace("__", "."): value for key, value in changed.items()}
        return cli("train", recipe, *words(keys), "--resume")

    return resume


def weights(run: Path) -> bytes:
    return (run / "model/model.safetensors").read_bytes()


def metrics(run: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]


def refused(ended: Ended, *fragments: str) -> None:
    assert ended.status == 2, ended
    assert ended.err.count("\n") == 1
    assert "Traceback" not in ended.err
    for fragment in fragments:
        assert fragment in ended.err


# -- what moves --------------------------------------------------------------------------------------------------------


def _moved(place: Path) -> dict[str, Any]:
    (place / "disk 2 ü").mkdir()
    for name in ("pool", "ref", "cache", "student.json"):
        (place / name).rename(place / "disk 2 ü" / name)
    names = {"data__shards": "pool", "reference__model": "ref", "reference__cache": "cache"}
    return {key: f"disk 2 ü/{name}" for key, name in (names | {"student__model": "student.json"}).items()}


def _touched_and_spelt(place: Path) -> dict[str, Any]:
    os.utime(place / "pool/b.tar", (1, 1))
    there = {"reference__cache": "./cache/", "reference__model": f"{place}/ref/"}
    return there | {"data__shards": f"{place}/../here/pool/"}


def _linked(place: Path) -> dict[str, Any]:
    (place / "link").symlink_to("pool")
    return {"data__shards": "link"}


def _named(place: Path) -> dict[str, Any]:
    return {"data__shards": ["pool/a.tar", "pool/{b,c}.tar"]}


def _as_weights(place: Path) -> dict[str, Any]:
    torch.save(load_file(place / "ref/model.safetensors"), place / "weights.pt")
    named = {"reference__model": "large.json", "reference__checkpoint": "weights.pt"}
    return named | {"reference__cache": "another/cache"}


def _defaults_spelt_out(place: Path) -> dict[str, Any]:
    write_json(place / "spelt.json", pool_type="tok", mlp_ratio=4.0, patch_dropout=0.0)
    return {"student__model": "spelt.json"}


def _student_of_the_checkpoint(place: Path) -> dict[str, Any]:
    return {"student__model": "run/checkpoints/step-00000002/model"}


@pytest.mark.parametrize(
    "change",
    [
        _moved, _touched_and_spelt, _linked, _named, _as_weights, _defaults_spelt_out, _student_of_the_checkpoint,
    ],
)  # fmt: skip
def test_what_only_moved_goes_on_to_the_same_bits(
    change: Callable[[Path], dict[str, Any]], place: Path, go: Go
) -> None:
    keys = change(place)
    ended = go(**keys)
    assert ended.status == 0, ended.err
    assert "step 2" in ended.out
    assert weights(place / "run") == weights(place / "whole")
    assert metrics(place / "run") == metrics(place / "whole")
    for key in keys:  # and it says so
        assert key.replace("__", ".") in ended.out


def test_a_run_that_moved_goes_on_from_anywhere(place: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    (place / "elsewhere").mkdir()
    (place / "run").rename(place / "elsewhere/moved")
    monkeypatch.chdir(place / "elsewhere")
    there = ("student.model", "reference.model", "reference.cache", "data.shards")
    keys = KEYS | {key: f"../{KEYS[key]}" for key in there} | {"run.out": "moved"}
    ended = cli("train", "photos", *words(keys), "--resume")
    assert ended.status == 0, ended.err
    assert weights(place / "elsewhere/moved") == weights(place / "whole")


def test_a_run_goes_on_in_the_home_folder(place: Path, go: Go, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(place / "home ü"))
    (place / "home ü").mkdir()
    for name in ("run", "pool", "cache", "ref"):
        (place / name).rename(place / "home ü" / name)
    where = {"data__shards": "~/pool", "reference__cache": "~/cache", "reference__model": "~/ref", "run__out": "~/run"}
    ended = go(**where, data__index_dir="~/index")
    assert ended.status == 0, ended.err
    assert weights(place / "home ü/run") == weights(place / "whole")
    assert (place / "home ü/index").is_dir()
    assert not (place / "~").exists()


def test_a_run_before_its_first_checkpoint_may_move_too(place: Path, go: Go) -> None:
    shutil.rmtree(place / "run/checkpoints")
    refused(go(train__lr=0.5), "train.lr", "0.5")
    (place / "pool").rename(place / "moved")
    ended = go(data__shards="moved")
    assert ended.status == 0, ended.err
    assert weights(place / "run") == weights(place / "whole")


def test_a_checkpoint_of_an_older_version_goes_on(place: Path, go: Go) -> None:
    path = place / "run/checkpoints/step-00000002/train.json"
    facts = json.loads(path.read_text())
    del facts["caches"], facts["marks"]["the architecture of the reference"]
    assert sorted(facts["marks"]) == ["the data", "the reference"]
    path.write_text(json.dumps(facts))
    (place / "pool").rename(place / "moved")
    ended = go(data__shards="moved", train__micro_batch=8)
    assert ended.status == 0, ended.err
    assert weights(place / "run") == weights(place / "whole")


# -- what is another run -----------------------------------------------------------------------------------------------


def _fewer(place: Path) -> dict[str, Any]:
    return {"data__shards": "pool/{a,b}.tar"}


def _more(place: Path) -> dict[str, Any]:
    write_pairs(place / "pool/d.tar", range(900, 916))
    return {}


def _reordered(place: Path) -> dict[str, Any]:
    return {"data__shards": ["pool/b.tar", "pool/a.tar", "pool/c.tar"]}


def _renamed(place: Path) -> dict[str, Any]:
    (place / "pool/c.tar").rename(place / "pool/d.tar")
    return {}


def _replaced(place: Path) -> dict[str, Any]:
    write_pairs(place / "pool/b.tar", range(500, 517))
    return {}


@pytest.mark.parametrize("change", [_fewer, _more, _reordered, _renamed, _replaced])
def test_other_data_are_refused_before_a_cache_is_made(
    change: Callable[[Path], dict[str, Any]], place: Path, go: Go
) -> None:
    refused(go(**change(place), reference__cache="new"), "the data", "changed")
    assert not (place / "new").exists()
    assert not (place / "run/model").exists()


def test_another_reference_is_refused_before_the_pool_is_opened(place: Path, go: Go) -> None:
    save_tower(load_tower(place / "large.json", seed=4), place / "ref")
    refused(go(reference__cache="new", data__index_dir="index"), "the reference", "changed")
    assert not (place / "new").exists()
    assert not (place / "index").exists()


@pytest.mark.parametrize(
    ("vision", "named"), [({"pool_type": "avg"}, "vision_cfg.pool_type"), ({"width": 16}, "vision_cfg.width")]
)
def test_another_architecture_is_refused_before_the_pool_is_opened(
    vision: dict[str, Any], named: str, place: Path, go: Go
) -> None:
    write_json(place / "student.json", **vision)  # of the same name
    refused(go(data__index_dir="index"), named, str(next(iter(vision.values()))))
    assert not (place / "index").exists()


def test_another_preprocessing_of_the_student_is_refused(place: Path, go: Go) -> None:
    content = {"model_cfg": SMALL, "preprocess_cfg": {"mean": [0.5] * 3}}
    (place / "student.json").write_text(json.dumps(content))
    refused(go(), "preprocess_cfg.mean", "0.5")


def test_another_tokenizer_of_the_student_is_refused(place: Path, go: Go) -> None:
    assert go().status == 0
    stop_half_way(place / "run")
    (place / "student-vocab.txt").write_text("\n".join(f"word{n}" for n in range(192)) + "\n")
    refused(go(data__index_dir="index"), "tokenizer")
    assert not (place / "index").exists()


CHANGED = {
    "train__lr": 0.5,
    "train__steps": 5,
    "train__batch": 4,
    "run__seed": 1,
    "method__name": "h-acid",
    "reference__cache_dtype": "float32",
    "reference__cache": "",
    "data__shards": [],
    "data__caption": "json:kind",
    "data__decoding": "exact",
    "train__precision": "bf16",
    "data__weights": [1.0],
}


@pytest.mark.parametrize("key", CHANGED)
def test_what_the_config_alone_says_comes_before_anything(
    key: str, place: Path, go: Go, monkeypatch: pytest.MonkeyPatch
) -> None:
    from aced.programs import train as program

    monkeypatch.setattr(program, "make_student", lambda _: pytest.fail("the student was built"))
    monkeypatch.setattr(program, "make_inputs", lambda *_: pytest.fail("the data were opened"))
    refused(go(**{"reference__cache": "new", key: CHANGED[key]}), key.replace("__", "."), "step-00000002")
    assert not (place / "new").exists()


def test_the_entries_of_weighted_data_keep_their_samples(place: Path, cli: Cli) -> None:
    keys = KEYS | {"data.shards": ["pool/{a,b}.tar", "pool/c.tar"], "data.weights": [1, 1], "run.out": "weighted"}
    assert cli("train", "photos", *words(keys)).status == 0
    after = weights(place / "weighted")

    def again(*shards: str) -> Ended:
        if (place / "weighted/model").exists():
            stop_half_way(place / "weighted")
        return cli("train", "photos", *words(keys | {"data.shards": list(shards)}), "--resume")

    refused(again("pool/a.tar", "pool/{b,c}.tar"), "data.shards")
    ended = again("./pool/[ab].tar", "./pool/c.tar")
    assert ended.status == 0, ended.err
    assert weights(place / "weighted") == after
    stop_half_way(place / "weighted")
    path = place / "weighted/checkpoints/step-00000002/train.json"
    facts = json.loads(path.read_text())
    del facts["marks"]["the number of samples of each entry of data.shards"]  # as an older version wrote it
    path.write_text(json.dumps(facts))
    refused(again("pool/{a,b}.tar", "./pool/c.tar"), "data.shards")
    assert again("pool/{a,b}.tar", "pool/c.tar").status == 0  # told apart by their words, as before


# -- every key ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", resume_rules())
def test_every_key_is_refused_or_allowed_as_it_says(key: str) -> None:
    config, rule = Config.model_validate({"method": {"name": "iid"}}), resume_rules()[key]
    section, name = key.split(".")
    saved = config.model_dump(mode="json")
    saved[section][name] = ["other"] if isinstance(saved[section][name], list) else "other"
    earlier = Earlier(Path("there"), saved, {"the data": "x"}, {})
    allowed = rule in (Resume.FREE, Resume.ROUNDING, Resume.MODEL)  # a place must not be left out
    if allowed:
        assert [change.key for change in earlier.allowed(config)] == [key]
    else:
        with pytest.raises(Exception, match=rf"{key} .*'other'"):
            earlier.allowed(config)


FREE_VALUES: dict[str, Any] = {
    "run__log_every": 1,  # the lines are compared
    "run__trackers": [],
    "run__checkpoint_every": 1,
    "run__keep": 7,
    "run__keep_best": False,  # goes with tasks alone
    "run__timeout": 99.0,
    "run__out": "run",
    "data__max_bad_share": 0.5,
    "data__spool_dir": "spool",
    "data__spool_gb": 3.0,
    "data__in_memory": False,
    "data__workers": 2,
    "data__index_dir": "index",
    "reference__cache_missing": "refuse",
    "teacher__cache_missing": "refuse",
    "eval__every": 0,
    "eval__split": "validation",
    "eval__tasks": [],
}


def test_all_free_keys_at_once_change_no_bit(place: Path, go: Go) -> None:
    free = {key.replace(".", "__") for key, rule in resume_rules().items() if rule is Resume.FREE}
    assert set(FREE_VALUES) <= free
    ended = go(**FREE_VALUES)
    assert ended.status == 0, ended.err
    assert weights(place / "run") == weights(place / "whole")
    assert metrics(place / "run") == metrics(place / "whole")


def test_what_rounds_otherwise_is_said_and_changes_the_last_bits_alone(place: Path, go: Go) -> None:
    changed = {"train__micro_batch": 3, "train__grad_cache": 3, "train__activation_checkpointing": True}
    ended = go(**changed)
    assert ended.status == 0, ended.err
    said = next(line for line in ended.out.splitlines() if tells(line, "train.micro_batch … 1024 … 3"))
    assert all(key.replace("__", ".") in said for key in changed)
    # Not the weights: what no gradient reaches (a bias of the keys) moves with the sign of a rounding error.
    images = torch.randint(0, 256, (16, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    one, other = (load_tower(place / run / "model").score_images(images, 16) for run in ("run", "whole"))
    assert torch.allclose(one, other, atol=1e-5)
    assert metrics(place / "run") == pytest.approx(metrics(place / "whole"), rel=1e-5)
    spent = [json.loads((place / run / "metrics.jsonl").read_text().splitlines()[-1]) for run in ("run", "whole")]
    assert spent[0]["budgets"]["flops"] > spent[1]["budgets"]["flops"]  # it did compute anew


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("train__grad_cache", 4, "PatchDropout"),
        ("train__compile", True, "PatchDropout"),
        ("train__micro_batch", 4, ""),
        ("train__activation_checkpointing", True, ""),
    ],
)
def test_a_student_that_draws_while_it_trains_keeps_how_it_is_computed(
    key: str, value: Any, said: str, place: Path
) -> None:
    student = load_tower(write_json(place / "dropping.json", patch_dropout=0.5), seed=0)
    saved = Config.model_validate({"method": {"name": "iid"}})
    section, _, name = key.partition("__")
    config = Config.model_validate({"method": {"name": "iid"}, section: {name: value}})
    earlier = Earlier(Path("there"), saved.model_dump(mode="json"), {}, {"step": 2})
    if said:
        with pytest.raises(Exception, match=f"{section}.{name} .*{said}"):
            earlier.check_rounding(student, config)
    else:
        earlier.check_rounding(student, config)


def test_a_cache_of_other_bytes_is_said(place: Path, go: Go) -> None:
    path = latest_checkpoint(place / "run/checkpoints")
    assert path is not None
    facts = json.loads((path / "train.json").read_text())
    assert len(facts["caches"]) == 1
    assert "byte" not in go().out
    stop_half_way(place / "run")
    facts["caches"] = dict.fromkeys(facts["caches"], "of another machine")
    (path / "train.json").write_text(json.dumps(facts))
    ended = go()
    assert ended.status == 0
    assert "bit" in ended.out


def test_the_rules_are_those_of_the_keys() -> None:
    assert list(resume_rules()) == [key for key, _, _ in describe_keys()]
