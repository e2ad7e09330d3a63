"""The fingerprint covers what a config says, in one form however it is written; old folders are still checked."""

from __future__ import annotations

import copy
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from test_tower_checkpoints import SMALL
from tower_fakes import candidates, write_config

from aced.errors import AcedError
from aced.models import Tower, import_open_clip, load_tower, save_tower
from aced.models.architecture import architecture
from aced.models.tokenizers import tokenizer_identity


def changed(config: dict[str, Any], at: str, value: Any) -> dict[str, Any]:
    """A config with one key of it set; `at` is `section.key` or a key of the upper level."""
    config = copy.deepcopy(config)
    section, _, key = at.rpartition(".")
    (config[section] if section else config)[key] = value
    return config


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    state = load_tower(write_config(folder / "small.json", SMALL), seed=3).model.state_dict()
    save_file(state, folder / "w.safetensors")
    return folder / "w.safetensors"


def of(config: dict[str, Any], weights: Path, folder: Path) -> Tower:
    return load_tower(write_config(folder / "any.json", config), checkpoint=weights).eval()


@pytest.mark.parametrize(
    ("at", "value"),
    [
        ("vision_cfg.pool_type", "avg"),
        ("vision_cfg.head_width", 4),
        ("text_cfg.heads", 2),
        ("text_cfg.no_causal_mask", True),
        ("text_cfg.pool_type", "last"),
        ("text_cfg.act_kwargs", {"approximate": "tanh"}),
        ("text_cfg.norm_kwargs", {"eps": 1e-3}),
        ("quick_gelu", True),
    ],
)
def test_another_architecture_has_another_fingerprint_and_other_embeddings(
    at: str, value: Any, weights: Path, tmp_path: Path
) -> None:
    first, other = of(SMALL, weights, tmp_path), of(changed(SMALL, at, value), weights, tmp_path)
    one, two = first.identity(), other.identity()
    assert one["tower"] != two["tower"]
    assert one["architecture"] != two["architecture"]
    assert one["weights"] == two["weights"]
    assert one["contents"] == two["contents"]
    mine, theirs = (tower.score(candidates([tower]), 8) for tower in (first, other))
    assert not (torch.equal(mine.image, theirs.image) and torch.equal(mine.text, theirs.text))


@pytest.mark.parametrize(
    ("at", "value"),
    [
        ("vision_cfg.pool_type", "tok"),
        ("vision_cfg.mlp_ratio", 4),
        ("vision_cfg.timm_pool", "abs_attn"),
        ("vision_cfg.ls_init_value", None),
        ("vision_cfg.block_type", "default"),
        ("vision_cfg.patch_dropout", 0.5),
        ("text_cfg.pad_id", 0),
        ("text_cfg.hf_proj_type", "mlp"),
        ("custom_text", False),
        ("quick_gelu", False),
        ("init_logit_scale", 1.5),
        ("text_cfg.hf_pooler_type", "cls_pooler"),
    ],
)
def test_what_changes_no_embedding_changes_no_fingerprint(at: str, value: Any, weights: Path, tmp_path: Path) -> None:
    first, other = of(SMALL, weights, tmp_path), of(changed(SMALL, at, value), weights, tmp_path)
    assert first.identity() == other.identity()
    mine, theirs = (tower.score(candidates([tower]), 8) for tower in (first, other))
    assert torch.equal(mine.image, theirs.image)
    assert torch.equal(mine.text, theirs.text)


def test_numbers_are_compared_as_numbers() -> None:
    assert architecture(changed(SMALL, "vision_cfg.head_width", 8.0)) == architecture(SMALL)
    assert architecture(changed(SMALL, "vision_cfg.layers", (2, 2, 2, 2))) == architecture(
        changed(SMALL, "vision_cfg.layers", [2, 2, 2, 2])
    )


def test_the_order_of_keys_does_not_matter(weights: Path, tmp_path: Path) -> None:
    turned = {
        key: dict(reversed(value.items())) if isinstance(value, dict) else value
        for key, value in reversed(SMALL.items())
    }
    assert of(turned, weights, tmp_path).fingerprint() == of(SMALL, weights, tmp_path).fingerprint()


@pytest.mark.parametrize("name", ["small", "demo"])
def test_one_model_has_one_fingerprint_wherever_it_is_loaded_from(name: str, tmp_path: Path) -> None:
    custom = {**SMALL, "custom_text": True, "init_logit_bias": -10}
    model: str | Path = "aced-demo-s" if name == "demo" else write_config(tmp_path / "small.json", custom)
    tower = load_tower(model, seed=4)
    save_tower(tower, tmp_path / "saved")
    marks = {load_tower(tmp_path / "saved").fingerprint()}
    file = tmp_path / "saved" / "model.safetensors"
    marks.add(load_tower(model, checkpoint=file).fingerprint())
    (tmp_path / "hub").mkdir()
    hub = {"model_cfg": tower.config, "preprocess_cfg": tower.preprocess}
    write_config(tmp_path / "hub" / "open_clip_config.json", hub)
    shutil.copy(file, tmp_path / "hub" / "open_clip_model.safetensors")
    marks.add(load_tower(tmp_path / "hub").fingerprint())
    assert marks == {tower.fingerprint()}


def test_every_config_of_open_clips_list_has_a_normal_form_of_its_own() -> None:
    open_clip = import_open_clip()
    forms: dict[str, list[str]] = {}
    for name in open_clip.list_models():
        config = open_clip.get_model_config(name)
        forms.setdefault(json.dumps(architecture(config), sort_keys=True), []).append(name)
        assert architecture(json.loads(json.dumps(config))) == architecture(config)
    # Names for one architecture, or (Hugging Face text towers) for one that its folder would tell apart.
    for names in forms.values():
        cut = [open_clip.get_model_config(name) for name in names]
        for config in cut:
            for key in ("hf_tokenizer_name", "hf_model_name", "tokenizer_kwargs"):
                config["text_cfg"].pop(key, None)
            config.pop("custom_text", None)
            config["vision_cfg"].pop("timm_model_pretrained", None)
            config["text_cfg"].pop("hf_model_pretrained", None)
            for key in ("init_logit_scale", "init_logit_bias"):
                config.pop(key, None)
            for section in ("vision_cfg", "text_cfg"):
                defaults = getattr(open_clip, "CLIPVisionCfg" if section == "vision_cfg" else "CLIPTextCfg")()
                config[section] = {
                    key: value for key, value in config[section].items() if getattr(defaults, key, None) != value
                }
        assert all(config == cut[0] for config in cut), names


# -- folders of the first format ---------------------------------------------------------------------------------


def old_fingerprint(tower: Tower) -> str:
    """The fingerprint of format 1, written down from its definition."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tower.model.state_dict().items()):
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)};".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy())
    digest.update(repr((tower.view, tower.mean.tolist(), tower.std.tolist())).encode())
    digest.update(f"{tokenizer_identity(tower.tokenizer)}:{tower.context_length}".encode())
    return digest.hexdigest()[:16]


def test_folders_of_the_first_format_load_and_are_checked(demo: Tower, tmp_path: Path) -> None:
    save_tower(demo, tmp_path)
    description = json.loads((tmp_path / "tower.json").read_text())
    assert description["format"] == 2
    old = {**description, "format": 1, "fingerprint": old_fingerprint(demo)}
    (tmp_path / "tower.json").write_text(json.dumps(old))
    assert load_tower(tmp_path).fingerprint() == demo.fingerprint()
    (tmp_path / "tower.json").write_text(json.dumps({**old, "fingerprint": "0" * 16}))
    with pytest.raises(AcedError, match="together"):
        load_tower(tmp_path)
    (tmp_path / "tower.json").write_text(json.dumps({**description, "fingerprint": old_fingerprint(demo)}))
    with pytest.raises(AcedError, match="together"):
        load_tower(tmp_path)


def test_a_folder_whose_config_was_changed_by_hand_is_refused(weights: Path, tmp_path: Path) -> None:
    save_tower(of(SMALL, weights, tmp_path), tmp_path / "saved")
    description = json.loads((tmp_path / "saved" / "tower.json").read_text())
    description["model_cfg"]["vision_cfg"]["pool_type"] = "avg"
    (tmp_path / "saved" / "tower.json").write_text(json.dumps(description))
    with pytest.raises(AcedError, match="together"):
        load_tower(tmp_path / "saved")
