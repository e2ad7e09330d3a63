"""What is called from Python: training, scoring and embedding, with data and models of one's own."""

from __future__ import annotations

import importlib.util
import inspect
import json
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import aced
from aced.errors import AcedError
from aced.lab.scenes import make_tasks
from aced.methods import METHODS
from aced.models import import_open_clip
from aced.pool.views import View
from aced.runtime.threads import set_threads
from doors_fakes import doors as doors
from run_fakes import even_pool

EXAMPLES = Path(__file__).parents[1] / "examples"


def keys(out: Path, **sections: dict[str, Any]) -> dict[str, dict[str, Any]]:
    base: dict[str, dict[str, Any]] = {
        "run": {"out": str(out), "threads": 1, "log_every": 2, "checkpoint_every": 0},
        "method": {"name": "iid", "chunks": 4},
        "train": {"batch": 16, "steps": 4},
    }
    return {name: base.get(name, {}) | sections.get(name, {}) for name in base | sections}


def lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def weights(tower: aced.Tower) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in tower.model.parameters()])


# --- packages that can be called --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["train", "evaluate"])
def test_a_package_is_a_function_too(name: str) -> None:
    import aced.api

    package = importlib.import_module(f"aced.{name}")
    assert getattr(aced, name) is package
    assert inspect.signature(package) == inspect.signature(getattr(aced.api, name))


# --- training ---------------------------------------------------------------------------------------------------------


def test_what_is_handed_over_trains_as_what_is_named(tmp_path: Path) -> None:
    named = aced.train(keys(tmp_path / "a", data={"scenes_size": 400}), show=False, tasks=[])
    from aced.lab.scenes import make_pool

    # The student of a sigmoid run has a bias from the start; it is taken from the run's own choice.
    from aced.train.run.student import make_student

    student = make_student(aced.make_config(keys(tmp_path)))
    given = aced.train(keys(tmp_path / "b"), source=make_pool(400, 1), student=student, show=False)
    assert given.student is student
    assert torch.equal(weights(named.student), weights(given.student))
    assert (given.step, given.folder) == (4, tmp_path / "b")
    assert aced.load_tower(tmp_path / "b" / "model").fingerprint() == student.fingerprint()


@pytest.mark.parametrize("how", ["false", "raised"])
def test_a_run_that_is_ended_early_is_complete(how: str, tmp_path: Path) -> None:
    seen = []

    def on_step(step: aced.Step) -> bool:
        seen.append((step.number, step.loss, len(step.indices), step.budgets["samples_trained"]))
        if step.number == 3 and how == "raised":
            raise aced.StopTraining
        return step.number != 3

    done = aced.train(
        keys(tmp_path / "run"), source=even_pool(), on_step=on_step, show=False, tasks=make_tasks("validation")[:1]
    )
    assert done.step == 3
    assert [(number, count, trained) for number, _, count, trained in seen] == [(1, 16, 16), (2, 16, 32), (3, 16, 48)]
    assert lines(tmp_path / "run")[-1]["step"] == 3
    assert lines(tmp_path / "run")[-1]["loss"] == pytest.approx(seen[-1][1])
    assert done.scores.average is not None
    assert done.results["rows"][0]["budgets"]["samples_trained"] == 48
    # It goes on as if it had never ended.
    more = aced.train(keys(tmp_path / "run"), source=even_pool(), resume=True, show=False)
    whole = aced.train(keys(tmp_path / "whole"), source=even_pool(), show=False)
    assert torch.equal(weights(more.student), weights(whole.student))


def test_an_error_of_the_hook_is_its_callers_and_the_step_is_saved(tmp_path: Path) -> None:
    def on_step(step: aced.Step) -> None:
        if step.number == 2:
            raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError) as error:
        aced.train(keys(tmp_path / "run"), source=even_pool(), on_step=on_step, show=False)
    assert "Step 2" in "".join(error.value.__notes__)


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"data": {"shards": ["x.tar"]}}, "data.shards"),
        ({"reference": {"model": "aced-demo-m"}}, "reference.model"),
        ({"eval": {"tasks": ["x"]}}, "eval.tasks"),
    ],
)
def test_two_of_a_kind_are_refused(sections: dict[str, Any], said: str, tmp_path: Path) -> None:
    tower = aced.load_tower("aced-demo-m", seed=0)
    with pytest.raises(AcedError, match=said):
        aced.train(keys(tmp_path / "run", **sections), source=even_pool(), reference=tower, tasks=[], show=False)
    assert not (tmp_path / "run").exists()


def test_a_word_that_stands_for_a_model_is_none() -> None:
    from aced.train.run.frozen import load_frozen

    with pytest.raises(AcedError, match="given"):
        load_frozen("reference", aced.make_config({"method": {"name": "aced"}, "reference": {"model": "given"}}))


# --- own data ---------------------------------------------------------------------------------------------------------


class Mine(aced.PairSource):
    """One of each kind of picture, and some that cannot be used."""

    def __init__(self, folder: Path) -> None:
        array = np.random.default_rng(0).integers(0, 255, (40, 30, 3), dtype=np.uint8)
        image = Image.fromarray(array)
        image.save(folder / "a.png")
        whole = (folder / "a.png").read_bytes()
        wrong = array[:, :, 0]
        self.pairs: list[tuple[Any, str]] = [
            *((picture, "a cat") for picture in (array, image, whole, folder / "a.png", str(folder / "a.png"))),
            *((picture, "a dog") for picture in (wrong, whole[:30], folder / "none.png")),
            (array, " "),
        ]

    def __len__(self) -> int:
        return len(self.pairs)

    def pair(self, index: int) -> tuple[Any, str]:
        return self.pairs[index]


def test_every_kind_of_picture_is_the_same_one(tmp_path: Path) -> None:
    view, source = View(16), Mine(tmp_path)
    read = source.read([8, 4, 3, 2, 1, 0, 5, 6, 7], [view])
    assert read.indices.tolist() == [4, 3, 2, 1, 0]
    assert all(torch.equal(image, read.images[view][0]) for image in read.images[view])
    assert [(fault.key, fault.name) for fault in read.faults] == [
        ("8", "caption_empty"), ("5", "image_unreadable"), ("6", "image_unreadable"), ("7", "image_unreadable"),
    ]  # fmt: skip
    assert source.fingerprint != type("Other", (Mine,), {})(tmp_path).fingerprint
    assert source.read([0], []).texts == ["a cat"]


# --- own models -------------------------------------------------------------------------------------------------------


def script(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def tiny(width: int = 16, **keys: Any) -> aced.OwnTower:
    example = script("own_reference")
    torch.manual_seed(0)
    wanted = {"name": "tiny", "width": width, "image_size": 32, "context_length": 32} | keys
    return aced.own_tower(example.Tiny(), example.letters, **wanted)


def test_a_model_of_ones_own_is_trained_saved_and_gone_on_with(tmp_path: Path) -> None:
    sections = {"method": {"loss": "softmax", "name": "iid"}}
    before = weights(tiny())
    whole = aced.train(keys(tmp_path / "whole", **sections), source=even_pool(), student=tiny(), show=False)
    assert not torch.equal(weights(whole.student), before)
    short = aced.train(
        keys(tmp_path / "run", **sections),
        source=even_pool(),
        student=tiny(),
        on_step=lambda s: s.number < 2,
        show=False,
    )
    assert short.step == 2
    more = aced.train(keys(tmp_path / "run", **sections), source=even_pool(), student=tiny(), resume=True, show=False)
    assert torch.equal(weights(more.student), weights(whole.student))
    with pytest.raises(AcedError, match="Tiny"):
        aced.load_tower(tmp_path / "run" / "model")
    with pytest.raises(AcedError, match="student"):
        aced.train(
            keys(tmp_path / "run", **sections), source=even_pool(), resume=True, show=False, student=tiny(image_size=48)
        )
    scores = aced.evaluate(whole.student, make_tasks("validation")[:1], precision="fp32")
    assert scores.results
    assert not scores.failed


def test_a_reference_of_ones_own_scores_and_teaches(tmp_path: Path) -> None:
    sections = {"method": {"name": "aced", "chunks": 4}}
    runs = [
        aced.train(keys(tmp_path / name, **sections), source=even_pool(), reference=reference, show=False)
        for name, reference in (("a", tiny()), ("b", tiny()), ("c", tiny(mean=[0.1, 0.1, 0.1])))
    ]
    a, b, c = (weights(run.student) for run in runs)
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    budgets = runs[0].results["rows"][0]["budgets"]
    assert budgets["flops"] > 0


@pytest.mark.parametrize(
    ("change", "said"),
    [({"width": 8}, r"\[2, 16\]"), ({"context_length": 8}, "tiny")],
)
def test_a_model_that_is_not_what_is_said_of_it(change: dict[str, Any], said: str) -> None:
    with pytest.raises(AcedError, match=said):
        tiny(**change)


def test_a_model_without_a_member() -> None:
    words: Any = lambda texts: texts  # noqa: E731
    with pytest.raises(AcedError, match="encode_image"):
        aced.own_tower(torch.nn.Module(), words, name="x", width=1, image_size=8, context_length=4)


def test_two_tokenizers_of_ones_own_are_two() -> None:
    from aced.models.tokenizers import tokenizer_identity

    def one(texts: list[str]) -> torch.Tensor:
        return torch.zeros(len(texts), 4, dtype=torch.int64)

    def other(texts: list[str]) -> torch.Tensor:
        return torch.ones(len(texts), 4, dtype=torch.int64)

    assert tokenizer_identity(one) != tokenizer_identity(other)


@pytest.fixture
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody measures how many threads are quickest."""
    monkeypatch.setattr("aced.programs.train.set_threads", lambda count: set_threads(1))


# --- examples ---------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(("name", "small"), [("own_dataset", {"PAIRS": 64}), ("own_reference", {"SIZE": 200})])
def test_examples_run(name: str, small: dict[str, int], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    example = script(name)
    for key, value in {"STEPS": 2, "OUT": str(tmp_path / "run"), **small}.items():
        setattr(example, key, value)
    example.main()
    assert "2 steps" in capsys.readouterr().out
    assert (tmp_path / "run" / "model" / "tower.json").is_file()


@pytest.mark.usefixtures("one_thread")
def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    text = (EXAMPLES / "notebook.py").read_text(encoding="utf-8")
    small = text.replace('60, 1000, "runs/notebook"', f'4, 200, "{tmp_path / "run"}"')
    assert small != text
    (tmp_path / "notebook.py").write_text(small, encoding="utf-8")
    runpy.run_path(str(tmp_path / "notebook.py"))
    assert "2 of 4 steps" in capsys.readouterr().out


@pytest.mark.usefixtures("doors")
def test_the_module_of_the_examples_registers_its_method(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(EXAMPLES)
    sections = {"method": {"name": "gentle", "loss": "smoothed", "chunks": 4}}
    values = keys(tmp_path / "run", **sections)
    values["run"]["imports"] = ["my_method"]
    done = aced.train(values, source=even_pool(), reference=tiny(), show=False)
    assert METHODS.origin("gentle") == "my_method"
    assert done.step == 4


def clip_of_transformers() -> Any:
    """A tiny CLIP with random weights; without transformers the test is skipped."""
    import_open_clip()  # transformers imports torchvision, which may have to be mended first
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    vision = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 16,
    }
    words = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "vocab_size": 256,
        "max_position_embeddings": 32,
        "eos_token_id": 2,
    }
    config = transformers.CLIPConfig(text_config=words, vision_config=vision, projection_dim=16)
    torch.manual_seed(0)
    return transformers.CLIPModel(config).eval()


def test_a_model_of_transformers_as_reference(tmp_path: Path) -> None:
    clip, example = clip_of_transformers(), script("own_reference")
    tower = aced.own_tower(
        example.OfTransformers(clip), example.letters, name="clip", width=16, image_size=32, context_length=32
    )
    pixels, ids = torch.zeros(2, 3, 32, 32, dtype=torch.uint8), example.letters(["a cat", "two dogs"])
    with torch.no_grad():
        want = clip(input_ids=ids, pixel_values=torch.full((2, 3, 32, 32), -1.0))
        torch.testing.assert_close(tower.eval().embed_image(pixels), want.image_embeds)
        torch.testing.assert_close(tower.embed_text(["a cat", "two dogs"]), want.text_embeds)


@pytest.mark.usefixtures("one_thread")
def test_the_example_takes_a_folder_of_transformers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clip_of_transformers().save_pretrained(tmp_path / "clip")
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = Tokenizer(models.WordLevel({"[PAD]": 0, "[UNK]": 1, "circle": 3}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]")
    fast.save_pretrained(tmp_path / "clip")
    pixels = transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    pixels.save_pretrained(tmp_path / "clip")
    example = script("own_reference")
    for key, value in {"STEPS": 2, "SIZE": 200, "OUT": str(tmp_path / "run")}.items():
        setattr(example, key, value)
    example.main(str(tmp_path / "clip"))
    assert "2 steps" in capsys.readouterr().out
    assert (tmp_path / "run/model/tower.json").is_file()
