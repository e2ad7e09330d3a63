"""Folders as they are on the hub, names that nothing is called, and what open_clip's list of weights says."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from test_tower_checkpoints import SMALL
from tower_fakes import write_config

from aced.errors import AcedError
from aced.models import import_open_clip, load_tower, save_tower, trained_recipe
from aced.models.hub_folder import NAMES, hub_weights
from aced.models.pretrained_tags import PIXELS, agreed_pixels, agreed_quick_gelu, same_architecture
from aced.models.recipes import find_recipe


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    path = write_config(tmp_path_factory.mktemp("small") / "small.json", SMALL)
    return dict(load_tower(path, seed=9).model.state_dict())


@pytest.fixture
def hub(tmp_path: Path) -> Path:
    (tmp_path / "hub").mkdir()
    write_config(tmp_path / "hub" / "open_clip_config.json", {"model_cfg": SMALL, "preprocess_cfg": {}})
    return tmp_path / "hub"


def put(state: dict[str, torch.Tensor], path: Path) -> None:
    save_file(state, path) if path.suffix == ".safetensors" else torch.save(state, path)


# -- weights in a folder -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_every_name_that_open_clip_prefers_is_loaded(name: str, hub: Path, state: dict[str, torch.Tensor]) -> None:
    put(state, hub / name)
    assert find_recipe(hub).source == hub / name
    own = load_tower(hub).model.state_dict()
    assert all(torch.equal(own[key], value) for key, value in state.items())


def test_the_order_of_names_is_open_clips(hub: Path) -> None:
    for name in NAMES:
        (hub / name).write_bytes(b"x")
    for name in NAMES:
        assert hub_weights(hub) == hub / name
        assert import_open_clip().factory._find_checkpoint_in_dir(hub) == str(hub / name)
        (hub / name).unlink()


def test_a_folder_of_several_files_is_loaded_by_its_index(hub: Path, state: dict[str, torch.Tensor]) -> None:
    put(state, hub / "open_clip_model-00001-of-00001.safetensors")
    index = {"weight_map": dict.fromkeys(state, "open_clip_model-00001-of-00001.safetensors")}
    (hub / "open_clip_model.safetensors.index.json").write_text(json.dumps(index))
    own = load_tower(hub).model.state_dict()
    assert all(torch.equal(own[key], value) for key, value in state.items())


@pytest.mark.parametrize(
    "names", [["epoch_1.pt"], ["my.safetensors"], ["a.bin", "b.bin"], ["last.ckpt"], ["flax_model.msgpack"]]
)
def test_weights_of_an_unknown_name_are_refused(names: list[str], hub: Path, state: dict[str, torch.Tensor]) -> None:
    for name in names:
        (hub / name).write_bytes(b"x")
    for ask in (load_tower, find_recipe):
        with pytest.raises(AcedError, match=f"{names[0]}.*open_clip_model.safetensors"):
            ask(hub)
    put(state, hub.parent / "w.pt")
    assert find_recipe(hub, hub.parent / "w.pt").source == hub.parent / "w.pt"
    load_tower(hub, checkpoint=hub.parent / "w.pt")


@pytest.mark.parametrize("name", ["training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state_0.pth", "README.md"])
def test_what_trainers_leave_is_no_weights(name: str, hub: Path) -> None:
    (hub / name).write_bytes(b"x" * 100)
    assert not find_recipe(hub).trained
    assert load_tower(hub, seed=0).width == 8  # an architecture to train


def test_who_has_weights(hub: Path, tmp_path: Path) -> None:
    small = write_config(tmp_path / "small.json", SMALL)
    for model in (small, "aced-demo-s", "ViT-B-32"):
        assert not find_recipe(model).trained
        with pytest.raises(AcedError, match=rf"^{re.escape(str(model))} .*weights.*--checkpoint"):
            trained_recipe(model)
        with pytest.raises(AcedError, match=r"teacher\.model = '.*weights.*teacher\.checkpoint"):
            trained_recipe(model, key="teacher")
    save_tower(load_tower(small, seed=1), tmp_path / "run" / "model")
    saved = tmp_path / "run" / "model" / "model.safetensors"
    for model in (tmp_path / "run" / "model", tmp_path / "run", tmp_path / "run" / "model" / "tower.json"):
        assert find_recipe(model).source == saved
    saved.unlink()
    with pytest.raises(AcedError, match="checkpoint"):
        load_tower(tmp_path / "run")


# -- names -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("ViT-B/32", "'ViT-B-32'"),
        ("vit-b-32", "'ViT-B-32'"),
        ("vit_b_32", "'ViT-B-32'"),
        ("ViT B 32", "'ViT-B-32'"),
        ("ViT-L/14-336", "'ViT-L-14-336'"),
        ("rn50", "'RN50'"),
        ("mobileclip_s1", "'MobileCLIP-S1'"),
        ("aced_demo_s", "'aced-demo-s'"),
        ("laion2b_s34b_b79k", "tag.*ViT-B-32.*checkpoint"),
        ("datacomp-xl-s13b-b90k", "tag.*ViT"),
        ("openai", "tag"),
        ("ViT-B-32::laion2b_s34b_b79k", "'ViT-B-32'.*laion2b_s34b_b79k"),
        ("ViT-B-32:openai", "'ViT-B-32'.*openai"),
        ("ViT-B/32@openai", "'ViT-B-32'.*openai"),
        ("openai/clip-vit-base-patch32", "hub.*'ViT-B-32-quickgelu'"),
        ("openai/clip-vit-large-patch14-336", "hub.*'ViT-L-14-336-quickgelu'"),
        ("laion/CLIP-ViT-B-32-laion2B-s34B-b79K", "hub.*'ViT-B-32'"),
        ("timm/ViT-B-16-SigLIP-512", "hub.*'ViT-B-16-SigLIP-512'"),
        ("clip-vit-base-patch32", "'ViT-B-32'"),
        ("google/siglip-base-patch16-224", "hub"),
        ("hf_hub:laion/CLIP-ViT-B-32", "hf-hub:laion/CLIP-ViT-B-32"),
        ("https://huggingface.co/laion/CLIP-ViT-B-32/tree/main", r"hf-hub:laion/CLIP-ViT-B-32\.$"),
        ("ViT-B-33", "'ViT-"),
    ],
)
def test_a_misspelled_name_is_answered_with_what_was_meant(name: str, words: str) -> None:
    with pytest.raises(AcedError, match=words) as caught:
        load_tower(name)
    assert name in str(caught.value)


def test_paths_that_are_no_models(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    put(state, tmp_path / "b32.safetensors")
    (tmp_path / "hf").mkdir()
    write_config(tmp_path / "hf" / "config.json", {"model_type": "clip", "vision_config": {}, "text_config": {}})
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.toml").write_text("")
    (tmp_path / "runs" / "a" / "checkpoints" / "step-1" / "model").mkdir(parents=True)
    save_tower(load_tower("aced-demo-s", seed=0), tmp_path / "two" / "best")
    for path, words in {
        "b32.safetensors": "file of weights.*checkpoint",
        "gone/b32.pt": "file of weights.*checkpoint",
        "b33.pt": "file of weights.*checkpoint",
        "hf": "transformers",
        "hf/config.json": "transformers",
        "run": "--resume",
        "runs": "neither",
        "two": "two/best",
        "no/such/folder": "no such file",
    }.items():
        with pytest.raises(AcedError, match=words):
            load_tower(tmp_path / path)
    with pytest.raises(AcedError, match="folder"):
        load_tower(f"local-dir:{tmp_path / 'hf'}")


def test_a_path_of_two_words_is_a_path_where_its_folder_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine").mkdir()
    for path, hub in {"mine/gone": False, "other/model": False, "other/gone": True}.items():
        with pytest.raises(AcedError, match="file") as caught:
            load_tower(path)
        assert ("hub" in str(caught.value)) == hub


# -- what pretrained weights agree on ----------------------------------------------------------------------------


def test_names_get_the_preprocessing_that_all_their_weights_share() -> None:
    pretrained = import_open_clip().pretrained
    seen = 0
    for name in import_open_clip().list_models():
        tags = [pretrained.get_pretrained_cfg(name, tag) for tag in pretrained.list_pretrained_tags_by_model(name)]
        recipe = find_recipe(name)
        for key in PIXELS:
            values = {json.dumps(tag[key]) for tag in tags}
            assert json.dumps(recipe.preprocess.get(key)) == (values.pop() if len(values) == 1 else "null"), (name, key)
        quick = bool(tags) and all(tag.get("quick_gelu") for tag in tags)
        own = bool(import_open_clip().get_model_config(name).get("quick_gelu"))
        assert bool(recipe.config.get("quick_gelu")) == (own or quick)
        seen += bool(tags)
    assert seen > 100
    assert not find_recipe("aced-demo-s").preprocess
    assert find_recipe("aced-demo-s").plain is None


def test_the_values_that_the_field_knows() -> None:
    assert agreed_pixels("MobileCLIP-S1") == {
        "mean": [0.0, 0.0, 0.0],
        "std": [1.0, 1.0, 1.0],
        "interpolation": "bilinear",
        "resize_mode": "shortest",
    }
    siglip = agreed_pixels("ViT-B-16-SigLIP")
    assert (siglip["mean"], siglip["std"], siglip["resize_mode"]) == ([0.5] * 3, [0.5] * 3, "squash")
    assert set(agreed_pixels("ViT-L-14")) == {"interpolation", "resize_mode"}
    assert [agreed_quick_gelu(name) for name in ("RN50", "ViT-L-14-336", "ViT-B-32", "ViT-S-32")] == [
        True,
        True,
        False,
        False,
    ]


def notes(model: Path | str, weights: Path) -> str:
    return "\n".join(load_tower(model, checkpoint=weights).notes)


def test_a_config_without_preprocessing_is_told(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    put(state, tmp_path / "w.safetensors")
    plain = write_config(tmp_path / "plain.json", SMALL)
    own: dict[str, Any] = {"mean": [0.5] * 3, "std": [0.5] * 3, "resize_mode": "squash"}
    right = write_config(tmp_path / "right.json", {"model_cfg": SMALL, "preprocess_cfg": own})
    assert "preprocess_cfg" in notes(plain, tmp_path / "w.safetensors")
    assert not notes(right, tmp_path / "w.safetensors")
    assert not load_tower(plain, seed=0).notes  # nothing was trained yet that could be seen wrongly


def test_activation_is_doubted_by_the_name_of_the_file_and_by_openais_keys(
    tmp_path: Path, state: dict[str, torch.Tensor]
) -> None:
    pixels: dict[str, Any] = {"preprocess_cfg": {"resize_mode": "shortest"}}
    plain = write_config(tmp_path / "plain.json", {"model_cfg": SMALL, **pixels})
    quick = write_config(tmp_path / "quick.json", {"model_cfg": {**SMALL, "quick_gelu": True}, **pixels})
    put(state, tmp_path / "w.pt")
    for name in ("openai-vit_b_32.safetensors", "vit_b_32-quickgelu-laion400m.pt", "clip.openai.bin"):
        put(state, tmp_path / name)
        assert "QuickGELU" in notes(plain, tmp_path / name)
        assert not notes(quick, tmp_path / name)
    put(state, tmp_path / "myopenairun.pt")
    assert not notes(plain, tmp_path / "myopenairun.pt")
    put(
        {**state, **{k: torch.tensor(16) for k in ("input_resolution", "context_length", "vocab_size")}},
        tmp_path / "o.pt",
    )
    assert "QuickGELU" in notes(plain, tmp_path / "o.pt")
    assert not notes(quick, tmp_path / "o.pt")
    marks = {load_tower(path, checkpoint=tmp_path / "w.pt").fingerprint() for path in (plain, quick)}
    assert len(marks) == 2


def test_a_config_that_is_an_architecture_of_the_list_is_known(tmp_path: Path) -> None:
    open_clip = import_open_clip()
    for name in ("MobileCLIP-S1", "ViT-L-14", "RN50"):
        config = open_clip.get_model_config(name)
        assert open_clip.get_model_config(same_architecture(config))["vision_cfg"] == config["vision_cfg"]
    assert same_architecture(SMALL) is None


def test_a_saved_folder_is_never_doubted(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    put(state, tmp_path / "openai.pt")
    tower = load_tower(write_config(tmp_path / "plain.json", SMALL), checkpoint=tmp_path / "openai.pt")
    assert tower.notes
    save_tower(tower, tmp_path / "openai")
    assert not load_tower(tmp_path / "openai").notes


# -- folders that are whole --------------------------------------------------------------------------------------


def test_a_text_tower_from_a_folder_goes_into_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: dict[str, torch.Tensor]
) -> None:
    """open_clip's HFTextEncoder without the library behind it: what it reads is the folder's config."""
    open_clip = import_open_clip()

    class Encoder(torch.nn.Module):
        def __init__(self, place: str, output_dim: int, **_: object) -> None:
            super().__init__()
            self.width = json.loads((Path(place) / "config.json").read_text())["hidden_size"]
            self.embedding, self.transformer = torch.nn.Embedding(450, self.width), torch.nn.Identity()
            self.proj = torch.nn.Linear(self.width, output_dim)
            self.output_dim, self.vocab_size, self.context_length = output_dim, 450, 16

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.proj(self.embedding(x).mean(1))

    monkeypatch.setattr(open_clip.model, "HFTextEncoder", Encoder)
    (tmp_path / "bert").mkdir()
    words = {"model_type": "bert", "hidden_size": 12, "_name_or_path": "/home/me/bert", "transformers_version": "4.1"}
    (tmp_path / "bert" / "config.json").write_text(json.dumps(words))
    config = {**SMALL, "text_cfg": {"hf_model_name": "bert", "vocab_size": 450, "context_length": 16}}
    tower = load_tower(write_config(tmp_path / "c.json", config), seed=0)
    shutil.rmtree(tmp_path / "bert")  # a long run may outlive the folder that it began with
    save_tower(tower, tmp_path / "saved")
    assert str(tmp_path) not in (tmp_path / "saved" / "tower.json").read_text()
    (tmp_path / "saved").rename(tmp_path / "moved")
    loaded = load_tower(tmp_path / "moved")
    assert loaded.fingerprint() == tower.fingerprint()
    assert torch.equal(loaded.embed_text(["a red cat"]), tower.embed_text(["a red cat"]))
    save_tower(loaded, tmp_path / "again")
    assert load_tower(tmp_path / "again").fingerprint() == tower.fingerprint()

    def other(**changes: object) -> str:
        (tmp_path / "bert").mkdir(exist_ok=True)
        (tmp_path / "bert" / "config.json").write_text(json.dumps({**words, **changes}))
        return load_tower(tmp_path / "c.json", seed=0).identity()["architecture"]

    assert other(_name_or_path="elsewhere", transformers_version="5") == tower.identity()["architecture"]
    assert other(hidden_act="relu") != tower.identity()["architecture"]


@pytest.mark.parametrize("model", ["runs/none/model", "ViT-B-33", "no/such"])
def test_a_model_that_is_not_there_is_named_with_its_key(model: str) -> None:
    with pytest.raises(AcedError, match=rf"^reference\.model: .*{model}"):
        trained_recipe(model, key="reference")
    with pytest.raises(AcedError, match=rf"^(?!.*\.model: ).*{model}"):
        trained_recipe(model)
