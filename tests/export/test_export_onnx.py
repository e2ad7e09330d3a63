"""`aced export --format onnx`: onnxruntime embeds the same, and `aced eval` scores the folder."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from rich.console import Console

from aced.models import load_tower
from aced.programs.command_options import ExportOptions
from aced.programs.export import export_program
from cli_fakes import Cli


@pytest.fixture(scope="module")
def exported(trained: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small demo model as ONNX."""
    for package in ("onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    folder = tmp_path_factory.mktemp("onnx") / "out"
    export_program(ExportOptions(str(trained["peer"]), folder, "onnx"), Console(quiet=True))
    return folder


def run(path: Path, **inputs: torch.Tensor) -> torch.Tensor:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {key: value.numpy() for key, value in inputs.items()})[0])


@pytest.mark.parametrize("batch", [1, 5])
def test_onnxruntime_embeds_as_the_model_does(batch: int, exported: Path, trained: dict[str, Path]) -> None:
    tower = load_tower(trained["peer"]).eval()
    side = tower.view.size
    images = torch.randint(0, 256, (batch, 3, side, side), dtype=torch.uint8)
    texts = ["a red circle over a green star"] * (batch - 1) + ["Zebra!"]
    pixels, ids = tower.pixels(images), tower.tokenizer(texts)
    with torch.no_grad():
        image, text = tower.embed_whole(images), tower.embed_text(texts)
    torch.testing.assert_close(run(exported / "image.onnx", pixel_values=pixels), image, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(run(exported / "text.onnx", input_ids=ids), text, atol=1e-5, rtol=1e-4)
    small = run(exported / "image.int8.onnx", pixel_values=pixels)
    assert F.cosine_similarity(small, image).min() > 0.95
    assert not torch.equal(small, image)


def test_the_int8_files_are_smaller(exported: Path) -> None:
    for side in ("image", "text"):
        whole, small = ((exported / f"{side}{kind}.onnx").stat().st_size for kind in ("", ".int8"))
        assert small < 0.6 * whole


def test_what_the_inputs_need_is_written_down(exported: Path, trained: dict[str, Path]) -> None:
    facts: dict[str, Any] = json.loads((exported / "aced_onnx.json").read_text())
    tower = load_tower(trained["peer"])
    assert facts["logit_scale"] == pytest.approx(float(tower.scale_and_bias()[0]))
    assert facts["preprocess_cfg"]["mean"] == tower.preprocess["mean"]
    assert (exported / "vocabulary.txt").read_text().split() == list(tower.tokenizer.words)  # type: ignore[attr-defined]


def test_an_onnx_folder_is_scored_as_the_model_is(
    exported: Path, trained: dict[str, Path], tmp_path: Path, cli: Cli
) -> None:
    found = {}
    for name, words in {
        "torch": [trained["peer"]],
        "fp32": [exported],
        "int8": [exported, "--checkpoint", "int8"],
    }.items():
        assert cli("eval", *words, "--data", "scenes", "--out", tmp_path / name).status == 0
        found[name] = json.loads((tmp_path / name / "eval.json").read_text())
    assert found["fp32"]["average"] == pytest.approx(found["torch"]["average"], abs=0.003)
    assert found["int8"]["average"] == pytest.approx(found["torch"]["average"], abs=0.1)
    assert len({one["fingerprint"] for one in found.values()}) == 3


@pytest.mark.parametrize("fault", ["kind", "damaged", "precision", "file"])
def test_a_folder_that_cannot_be_scored(fault: str, exported: Path, tmp_path: Path, cli: Cli) -> None:
    import shutil

    folder = shutil.copytree(exported, tmp_path / "copy")
    words: list[str] = []
    if fault == "damaged":
        (folder / "aced_onnx.json").write_text("{")
    elif fault == "file":
        (folder / "text.onnx").write_bytes(b"nothing")
    else:
        words = ["--checkpoint", "int4"] if fault == "kind" else ["--precision", "bf16"]
    end = cli("eval", folder, "--data", "scenes", *words, "--out", tmp_path / "eval")
    assert (end.status, len(end.err.splitlines())) == (2, 1)


def test_without_the_packages_nothing_is_left(
    trained: dict[str, Path], tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime.quantization", None)
    end = cli("export", trained["peer"], tmp_path / "place" / "out", "--format", "onnx")
    assert (end.status, len(end.err.splitlines())) == (2, 1)
    assert list((tmp_path / "place").iterdir()) == []
