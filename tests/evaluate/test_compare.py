from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from aced.errors import AcedError
from aced.evaluate.compare import AVERAGE, compare
from aced.evaluate.eval_records import Evaluation, Setting, file_name, read_evaluation, summary, write_evaluation
from aced.evaluate.evidence import Evidence, pack
from aced.evaluate.tasks import Classification, TaskResult
from wording import tells

SETTING = Setting("tiny", "tiny.pt", "abc", "clip", "fp32")


def evaluation(**hits: np.ndarray) -> Evaluation:
    """An evaluation with one task for each row of hits."""
    done = Evaluation(SETTING)
    for name, values in hits.items():
        done.tasks[name] = {
            "value": float(values.mean()), "chance": 0.1, "n": len(values), "metric": "acc1", "metrics": {},
            "task": "zeroshot_classification", "stderr": 0.01, "data": "same", "images": name,
            "samples": pack(Evidence("mean", values)),
        }  # fmt: skip
    return done


def test_a_model_compared_with_itself_is_noise() -> None:
    hits = np.random.default_rng(0).random(200) < 0.5
    (difference,) = compare(evaluation(t=hits), evaluation(t=hits)).differences
    assert (difference.low, difference.high, difference.p) == (0.0, 0.0, 1.0)
    assert difference.noise


def test_pairing_sees_what_two_separate_errors_would_not() -> None:
    rng = np.random.default_rng(0)
    a = rng.random(500) < 0.5
    b = a.copy()
    b[np.flatnonzero(~a)[:20]] = True  # 4 points better: each score alone has an error of 2.2
    (difference,) = compare(evaluation(t=a), evaluation(t=b)).differences
    assert not difference.noise
    assert difference.b - difference.a == pytest.approx(0.04)
    assert difference.p < 0.01
    # The exact standard error of a mean of 20 ones among 500 zeros.
    assert difference.stderr == pytest.approx(math.sqrt(0.04 * 0.96 / 500), rel=0.1)
    c = np.random.default_rng(1).permutation(b)  # the same score, right on other images
    assert compare(evaluation(t=a), evaluation(t=c)).differences[0].noise


def test_intervals_hold_what_they_promise() -> None:
    rng = np.random.default_rng(1)
    kept = 0
    for _ in range(150):
        easy = rng.random(150)  # both models are right more often on easy images
        a, b = (rng.random(150) < 0.2 + 0.6 * easy for _ in range(2))
        kept += compare(evaluation(t=a), evaluation(t=b), resamples=300).differences[0].noise
    # 95 percent of 150, within 3.5 standard deviations of the binomial.
    assert abs(kept - 142.5) < 3.5 * math.sqrt(150 * 0.95 * 0.05)


def test_the_average_and_what_is_left_out() -> None:
    rng = np.random.default_rng(2)
    rows = {name: rng.random(100) < 0.5 for name in "pqrst"}
    a, b = evaluation(**rows), evaluation(**rows)
    b.tasks["q"]["data"] = "other"
    b.tasks["r"]["metric"] = "mean_per_class_recall"
    b.failed["s"] = "broken"
    del a.tasks["t"]
    b.tasks["u"] = b.tasks["p"]
    a.tasks["u"] = a.tasks["p"] | {"samples": pack(Evidence("mean", ~rows["p"])), "value": float((~rows["p"]).mean())}
    compared = compare(a, b)
    assert [entry.task for entry in compared.differences] == ["p", "u", AVERAGE]
    marks = {"q": "differ", "r": "acc1, mean_per_class_recall", "s": "failed … second", "t": "first"}
    assert compared.left_out.keys() == marks.keys()
    assert all(tells(compared.left_out[name], told) for name, told in marks.items())
    _, u, average = compared.differences
    assert average.b - average.a == pytest.approx((u.b - u.a) / 2)
    # The tasks share their images, and so the resamples: the average's error is exactly half of u's.
    assert average.stderr == pytest.approx(u.stderr / 2)
    with pytest.raises(AcedError, match=r"\(p: "):
        compare(evaluation(p=rows["p"]), evaluation())


def task(labels: list[int]) -> Classification:
    def images(view: object) -> torch.Tensor:
        raise AssertionError("not needed")

    images.fingerprint = "pictures"  # type: ignore[attr-defined]
    return Classification("vtab-dtd", images, torch.tensor(labels), ["x", "y"], ["{c}"], 0.5)


def scored() -> TaskResult:
    return TaskResult(
        0.75, 0.5, 4, "acc1", 0.2, "binomial", {"acc1": 0.75, "acc5": None}, Evidence("mean", np.array([1, 1, 1, 0]))
    )


def test_files_of_an_evaluation(tmp_path: Path) -> None:
    done = Evaluation(SETTING)
    done.add(task([0, 1, 1, 0]), scored(), 1.5)
    write_evaluation(tmp_path, done, {"torch": "x"})

    def strict(text: str) -> dict:
        return json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))

    peer = strict((tmp_path / "clip_benchmark" / "vtab-dtd.json").read_text())
    assert {key: peer[key] for key in ("dataset", "model", "pretrained", "task", "metrics", "language")} == {
        "dataset": "wds/vtab-dtd",
        "model": "tiny",
        "pretrained": "tiny.pt",
        "task": "zeroshot_classification",
        "metrics": {"acc1": 0.75, "acc5": None},
        "language": "en",
    }
    added = {"n": 4, "chance": 0.5, "stderr": 0.2, "prompts": "clip", "precision": "fp32", "fingerprint": "abc"}
    assert added.items() <= peer.items()
    (line,) = [strict(line) for line in (tmp_path / "eval_results.jsonl").read_text().splitlines()]
    assert (line["key"], line["dataset"]) == ("vtab/dtd", "Describable Textures")
    assert line["metrics"] == {"acc1": 0.75, "acc5": None, "main_metric": 0.75}
    assert added.items() <= line.items()
    back = read_evaluation(tmp_path)
    assert back.setting == SETTING
    assert back.has(task([0, 1, 1, 0]))
    assert not back.has(task([0, 1, 1, 1]))
    assert compare(back, read_evaluation(tmp_path / "eval.json")).differences[0].a == 0.75


def test_faces_have_no_main_metric_for_datacomp(tmp_path: Path) -> None:
    done = evaluation(**{"fairness-fairface": np.array([True, False])})
    done.tasks["fairness-fairface"]["stderr_by"] = "bootstrap"
    write_evaluation(tmp_path, done, {})
    line = json.loads((tmp_path / "eval_results.jsonl").read_text())
    assert (line["key"], line["metrics"]) == ("fairness/fairface", {"main_metric": None})


def test_the_average_has_a_standard_error() -> None:
    total = summary(evaluation(a=np.array([True, False]), b=np.array([True, True])).tasks)
    assert total["average"] == 0.75
    assert total["average_stderr"] == pytest.approx(0.01 * math.sqrt(2) / 2)
    assert summary({})["average"] is None


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "'aced eval"),
        ("{", "read"),
        ("[]", "evaluation"),
        ('{"rows": []}', "evaluation"),
        ('{"format": 9, "tasks": {}, "fingerprint": ""}', "format 9"),
        ('{"format": 1, "tasks": {}, "fingerprint": ""}', "damaged"),
    ],
)
def test_damaged_evaluations_are_told(tmp_path: Path, content: str | None, words: str) -> None:
    if content is not None:
        (tmp_path / "eval.json").write_text(content)
    with pytest.raises(AcedError, match=rf"eval\.json.*{words}"):
        read_evaluation(tmp_path)


def test_a_task_without_its_value_is_told(tmp_path: Path) -> None:
    done = evaluation(a=np.array([True, False]))
    done.tasks["a"] |= {"stderr_by": "binomial"}
    write_evaluation(tmp_path, done, {})
    content = json.loads((tmp_path / "eval.json").read_text())
    content["tasks"]["a"]["value"] = "high"
    (tmp_path / "eval.json").write_text(json.dumps(content))
    with pytest.raises(AcedError, match=r"damaged .'value'.*task 'a'.*'high'"):
        read_evaluation(tmp_path)


def test_names_become_file_names() -> None:
    assert file_name("colour and shape") == "colour_and_shape"
    assert file_name("../x/y") == ".._x_y"
