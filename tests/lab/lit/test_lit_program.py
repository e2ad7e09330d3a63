"""`aced lit` from end to end on little data, what it leaves behind, and what it refuses."""

from __future__ import annotations

import json
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from lit_fakes import caption_tars, caption_task, easy_vqa, write_tar
from rich.console import Console
from safetensors.torch import load_file

from aced.errors import AcedError
from aced.lab.lab_options import LitOptions
from aced.lab.lit.decoder_training import sight_of, write_texts
from aced.lab.lit.lit_program import lit_program
from aced.lab.lit.saved import load_decoder
from aced.lab.lit.scenes_vqa import make_scenes_examples
from aced.lab.lit.score import constant_answer, constant_caption, references, score, shuffled
from aced.lab.lit.texts import TextExamples, TextPictures
from aced.lab.lit.tokens import cached_tokens
from aced.models import load_tower, save_tower
from cli_fakes import Cli
from wording import tells

QUIET = Console(quiet=True)
OPTIONS = LitOptions("", ["scenes"], width=32, steps=4, batch=16, beams=2, scenes=(150, 60))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with a model."""
    folder = tmp_path_factory.mktemp("run")
    save_tower(load_tower("aced-demo-s", seed=5), folder / "model")
    (folder / "config.toml").write_text('[method]\nname = "aced"\n', encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def done(run: Path) -> dict[str, Any]:
    """What the program said about scenes."""
    return lit_program(replace(OPTIONS, run=str(run)), QUIET)


def test_it_leaves_scores_a_decoder_and_what_was_written(run: Path, done: dict[str, Any]) -> None:
    out = run / "lit"
    assert json.loads((out / "results.json").read_text(encoding="utf-8")) == json.loads(json.dumps(done))
    assert (done["method"], done["tower"], done["seed"]) == ("aced", "aced-demo-s", 0)
    captions, questions = done["tasks"]
    assert set(captions["baselines"]) == {"no image", "constant", "shuffled", "human"}
    assert set(captions["scores"]) == set(captions["greedy"]) == {"CIDEr-D", "BLEU-4", "ROUGE-L"}
    assert (captions["n"], captions["references"]) == (60, 4)
    assert questions["n"] == sum(facts["n"] for facts in questions["types"].values())
    assert captions["baselines"]["human"]["CIDEr-D"] > 3 * captions["baselines"]["shuffled"]["CIDEr-D"]
    lines = (out / "scenes-captions.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 60
    assert set(json.loads(lines[0])) == {"key", "written", "greedy", "no image", "right"}
    described = json.loads((out / "decoder.json").read_text(encoding="utf-8"))
    state = load_file(out / "decoder.safetensors")
    assert described["parameters"] == sum(tensor.numel() for tensor in state.values())
    assert state["head.bias"].shape == (len(described["special"]) + len(described["words"]),)


def test_the_page_is_one_file_and_shows_pictures_with_captions(run: Path, done: dict[str, Any]) -> None:
    page = (run / "lit/report.html").read_text(encoding="utf-8")
    gallery = json.loads((run / "lit/gallery.json").read_text(encoding="utf-8"))
    assert len(gallery) == 24
    assert all(entry["image"] in page for entry in gallery)
    assert "http" not in page.replace("http://www.w3.org", "")
    assert "Decoder without images" in page


def test_a_second_seed_reuses_tokens_and_the_same_seed_repeats(
    run: Path, done: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aced.lab.lit.tokens.encode_tokens", lambda *_: pytest.fail("encoded again"))
    again = lit_program(replace(OPTIONS, run=str(run), out=tmp_path / "again"), QUIET)
    assert again["tasks"] == done["tasks"]
    for name in ("decoder.safetensors", "gallery.json", "scenes-captions.jsonl"):
        assert (tmp_path / "again" / name).read_bytes() == (run / "lit" / name).read_bytes()


def test_a_test_picture_that_cannot_be_read_is_left_out(run: Path, tmp_path: Path) -> None:
    caption_task(tmp_path / "wds_whole", 8)
    task = caption_task(tmp_path / "wds_torn", 8)
    with tarfile.open(task / "test/0.tar") as tar:
        members = [(info.name, tar.extractfile(info).read()) for info in tar]  # type: ignore[union-attr]
    write_tar(task / "test/0.tar", [(name, b"?" if name == "0002.jpg" else content) for name, content in members])
    data = [str(caption_tars(tmp_path / "pool")), str(tmp_path / "wds_whole"), str(task)]
    results = lit_program(replace(OPTIONS, run=str(run), data=data, out=tmp_path / "out"), QUIET)
    assert [entry["n"] for entry in results["tasks"]] == [8, 7]
    lines = (tmp_path / "out/torn-captions.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["key"] for line in lines] == [f"torn/{i:06d}" for i in range(8) if i != 2]


def test_the_blind_decoder_is_trained_once_for_all_encoders(
    run: Path, done: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other"
    save_tower(load_tower("aced-demo-m", seed=6), other / "model")
    calls: list[object] = []
    real = lit_program.__globals__["train_decoder"]
    monkeypatch.setattr("aced.lab.lit.blind.train_decoder", lambda *_: pytest.fail("trained again"))
    monkeypatch.setattr("aced.lab.lit.lit_program.train_decoder", lambda *a: (calls.append(a), real(*a))[1])
    options = replace(OPTIONS, run=str(other / "model"), out=tmp_path / "out", cache=run / "lit-cache")
    found = lit_program(options, QUIET)
    assert len(calls) == 1
    for one, before in zip(found["tasks"], done["tasks"], strict=True):
        assert one["baselines"] == before["baselines"]
    assert found["decoder"]["memory_width"] == 96


def test_files_of_all_kinds_through_the_command_line(run: Path, tmp_path: Path, cli: Cli) -> None:
    data = [easy_vqa(tmp_path / "easy-VQA"), caption_tars(tmp_path / "tars"), caption_task(tmp_path / "wds_squares")]
    words = [word for path in data for word in ("--data", path)]
    ended = cli("lit", run, *words, "--out", tmp_path / "o", "--steps", 3, "--batch", 8, "--width", 32, "--threads", 1)
    assert ended.status == 0, ended.err
    assert "squares captions" in ended.out
    results = json.loads((tmp_path / "o/results.json").read_text(encoding="utf-8"))
    assert [task["name"] for task in results["tasks"]] == ["easy-VQA", "squares captions"]


def test_a_saved_decoder_writes_what_it_wrote(run: Path, done: dict[str, Any]) -> None:
    tower = load_tower(run / "model")
    decoder, vocabulary = load_decoder(run / "lit", tower)
    captions, questions = make_scenes_examples(60, "test", 0)
    sight = sight_of([captions.source], [cached_tokens(run / "lit-cache", tower, captions.source)])
    for examples, name in ((captions, "scenes-captions"), (questions, "scenes-questions")):
        lines = [json.loads(line) for line in (run / f"lit/{name}.jsonl").read_text(encoding="utf-8").splitlines()]
        beams = 2 if examples is captions else 1
        assert write_texts(decoder, vocabulary, examples, sight, beams=beams) == [line["written"] for line in lines]


def test_a_saved_decoder_is_refused_where_it_does_not_belong(run: Path, done: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(AcedError, match="'aced-demo-s'"):
        load_decoder(run / "lit", load_tower("aced-demo-s", seed=1))
    tower = load_tower(run / "model")
    for name, content in (("decoder.json", b"{}"), ("decoder.safetensors", b"x"), ("decoder.json", None)):
        broken = tmp_path / "broken"
        shutil.rmtree(broken, ignore_errors=True)
        shutil.copytree(run / "lit", broken)
        (broken / name).write_bytes(content) if content is not None else (broken / name).unlink()
        with pytest.raises(AcedError, match="aced lit"):
            load_decoder(broken, tower)


# -- what it refuses -------------------------------------------------------------------------------------------------


def test_what_is_wrong_is_one_sentence(run: Path, done: dict[str, Any], tmp_path: Path, cli: Cli) -> None:
    (tmp_path / "empty").mkdir()
    for words, sentence in (
        ((tmp_path / "empty", "--data", "scenes"), "tower.json"),
        ((tmp_path / "nowhere", "--data", "scenes"), "nowhere"),
        (("ViT-B-32", "--data", "scenes"), "ViT-B-32"),
        ((run,), "decoder"),
        ((run, "--out", tmp_path / "o"), "data"),
        ((run, "--data", tmp_path / "none", "--out", tmp_path / "o"), "data"),
        ((run, "--data", "scenes", "--layers", 1), "2 to 6"),
        ((run, "--data", "scenes", "--width", 30), "shared"),
        ((run, "--data", "scenes", "--steps", 0), "steps"),
        ((run, "--data", "scenes", "--beams", 0), "--beams … 0"),
        ((run, "--data", "scenes", "--split", "dev"), "--split … 'dev'"),
    ):
        ended = cli("lit", *words, "--threads", 1)
        assert ended.status == 2
        assert tells(ended.err, sentence)
        assert ended.err.count("\n") == 1
    assert not (tmp_path / "o").exists()


# -- baselines -------------------------------------------------------------------------------------------------------


def examples(kind: Any, texts: list[tuple[str, ...]], questions: tuple[str, ...] = ()) -> TextExamples:
    pictures = TextPictures("none", "0", [str(i) for i in range(len(texts))], lambda _: pytest.fail("read"))
    return TextExamples("x", kind, pictures, list(range(len(texts))), texts, questions)


def test_the_constant_caption_is_the_one_most_like_the_others() -> None:
    usual = [(f"a dog runs in the {place}",) for place in ("snow", "park", "grass", "sand") * 30]
    odd = [(f"strange words number {i} that nobody else says",) for i in range(40)]
    assert constant_caption([examples("caption", [*usual, *odd])]).startswith("a dog runs in the ")


def test_the_constant_answer_is_the_commonest() -> None:
    texts = [("yes",), ("no",), ("no",), ("yes",), ("blue",)]
    assert constant_answer([examples("vqa", texts, ("?",) * 5)]) == "no"


def test_the_first_caption_is_the_human_and_no_reference() -> None:
    many = examples("caption", [("a", "b", "c"), ("d", "e")])
    assert references(many) == [("b", "c"), ("e",)]
    assert references(examples("caption", [("a", "b"), ("d",)])) == [("a", "b"), ("d",)]


def test_shuffling_leaves_no_text_in_its_place() -> None:
    texts = [str(i) for i in range(50)]
    moved = shuffled(texts)
    assert sorted(moved) == sorted(texts)
    assert all(a != b for a, b in zip(texts, moved, strict=True))


def test_accuracy_by_sort_adds_up_to_the_whole() -> None:
    from aced.lab.lit.score import Written

    asked = TextExamples(
        "x", "vqa", examples("caption", [("a",)] * 4).source, [0, 1, 2, 3],
        [("red",), ("blue",), ("yes",), ("no",)], ("c?", "c?", "y?", "y?"), ("c", "c", "y", "y"), 0.5,
    )  # fmt: skip
    entry = score(asked, Written(["red", "red", "yes", "no"], None, ["red", "red", "no", "no"], "red"))
    assert entry["scores"] == {"accuracy": 0.75}
    assert entry["baselines"] == {"no image": {"accuracy": 0.5}, "constant": {"accuracy": 0.25}}
    assert entry["types"]["c"] == {"n": 2, "accuracy": 0.5, "no image": 0.5}
    assert entry["types"]["y"] == {"n": 2, "accuracy": 1.0, "no image": 0.5}
