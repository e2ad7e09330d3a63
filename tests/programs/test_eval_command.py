"""`aced eval` as people use it: models, data, failures, interruption, comparison."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from cli_fakes import Cli
from wording import tells

sys.path.insert(0, str(Path(__file__).parents[1] / "evaluate"))

from task_fakes import WORDS, array, noise, picture, prompts, write_golden, write_model, write_task

from aced.evaluate import scoring
from aced.models import Tower, load_tower
from aced.models.model_argument import open_model
from aced.pool.images import decode_image

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


def test_the_figures_do_not_depend_on_who_decodes(
    cli: Cli, tiny: tuple[Path, Path], golden: dict[str, Path], tmp_path: Path
) -> None:
    config, weights = tiny
    found = {}
    for workers in (0, 2):
        out = tmp_path / str(workers)
        words = ["--checkpoint", weights, "--out", out, "--workers", workers, "--data", *golden.values()]
        assert cli("eval", config, *words).status == 0
        found[workers] = {name: (t["metrics"], t["samples"]) for name, t in read(out)["tasks"].items()}
    assert found[0] == found[2]


def test_a_corrected_config_is_another_model(
    cli: Cli, tiny: tuple[Path, Path], golden: dict[str, Path], tmp_path: Path
) -> None:
    config, weights = tiny
    right = json.loads(config.read_text())
    wrong = {**right, "vision_cfg": {**right["vision_cfg"], "pool_type": "avg"}}
    (tmp_path / "m.json").write_text(json.dumps(wrong))
    words = ["eval", tmp_path / "m.json", "--checkpoint", weights, "--data", golden["single"], "--out"]
    assert cli(*words, tmp_path / "o").status == 0
    (tmp_path / "m.json").write_text(json.dumps(right))
    refused = cli(*words, tmp_path / "o")
    assert refused.status == 2
    assert "model" in refused.err
    assert cli(*words, tmp_path / "fresh").status == 0
    before, after = (read(tmp_path / name) for name in ("o", "fresh"))
    assert before["fingerprint"] != after["fingerprint"]
    theirs = json.loads(GOLDEN.read_text())["single"]
    for metric, value in theirs.items():
        assert after["tasks"]["single"]["metrics"][metric] == pytest.approx(value, abs=LARGEST)


def test_what_was_chosen_of_a_checkpoint_is_printed(
    cli: Cli, tiny: tuple[Path, Path], golden: dict[str, Path], tmp_path: Path
) -> None:
    config, weights = tiny
    state = dict(load_tower(config, checkpoint=weights).model.state_dict())
    torch.save({"state_dict": state, "state_dict_ema": {k: v / 2 for k, v in state.items()}}, tmp_path / "both.pt")
    ended = cli(
        "eval", config, "--checkpoint", tmp_path / "both.pt", "--data", golden["single"], "--out", tmp_path / "o"
    )
    assert ended.status == 0
    assert tells(ended.out, "'state_dict' … 'state_dict_ema'")


def test_a_hub_folder_without_weights_is_refused(cli: Cli, tiny: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": json.loads(tiny[0].read_text())}))
    for name, words in (("training_args.bin", "weights"), ("epoch_1.pt", "epoch_1.pt")):
        (tmp_path / name).write_bytes(b"x" * 100)
        refused = cli("eval", tmp_path, "--data", "scenes", "--out", tmp_path / "o")
        assert refused.status == 2
        assert words in refused.err
    assert not (tmp_path / "o").exists()


def test_results_of_an_older_version_want_another_folder(
    cli: Cli, trained: dict[str, Path], golden: dict[str, Path], tmp_path: Path
) -> None:
    words = ["eval", trained["peer"], "--data", golden["single"], "--out", tmp_path]
    assert cli(*words).status == 0
    content = read(tmp_path) | {"fingerprint": load_tower(trained["peer"]).identity()["contents"]}
    (tmp_path / "eval.json").write_text(json.dumps(content))
    refused = cli(*words)
    assert refused.status == 2
    assert "architecture" in refused.err
    assert "--out" in refused.err


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
    assert tells(content["failed"][str(data / "wds_captions")], "1.tar … 2 tars")
    assert "a.jpg in" in content["failed"][str(data / "wds_torn")]
    assert ended.err.count(" failed: ") == ended.err.count("\n") == 2
    assert "Average of 2" in ended.out
    # Mended, the same command does what is left, and only that.
    (data / "wds_captions" / "test" / "nshards.txt").write_text("1")
    shutil.rmtree(data / "wds_torn")
    ended = cli("eval", trained["large"], "--data", data, "--out", tmp_path / "out")
    assert ended.status == 0
    assert "2 results" in ended.out
    after = read(tmp_path / "out")
    assert list(after["tasks"]) == ["several", "single", "captions"]
    assert after["failed"] == {}
    assert after["tasks"]["single"] == content["tasks"]["single"]


def test_a_folder_that_is_no_task_does_not_stop_the_others(
    cli: Cli, trained: dict[str, Path], golden: dict[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    words = ["eval", trained["large"], "--data", tmp_path / "gone", tmp_path / "empty", golden["single"]]
    ended = cli(*words, "--out", tmp_path / "out")
    assert ended.status == 1
    assert list(read(tmp_path / "out")["tasks"]) == ["single"]
    assert str(tmp_path / "gone") in read(tmp_path / "out")["failed"][str(tmp_path / "gone")]
    assert f"{tmp_path / 'empty'}" in ended.err
    assert ended.err.count(" failed: ") == ended.err.count("\n") == 2


def test_groups_and_sets_from_folders(cli: Cli, trained: dict[str, Path], tmp_path: Path) -> None:
    """Worst groups, pairs of captions, and cues: the figures are those of loops over the tower's embeddings."""
    rng = np.random.default_rng(3)
    pictures = [noise(rng) for _ in range(24)]
    birds, places = rng.integers(2, size=24), rng.integers(2, size=24)
    members: list[tuple[str, bytes]] = []
    for i in range(24):
        members += [(f"{i:02}.png", pictures[i]), (f"{i:02}.cls", b"%d" % birds[i])]
        members.append((f"{i:02}.npy", array(places[i], birds[i])))
    groups = "fields: background, y\ngroups: background, y"
    write_task(tmp_path / "tasks/waterbirds", members, **prompts(2), dataset_type="groups", groups=groups)
    regions = [(name, array(i % 3, 7, 0) if name.endswith("npy") else c) for i, (name, c) in enumerate(members)]
    write_task(tmp_path / "tasks/wds_wilds-fmow_test", regions, **prompts(2))
    texts = [f"{WORDS[i % 16]} {WORDS[(5 * i + 2) % 16]}" for i in range(24)]
    crepe, wino, cues = [], [], []
    for i in range(0, 24, 2):
        pair = f"{texts[i]}\n{texts[i + 1]}".encode()
        crepe += [(f"{i:02}.png", pictures[i]), (f"{i:02}.txt", pair)]
        wino += [(f"{i:02}.0.png", pictures[i]), (f"{i:02}.1.png", pictures[i + 1]), (f"{i:02}.txt", pair)]
    for i in range(0, 24, 6):
        cues += [(f"{i:02}.{k}.png", pictures[i + k]) for k in range(6)]
        cues += [(f"{i:02}.txt", texts[i].encode()), (f"{i:02}.npy", array(1, 0, 1, 0, 0, 0))]
    write_task(tmp_path / "tasks/sugar_crepe", crepe, dataset_type="selection")
    write_task(tmp_path / "tasks/winoground", wino, dataset_type="selection")
    write_task(tmp_path / "tasks/cues", cues, dataset_type="association")
    ended = cli("eval", trained["large"], "--data", tmp_path / "tasks", "--out", tmp_path / "out")
    assert ended.status == 0, ended.err
    ours = read(tmp_path / "out")["tasks"]

    tower = open_model(str(trained["large"]), "", "cpu")
    with torch.no_grad():
        views = [tower.view.apply(decode_image(content)) for content in pictures]
        x = tower.embed_image(torch.from_numpy(np.stack(views))).numpy()
        y = tower.embed_text(texts).numpy()
        names = prompts(2)["classnames"].split("\n")
        templates = prompts(2)["zeroshot_classification_templates"].split("\n")
        classes = [tower.embed_text([t.replace("{c}", name) for t in templates]).numpy().mean(0) for name in names]
    hits = np.array([int(np.argmax([v @ c / np.linalg.norm(c) for c in classes])) for v in x]) == birds
    of_group = {(p, b): hits[(places == p) & (birds == b)].mean() for p in (0, 1) for b in (0, 1)}
    assert ours["waterbirds"]["value"] == pytest.approx(min(of_group.values()))
    assert ours["waterbirds"]["metrics"]["acc_background:1_y:0"] == pytest.approx(of_group[1, 0])
    region = np.array([(3 * i + 2) % 3 for i in range(24)])
    worst = min(hits[region == r].mean() for r in set(region.tolist()))
    assert (ours["wilds-fmow"]["metric"], ours["wilds-fmow"]["datacomp"]) == ("acc_worst_region", "wilds/fmow")
    assert ours["wilds-fmow"]["value"] == pytest.approx(worst)
    scores = x @ y.T
    even = range(0, 24, 2)
    assert ours["sugar_crepe"]["value"] == pytest.approx(np.mean([scores[i, i] > scores[i, i + 1] for i in even]))
    text = [scores[i, i] > scores[i, i + 1] and scores[i + 1, i + 1] > scores[i + 1, i] for i in even]
    image = [scores[i, i] > scores[i + 1, i] and scores[i + 1, i + 1] > scores[i, i + 1] for i in even]
    wanted = {"text_acc": np.mean(text), "image_acc": np.mean(image), "acc": np.mean(np.logical_and(text, image))}
    assert ours["winoground"]["metrics"] == pytest.approx(wanted)
    jaccard = []
    for i in range(0, 24, 6):
        chosen, right = set(np.argsort(-scores[i : i + 6, i])[:2].tolist()), {0, 2}
        jaccard.append(len(chosen & right) / len(chosen | right))
    assert ours["cues"]["value"] == pytest.approx(np.mean(jaccard))
    # A standard error beside each, by the bootstrap where the score is no mean of independent hits.
    by = {name: record["stderr_by"] for name, record in ours.items()}
    assert by == {
        "cues": "bootstrap", "sugar_crepe": "binomial", "waterbirds": "bootstrap", "wilds-fmow": "bootstrap",
        "winoground": "binomial",
    }  # fmt: skip
    assert all(0 <= record["stderr"] < 0.4 for record in ours.values())
    lines = [json.loads(line) for line in (tmp_path / "out/eval_results.jsonl").read_text().splitlines()]
    assert {line["key"]: line["metrics"]["main_metric"] for line in lines} == {
        record["datacomp"] or name: record["value"] for name, record in ours.items()
    }


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
    assert "the same command" in ended.err
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
    assert "zeroshot_classification_templates.txt" in ended.err
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
    assert "13 results" in kept.out


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
    assert "model" in ended.err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["aced-demo-s", "--data", "scenes"], "--checkpoint"),
        (["no-such-model", "--data", "scenes", "--checkpoint", "x.pt"], "'no-such-model'"),
        (["MODEL"], "data"),
        (["MODEL", "--data", "gone"], "gone"),
        (["MODEL", "--data", "EMPTY"], "task"),
        (["MODEL", "--data", "scenes", "--prompts", "siglop"], "'siglip'"),
        (["MODEL", "--data", "scenes", "--precision", "fp31"], "'fp32'"),
        (["MODEL", "--data", "scenes", "--device", "abacus"], "--device abacus"),
        (["MODEL", "--data", "scenes", "--out", "FILE"], "file"),
        (["UNFINISHED", "--data", "scenes"], "model"),
        ([], "model"),
        (["MODEL", "--compare", "a.json", "b.json"], "--compare"),
        (["--compare", "a.json", "b.json"], "a.json"),
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
    """What `aced train` found during training and at its end is what `aced eval` finds on its model."""
    run, threads = tmp_path / "run", torch.get_num_threads()
    words = ["data.scenes_size=200", "train.steps=3", "train.batch=16", f"run.out={run}", f"run.threads={threads}"]
    # A rate that changes no score: the model of the evaluation during training is then the best one, which is kept.
    words += ["eval.every=2", "run.keep_best=true", "train.lr=1e-12"]
    ended = cli("train", "scenes", "method.name=iid", "student.model=aced-demo-s", *words)
    assert ended.status == 0, ended.err
    (row,) = json.loads((run / "results.json").read_text())["rows"]
    (during,) = [json.loads(line) for line in (run / "evals.jsonl").read_text().splitlines()]
    assert during["step"] == 2
    for model, tasks, average in (
        (run, row["tasks"], row["average"]),
        (run / "best" / "step-00000002", during["tasks"], during["average"]),
    ):
        assert cli("eval", model, "--data", "scenes", "--out", tmp_path / f"eval-{model.name}").status == 0
        ours = read(tmp_path / f"eval-{model.name}")
        assert list(tasks) == list(ours["tasks"])
        for name, result in tasks.items():
            assert {key: ours["tasks"][name][key] for key in result} == result
        assert average == pytest.approx(100 * ours["average"], abs=1e-12)
