"""Questions on photos are balanced; the lines of decoders are of one study, with the same settings."""

from __future__ import annotations

import io
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from aced.errors import AcedError
from aced.lab.lit.easy_vqa import load_easy_vqa

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import lit
import lit_photos
from pool_tars import Pair


def picture(number: int) -> bytes:
    held = io.BytesIO()
    Image.new("RGB", (8, 8), (number % 256, number // 256, 0)).save(held, "PNG")
    return held.getvalue()


def test_a_question_says_nothing_about_its_answer() -> None:
    labels = ["rose"] * 900 + ["tulip"] * 300  # the common class would give itself away
    asked = lit_photos.questions([(b"", label) for label in labels], "tf_flowers", "train")
    which, whether = asked[::2], asked[1::2]
    assert [(answer, at) for _, answer, at in which] == [(label, at) for at, label in enumerate(labels)]
    assert len({question for question, _, _ in which}) == 1
    assert all((answer == "yes") == (labels[at] in question) for question, answer, at in whether)
    for label in ("rose", "tulip"):
        about = Counter(answer for (question, answer, at) in whether if labels[at] == label)
        assert about["yes"] / about.total() == pytest.approx(0.5, abs=0.08)
    assert asked == lit_photos.questions([(b"", label) for label in labels], "tf_flowers", "train")
    assert asked != lit_photos.questions([(b"", label) for label in labels], "tf_flowers", "test")


def test_training_pictures_are_of_the_collection_and_no_more_than_asked() -> None:
    about = {"kind": "junk", "caption": "c"}
    pairs = [Pair(picture(n), about | {"key": str(n), "source": "ab"[n % 2], "label": str(n)}) for n in range(20)]
    drawn = lit_photos.labelled(pairs, "a", 4)
    assert len({content for content, _ in drawn}) == 4
    assert all(int(label) % 2 == 0 and content == picture(int(label)) for content, label in drawn)
    assert len(lit_photos.labelled(pairs, "b", 99)) == 10
    with pytest.raises(AcedError, match="'a'"):
        lit_photos.captions(pairs, "a")  # junk alone


def test_what_is_written_is_read_as_questions(tmp_path: Path) -> None:
    sets = {"mnist": [(picture(1), "1"), (picture(2), "2")], "cifar10": [(picture(3), "cat"), (picture(4), "dog")]}
    for split in ("train", "test"):
        lit_photos.write_questions(tmp_path / "asked", sets, split)
    found = load_easy_vqa(tmp_path / "asked", "test")
    assert (found.name, len(found), len(found.source)) == ("asked", 8, 4)
    answers = {text: row for (text,), row in zip(found.texts, found.rows, strict=True)}
    assert {name: answers[name] for name in ("1", "2", "cat", "dog")} == {"1": 0, "2": 1, "cat": 2, "dog": 3}


def decoder(out: Path, folder: str, steps: int = 3) -> None:
    run: dict[str, Any] = {"tower": "t", "tower_fingerprint": "f", "decoder": {}, "training": {"steps": steps}}
    task = {"name": "q", "kind": "vqa", "constant": "yes", "scores": {"accuracy": 0.5}}
    spent = {"processor_seconds": 9.0, "environment": {"cpu": "a CPU", "torch": "2", "date": "today"}}
    (out / folder).mkdir(parents=True)
    whole = run | {"split": "test", "data": ["/somewhere/q"], "tasks": [task]}
    (out / folder / "results.json").write_text(json.dumps(whole), encoding="utf-8")
    (out / folder / lit.SPENT).write_text(json.dumps(spent), encoding="utf-8")


def test_lines_have_the_rows_of_the_study_in_its_order(tmp_path: Path) -> None:
    study, to, out = tmp_path / "s.toml", tmp_path / "lit.jsonl", tmp_path / "out"
    rows = "".join(f'[[rows]]\nname = "{name}"\n' for name in ("Z first", "A second"))
    study.write_text('recipe = "photos"\nseeds = [0, 1]\n' + rows, encoding="utf-8")
    for folder in ("a-second-s0", "z-first-s1", "z-first-s0"):
        decoder(out, folder)
    lit.lines(out, study, to)
    found = [json.loads(line) for line in to.read_text(encoding="utf-8").splitlines()]
    assert [(one["row"], one["seed"]) for one in found] == [("Z first", 0), ("Z first", 1), ("A second", 0)]
    assert found[0]["data"] == ["q"]
    assert (found[0]["processor_seconds"], found[0]["environment"]) == (9.0, {"cpu": "a CPU", "torch": "2"})
    decoder(out, "a-second-s1", steps=4)
    with pytest.raises(AcedError, match="a-second"):
        lit.lines(out, study, to)
    decoder(out, "stranger-s0")
    (out / "a-second-s1/results.json").unlink()
    with pytest.raises(AcedError, match="stranger-s0"):
        lit.lines(out, study, to)
