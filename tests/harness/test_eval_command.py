"""`aced eval` as people use it: models, data, failures, interruption, comparison."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
import torch

from cli_fakes import Cli

sys.path.insert(0, str(Path(__file__).parents[1] / "evaluate"))

from task_fakes import array, picture, write_golden, write_model, write_task

from aced.evaluate import scoring
from aced.towers import Tower

LARGEST = 1e-6
GOLDEN = Path(__file__).parents[1] / "evaluate" / "clip_benchmark.json"


@pytest.fixture(scope="module")
def golden(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_golden(tmp_path_factory.mktemp("golden"))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_model(tmp_path_factory.mktemp("tiny"))


def read(folder: Path) -> dict:
    return json.loads((folder / "eval.json").read_text())


def test_the_same_figures_as_clip_benchmark(
    cli: Cli, tiny: tuple[Path, Path], golden: dict[str, Path], tmp_path: Path
) -> None:
    """Golden numbers: `python benchmarks/clip_benchmark.py --golden` wrote what CLIP_benchmark 1.6.2 gives."""
    config, weights = tiny
    ended = cli("eval", config, "--checkpoint", weights, "--out", tmp_path, "--data", *golden.values())
    assert ended.status == 0
    theirs, ours = json.loads(GOLDEN.read_text()), read(tmp_path)["tasks"]
    for task in golden:
        for metric, value in theirs[task].items():
            assert ours[task]["metrics"][metric] == pytest.approx(value, abs=LARGEST), f"{task} {metric}"


@pytest.mark.parametrize("task", ["mnist", "tf_flowers"])
def test_the_same_figures_on_photos(
    cli: Cli, tiny: tuple[Path, Path], shared_data: Path, tmp_path: Path, task: str
) -> None:
    config, weights = tiny
    cli("eval", config, "--checkpoint", weights, "--out", tmp_path, "--data", shared_data / "eval" / f"wds_{task}")
    ours = read(tmp_path)["tasks"][task]["metrics"]
    for metric, value in json.loads(GOLDEN.read_text())[task].items():
        assert ours[metric] == pytest.approx(value, abs=LARGEST)


def test_a_folder_of_tasks_one_of_them_broken(
    cli: Cli, trained: dict[str, Path], golden: dict[str, Path], tmp_path: Path
) -> None:
    data = tmp_path / "data"
    shutil.copytree(golden["single"].parent, data)
    (data / "wds_captions" / "test" / "nshards.txt").write_text("2")
    texts = {"classnames": "x", "zeroshot_classification_templates": "{c}"}
    write_task(data / "wds_torn", [("a.jpg", picture(0)[:-30]), ("a.cls", b"0")], **texts)
    ended = cli("eval", trained["large"], "--data", data, "--out", tmp_path / "out")
    assert ended.status == 1
    content = read(tmp_path / "out")
    assert sorted(content["tasks"]) == ["several", "single"]
    assert len(content["failed"]) == 2
    assert "lacks 1.tar of its 2 tars" in content["failed"][str(data / "wds_captions")]
    assert "image a in" in content["failed"][str(data / "wds_torn")]
    assert ended.err.count(" failed: ") == ended.err.count("\n") == 2
    assert "Average of 2" in ended.out
    # Mended, the same command does what is left, and only that.
    (data / "wds_captions" / "test" / "nshards.txt").write_text("1")
    shutil.rmtree(data / "wds_torn")
    ended = cli("eval", trained["large"], "--data", data, "--out", tmp_path / "out")
    assert ended.status == 0
    assert "Kept 2 results" in ended.out
    after = read(tmp_path / "out")
    assert list(after["tasks"]) == ["several", "single", "captions"]
    assert after["failed"] == {}
    assert after["tasks"]["single"] == content["tasks"]["single"]


def test_an_interrupted_run_goes_on(
    cli: Cli, trained: dict[str, Path], golden: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = scoring.score_task, []

    def interrupted(embedder: object, task: object):
        calls.append(task.name)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(embedder, task)

    monkeypatch.setattr("aced.evaluate.zeroshot.score_task", interrupted)
    words = ("eval", trained["large"], "--data", golden["single"].parent, "--out", tmp_path / "out")
    ended = cli(*words)
    assert ended.status == 130
    assert "the same command goes on" in ended.err
    assert list(read(tmp_path / "out")["tasks"]) == calls[:1] == ["captions"]
    assert cli(*words).status == 0
    assert calls == ["captions", "several", "several", "single"]
    whole = cli("eval", trained["large"], "--data", golden["single"].parent, "--out", tmp_path / "whole")
    assert whole.status == 0
    for name, record in read(tmp_path / "whole")["tasks"].items():
        assert record | {"seconds": 0} == read(tmp_path / "out")["tasks"][name] | {"seconds": 0}


def test_changed_data_are_scored_again(cli: Cli, trained: dict[str, Path], tmp_path: Path) -> None:
    texts = {"classnames": "x\ny", "zeroshot_classification_templates": "{c}"}
    members = [(f"{i}.{s}", c) for i in range(4) for s, c in (("jpg", picture(i)), ("cls", b"1"))]
    words = ("eval", trained["large"], "--data", tmp_path / "t", "--out", tmp_path / "out")
    write_task(tmp_path / "t", members, **texts)
    cli(*words)
    before = read(tmp_path / "out")["tasks"]["t"]
    write_task(tmp_path / "t", [(name, b"0" if content == b"1" else content) for name, content in members], **texts)
    os.utime(tmp_path / "t" / "test" / "0.tar", ns=(1, 1))
    ended = cli(*words)
    assert "Kept" not in ended.out
    assert read(tmp_path / "out")["tasks"]["t"]["value"] == 1 - before["value"]
    (tmp_path / "t" / "zeroshot_classification_templates.txt").unlink()
    ended = cli(*words)
    assert ended.status == 1
    assert "has no zeroshot_classification_templates.txt" in ended.err
    assert read(tmp_path / "out")["tasks"] == {}


def test_embeddings_are_computed_once(
    cli: Cli, trained: dict[str, Path], golden: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, texts = [], []
    real_image, real_text = Tower.embed_image, Tower.embed_text
    monkeypatch.setattr(Tower, "embed_image", lambda self, x: images.append(len(x)) or real_image(self, x))
    monkeypatch.setattr(Tower, "embed_text", lambda self, x: texts.append(len(x)) or real_text(self, x))
    words = ("eval", trained["large"], "--data", golden["single"], "--cache", tmp_path / "cache")
    cli(*words, "--out", tmp_path / "a")
    assert (sum(images), sum(texts)) == (90, 36)
    cli(*words, "--out", tmp_path / "b")
    assert (sum(images), sum(texts)) == (90, 36)
    assert read(tmp_path / "a")["tasks"]["single"]["metrics"] == read(tmp_path / "b")["tasks"]["single"]["metrics"]
    # Other prompts are other texts of the same images.
    cli(*words, "--out", tmp_path / "c", "--prompts", "siglip")
    assert (sum(images), sum(texts)) == (90, 72)
    assert read(tmp_path / "c")["prompts"] == "siglip"
    # A damaged file is made again.
    for file in (tmp_path / "cache").rglob("images-*"):
        file.write_bytes(b"damaged")
    cli(*words, "--out", tmp_path / "d")
    assert sum(images) == 180
    # Another precision is another model.
    cli(*words, "--out", tmp_path / "e", "--precision", "bf16")
    assert sum(images) == 270
    assert read(tmp_path / "e")["precision"] == "bf16"


def test_scenes_and_two_models_compared(cli: Cli, trained: dict[str, Path], tmp_path: Path) -> None:
    for name in ("large", "peer"):
        ended = cli("eval", trained[name], "--data", "scenes:validation", "--out", tmp_path / name)
        assert ended.status == 0
    content = read(tmp_path / "large")
    assert len(content["tasks"]) == 13
    assert content["tasks"]["shape"]["chance"] == 1 / 8
    sides = (tmp_path / "large" / "eval.json", tmp_path / "peer")
    ended = cli("eval", "--compare", *sides)
    assert ended.status == 0
    assert ended.out.count("noise") >= 3
    assert "colour and shape on noisy" in ended.out
    kept = cli("eval", trained["large"], "--data", "scenes:validation", "--out", tmp_path / "large")
    assert "Kept 13 results" in kept.out


def test_a_run_folder_and_where_its_results_go(cli: Cli, trained: dict[str, Path], tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained["peer"], run / "model")
    texts = {"classnames": "x\ny", "zeroshot_classification_templates": "{c}"}
    task = write_task(tmp_path / "t", [("a.jpg", picture(0)), ("a.cls", b"0"), ("a.npy", array(1))], **texts)
    assert cli("eval", run, "--data", task).status == 0
    assert read(run / "eval")["tasks"]["t"]["n"] == 1
    # Another model's results are not overwritten.
    ended = cli("eval", trained["large"], "--data", task, "--out", run / "eval")
    assert ended.status == 2
    assert "holds results with another model" in ended.err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["aced-demo-s", "--data", "scenes"], "without trained weights: give a local file with --checkpoint"),
        (["no-such-model", "--data", "scenes", "--checkpoint", "x.pt"], "No model is called 'no-such-model'"),
        (["MODEL"], "No data are given"),
        (["MODEL", "--data", "gone"], "There is no folder gone"),
        (["MODEL", "--data", "EMPTY"], "neither is an evaluation task nor holds any"),
        (["MODEL", "--data", "scenes", "--prompts", "siglop"], "Did you mean 'siglip'"),
        (["MODEL", "--data", "scenes", "--precision", "fp31"], "Did you mean 'fp32'"),
        (["MODEL", "--data", "scenes", "--device", "abacus"], "--device abacus cannot be used here"),
        (["MODEL", "--data", "scenes", "--out", "FILE"], "is a file"),
        (["UNFINISHED", "--data", "scenes"], "has no model yet"),
        ([], "No model is given"),
        (["MODEL", "--compare", "a.json", "b.json"], "--compare takes two evaluations and nothing else"),
        (["--compare", "a.json", "b.json"], "There is no evaluation a.json"),
    ],
)
def test_mistakes_end_in_one_sentence(
    cli: Cli, trained: dict[str, Path], tmp_path: Path, words: list[str], sentence: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.toml").touch()
    places = {"MODEL": trained["peer"], "EMPTY": tmp_path / "empty", "FILE": tmp_path / "file"}
    places["UNFINISHED"] = tmp_path / "run"
    ended = cli("eval", *(places.get(word, word) for word in words))
    assert ended.status == 2
    assert sentence in ended.err
    assert ended.err.count("\n") == 1


def test_training_and_evaluation_agree(cli: Cli, trained: dict[str, Path], tmp_path: Path) -> None:
    """What `aced train` wrote into results.json is what `aced eval` finds on its model."""
    assert torch.get_num_threads() == 1
    run = tmp_path / "run"
    words = ["data.scenes_size=200", "train.steps=3", "train.batch=16", f"run.out={run}", "run.threads=1"]
    ended = cli("train", "scenes", "method.name=iid", "student.model=aced-demo-s", *words)
    assert ended.status == 0, ended.err
    assert cli("eval", run, "--data", "scenes").status == 0
    ours = read(run / "eval")["tasks"]
    (row,) = json.loads((run / "results.json").read_text())["rows"]
    assert list(row["tasks"]) == list(ours)
    for name, result in row["tasks"].items():
        assert {key: ours[name][key] for key in result} == result
