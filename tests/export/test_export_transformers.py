"""`aced export --format transformers`: CLIPModel and SiglipModel load the folder and embed the same."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from aced.models import Tower, load_tower, save_tower
from aced.models.compat import import_open_clip
from aced.models.layouts import as_transformers, translated
from cli_fakes import Cli

CLIP: dict[str, Any] = {
    "embed_dim": 24,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2},
}
SIGLIP: dict[str, Any] = {
    "embed_dim": 32,
    "init_logit_bias": -10,
    "custom_text": True,
    "vision_cfg": {"image_size": 32, "timm_model_name": "vit_tests_siglip", "timm_pool": "map", "timm_proj": "none"},
    "text_cfg": {
        "context_length": 10,
        "vocab_size": 6,
        "width": 32,
        "heads": 2,
        "layers": 2,
        "no_causal_mask": True,
        "proj_bias": True,
        "pool_type": "last",
        "norm_kwargs": {"eps": 1e-6},
        "act_kwargs": {"approximate": "tanh"},
    },
}


def hugging_face() -> Any:
    import_open_clip()
    return pytest.importorskip("transformers", reason="transformers is not installed")


def small_vision_tower() -> None:
    """A SigLIP vision tower of timm's that is small, known by name."""
    from timm.models import is_model, register_model
    from timm.models.vision_transformer import VisionTransformer

    def vit_tests_siglip(pretrained: bool = False, **options: Any) -> VisionTransformer:
        known = {key: value for key, value in options.items() if key in ("img_size", "num_classes")}
        shape: dict[str, Any] = {"img_size": 32, "patch_size": 16, "embed_dim": 32, "depth": 2, "num_heads": 4}
        return VisionTransformer(**shape | known, class_token=False, global_pool="map", act_layer="gelu_tanh")

    vit_tests_siglip.__module__ = __name__
    if not is_model("vit_tests_siglip"):
        register_model(vit_tests_siglip)


def shaken(config: dict[str, Any], folder: Path) -> Tower:
    """A tower no weight of which is at a value that could be mistaken for another's."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    tower = load_tower(folder / "config.json", seed=0).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for value in tower.model.parameters():
            value += 0.05 * torch.randn(value.shape, generator=generator)
    return tower


def siglip_tower(folder: Path) -> Tower:
    """A small SigLIP whose tokenizer is a folder of transformers'."""
    tokenizers = pytest.importorskip("tokenizers", reason="tokenizers is not installed")
    small_vision_tower()
    words = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({"[PAD]": 0, "[UNK]": 1, "a": 2, "red": 3, "circle": 4, "the": 5}, "[UNK]")
    )
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    (folder / "words").mkdir(parents=True)
    words.save(str(folder / "words" / "tokenizer.json"))
    told = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "[PAD]", "unk_token": "[UNK]"}
    (folder / "words" / "tokenizer_config.json").write_text(json.dumps(told))
    text = SIGLIP["text_cfg"] | {"hf_tokenizer_name": str(folder / "words"), "tokenizer_kwargs": {"clean": "lower"}}
    return shaken(SIGLIP | {"text_cfg": text}, folder / "model")


def features(found: Any) -> torch.Tensor:
    return F.normalize(found if isinstance(found, torch.Tensor) else found.pooler_output, dim=-1)


@pytest.mark.parametrize("custom", [False, True])
def test_clip_model_embeds_as_the_model_does(custom: bool, tmp_path: Path, cli: Cli) -> None:
    transformers = hugging_face()
    tower = shaken(CLIP | {"custom_text": custom}, tmp_path / "config")
    save_tower(tower, tmp_path / "model")
    end = cli("export", tmp_path / "model", tmp_path / "out", "--format", "transformers")
    assert (end.status, end.err) == (0, "")
    model = transformers.CLIPModel.from_pretrained(tmp_path / "out").eval()
    texts = ["A red circle, 12 dots", "naïve <b>cats</b> & dogs", "x " * 40]
    ids = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")(
        texts, padding="max_length", max_length=12, truncation=True, return_tensors="pt"
    )["input_ids"]
    images = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    with torch.no_grad():
        torch.testing.assert_close(features(model.get_text_features(input_ids=ids)), tower.embed_text(texts))
        found = features(model.get_image_features(pixel_values=tower.pixels(images)))
        torch.testing.assert_close(found, tower.embed_image(images))
    assert model.logit_scale.item() == pytest.approx(tower.model.logit_scale.item())


def test_the_image_processor_does_what_the_tower_does(tmp_path: Path, cli: Cli) -> None:
    from PIL import Image

    transformers = hugging_face()
    pixels = {"mean": [0.1, 0.2, 0.3], "std": [0.5, 0.4, 0.3], "interpolation": "bicubic", "resize_mode": "shortest"}
    tower = shaken({"model_cfg": CLIP, "preprocess_cfg": pixels}, tmp_path / "config")
    save_tower(tower, tmp_path / "model")
    cli("export", tmp_path / "model", tmp_path / "out", "--format", "transformers")
    noise = torch.randint(0, 256, (32, 32, 3), dtype=torch.uint8)
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "out")
    found = torch.as_tensor(processor(images=Image.fromarray(noise.numpy()), return_tensors="pt")["pixel_values"])
    torch.testing.assert_close(found, tower.pixels(noise.permute(2, 0, 1)[None]), atol=1e-5, rtol=0)


def test_siglip_model_embeds_as_the_model_does(tmp_path: Path, cli: Cli) -> None:
    transformers = hugging_face()
    tower = siglip_tower(tmp_path)
    save_tower(tower, tmp_path / "saved")
    end = cli("export", tmp_path / "saved", tmp_path / "out", "--format", "transformers")
    assert (end.status, end.err) == (0, "")
    model = transformers.SiglipModel.from_pretrained(tmp_path / "out").eval()
    images = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    ids = tower.tokenizer(["a red circle", "the circle"])
    with torch.no_grad():
        found = features(model.get_image_features(pixel_values=tower.pixels(images)))
        torch.testing.assert_close(found, tower.embed_image(images), atol=1e-5, rtol=1e-4)
        found = features(model.get_text_features(input_ids=ids))
        torch.testing.assert_close(found, tower.embed_text(["a red circle", "the circle"]), atol=1e-5, rtol=1e-4)
    assert model.logit_bias.item() == pytest.approx(tower.model.logit_bias.item())


@pytest.mark.parametrize("siglip", [False, True])
def test_names_there_and_back(siglip: bool, tmp_path: Path) -> None:
    small_vision_tower()
    config = SIGLIP | {"text_cfg": SIGLIP["text_cfg"] | {"vocab_size": 49408}} if siglip else CLIP
    state = shaken(config, tmp_path / "config").model.state_dict()
    back = translated(as_transformers(state, siglip=siglip))
    assert back.keys() == state.keys()
    assert all(torch.equal(back[key].reshape(value.shape), value) for key, value in state.items())


@pytest.mark.parametrize(
    ("kind", "installed"),
    [
        ("demo", True),
        ("words", True),
        ("activation", True),
        ("pooling", True),
        ("demo", False),
        ("words", False),
        ("plain", False),
    ],
)
def test_a_model_without_counterpart_is_refused(
    kind: str, installed: bool, trained: dict[str, Path], tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    if installed:
        hugging_face()
    else:
        monkeypatch.setitem(sys.modules, "transformers", None)
    model = trained["peer"]
    if kind != "demo":
        config = json.loads(json.dumps(CLIP))
        if kind == "pooling":
            config["vision_cfg"]["pool_type"] = "avg"
        elif kind == "activation":
            config["vision_cfg"]["ls_init_value"] = 0.1
        elif kind == "words":
            config["text_cfg"]["vocab_size"] = 261
            (tmp_path / "c-vocab.txt").write_text("a\nred\nball\n")
        (tmp_path / "c.json").write_text(json.dumps(config))
        model = tmp_path / "model"
        save_tower(load_tower(tmp_path / "c.json", seed=0), model)
    end = cli("export", model, tmp_path / "place" / "out", "--format", "transformers")
    assert end.status == 2
    assert len(end.err.splitlines()) == 1
    assert list((tmp_path / "place").iterdir()) == []
    # Nobody installs a package for a model that it cannot represent; only its weights are compared by the package.
    known_before = kind in ("demo", "words")
    assert ("pip install" in end.err) == (not installed and not known_before)


@pytest.mark.parametrize(("form", "package"), [("transformers", "transformers"), ("onnx", "onnxruntime.quantization")])
def test_a_model_that_is_not_there_is_named_before_a_missing_package(
    form: str, package: str, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    end = cli("export", tmp_path / "nowhere", tmp_path / "out", "--format", form)
    assert end.status == 2
    assert str(tmp_path / "nowhere") in end.err
    assert "pip install" not in end.err
    assert not (tmp_path / "out").exists()
