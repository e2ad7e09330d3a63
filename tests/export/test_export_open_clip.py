"""`aced export --format open_clip`: another program loads the folder and embeds the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from aced.evaluate.eval_records import Evaluation, Setting, write_evaluation
from aced.export.agreement import Examples, difference
from aced.models import load_tower, save_tower
from aced.models.compat import import_open_clip
from cli_fakes import Cli

CONFIG: dict[str, Any] = {
    "embed_dim": 16,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A folder with a small CLIP whose mean and interpolation are not the usual ones."""
    config = tmp_path / "small.json"
    pixels = {"size": 32, "mean": [0.1, 0.2, 0.3], "interpolation": "bilinear", "resize_mode": "squash"}
    config.write_text(json.dumps({"model_cfg": CONFIG, "preprocess_cfg": pixels}))
    save_tower(load_tower(config, seed=3), tmp_path / "small")
    return tmp_path / "small"


def test_open_clip_embeds_as_the_model_does(small: Path, tmp_path: Path, cli: Cli) -> None:
    assert cli("export", small, tmp_path / "out").status == 0
    open_clip, tower = import_open_clip(), load_tower(small).eval()
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{tmp_path / 'out'}")
    ids = open_clip.get_tokenizer(f"local-dir:{tmp_path / 'out'}")(["a red circle", "two dogs"])
    with torch.no_grad():
        text = F.normalize(model.eval().encode_text(ids), dim=-1)
        torch.testing.assert_close(text, tower.embed_text(["a red circle", "two dogs"]))
    assert model.logit_scale.item() == pytest.approx(tower.model.logit_scale.item())
    normal = next(one for one in preprocess.transforms if type(one).__name__ == "Normalize")
    assert list(normal.mean) == [0.1, 0.2, 0.3]


@pytest.mark.parametrize("name", ["small", "aced-demo-s"])
def test_aced_reads_the_very_model_again(name: str, small: Path, trained: dict[str, Path], tmp_path: Path) -> None:
    from rich.console import Console

    from aced.programs.command_options import ExportOptions
    from aced.programs.export import export_program

    source = small if name == "small" else trained["peer"]
    export_program(ExportOptions(str(source), tmp_path / "out"), Console(quiet=True))
    assert load_tower(tmp_path / "out").identity() == load_tower(source).identity()


def test_a_word_list_comes_along(tmp_path: Path, cli: Cli) -> None:
    config = CONFIG | {"text_cfg": CONFIG["text_cfg"] | {"vocab_size": 261}}
    (tmp_path / "w.json").write_text(json.dumps(config))
    (tmp_path / "w-vocab.txt").write_text("a\nred\nball\n")
    save_tower(load_tower(tmp_path / "w.json", seed=1), tmp_path / "words")
    assert cli("export", tmp_path / "words", tmp_path / "out").status == 0
    assert load_tower(tmp_path / "out").fingerprint() == load_tower(tmp_path / "words").fingerprint()


def test_an_exported_folder_is_scored(trained: dict[str, Path], tmp_path: Path, cli: Cli) -> None:
    assert cli("export", trained["peer"], tmp_path / "out").status == 0
    ends = [
        cli("eval", model, "--data", "scenes", "--out", tmp_path / f"eval-{i}")
        for i, model in enumerate((trained["peer"], tmp_path / "out"))
    ]
    assert [end.status for end in ends] == [0, 0]
    scores = [json.loads((tmp_path / f"eval-{i}" / "eval.json").read_text())["average"] for i in (0, 1)]
    assert scores[0] == scores[1]


def test_the_card_has_the_scores_of_this_model_only(small: Path, tmp_path: Path, cli: Cli) -> None:
    run = tmp_path / "run"
    save_tower(load_tower(small), run / "model")
    record = {"value": 0.4321, "stderr": 0.0123, "chance": 0.1, "n": 987, "metric": "acc1", "metrics": {"acc1": 0.4321}}
    record |= {"task": "zeroshot_classification", "stderr_by": "", "samples": None}
    for mark, told in ((load_tower(small).fingerprint(), True), ("of another", False)):
        evaluation = Evaluation(Setting("small", "", mark, "clip", "fp32"), {"flowers": record})
        write_evaluation(run / "eval", evaluation, {})
        assert cli("export", run, tmp_path / f"out-{told}").status == 0
        card = (tmp_path / f"out-{told}" / "README.md").read_text()
        assert ("43.21 ± 1.23" in card) == told
        assert ("flowers" in card) == told


def test_the_card_of_a_run_names_method_data_and_budgets(tmp_path: Path, cli: Cli) -> None:
    words = ["run.threads=1", "data.scenes_size=64", "train.batch=16", "train.steps=2", "method.name=iid"]
    words.append("reference.model=ViT-L-14")  # a recipe may name one that the method does not use
    assert cli("train", "scenes", *words, f"run.out={tmp_path / 'run'}").status == 0
    assert cli("export", tmp_path / "run", tmp_path / "out").status == 0
    card = (tmp_path / "out" / "README.md").read_text()
    assert card.startswith("---\nlicense:")
    assert "method `iid`" in card
    assert "`data.scenes_size` | `64`" in card
    assert "`student.model`" in card
    assert "`reference.model`" not in card  # random batches have none, whatever the recipe names
    assert "pairs trained on | 32 " in card
    results = json.loads((tmp_path / "run" / "results.json").read_text())["rows"][0]["tasks"]
    for name, task in results.items():
        error = (task["value"] * (1 - task["value"]) / task["n"]) ** 0.5
        assert f"| {name} |  | {100 * task['value']:.2f} ± {100 * error:.2f}" in card


def test_what_differs_is_found(small: Path) -> None:
    tower = load_tower(small).eval()
    examples = Examples(tower)
    model: Any = tower.model
    assert difference(examples, model.encode_image, model.encode_text) < 1e-5
    assert difference(examples, model.encode_image, lambda ids: model.encode_text(ids.flip(0))) > 1e-3
    assert difference(examples, model.encode_image, lambda ids: model.encode_text(ids) * float("nan")) == float("inf")


@pytest.mark.parametrize("fault", ["full", "format", "random", "none", "other weights"])
def test_nothing_is_left_where_it_fails(
    fault: str, small: Path, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, words, form = tmp_path / "place" / "out", [small], "open_clip"
    if fault == "full":
        out.mkdir(parents=True)
        (out / "mine").write_text("kept")
    elif fault == "format":
        form = "opne_clip"
    elif fault == "random":
        words = ["aced-demo-s"]
    elif fault == "none":
        words = [tmp_path / "nothing" / "here"]
    else:  # open_clip would embed otherwise

        def changed(path: Any, tensors: dict[str, torch.Tensor]) -> None:
            save_file({key: value.flip(0).contiguous() for key, value in tensors.items()}, path)

        monkeypatch.setattr("aced.export.openclip.save_tensors_atomic", changed)
    end = cli("export", *words, out, "--format", form)
    assert end.status == 2
    assert len(end.err.splitlines()) == 1
    left = [path.name for path in (tmp_path / "place").rglob("*")] if (tmp_path / "place").exists() else []
    assert left == (["out", "mine"] if fault == "full" else [])


def test_weights_are_written_under_open_clips_names(small: Path, tmp_path: Path, cli: Cli) -> None:
    cli("export", small, tmp_path / "out")
    written = load_file(tmp_path / "out" / "open_clip_model.safetensors")
    assert written.keys() == load_tower(small).model.state_dict().keys()
