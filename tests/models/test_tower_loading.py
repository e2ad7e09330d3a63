"""Names, configs, checkpoints and folders to towers, and back."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tower_fakes import CONFIGS, candidates, images, write_config

from aced.errors import AcedError
from aced.models import Tower, import_open_clip, load_tower, save_tower


def _same(a: Tower, b: Tower) -> bool:
    first, second = a.model.state_dict(), b.model.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


# -- names and seeds -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "width"), [("aced-demo-s", 64), ("aced-demo-m", 96), ("aced-demo-l", 128)])
def test_the_demo_family(name: str, width: int) -> None:
    tower = load_tower(name, seed=0)
    assert (tower.name, tower.width, tower.view.size, tower.context_length) == (name, width, 32, 32)
    assert tower.score(candidates([tower]), 8).image.shape == (5, width)


def test_the_family_is_ordered_by_cost() -> None:
    costs = [load_tower(f"aced-demo-{size}").flops(12).total for size in "sml"]
    assert costs[0] * 2 < costs[1] < costs[2]


def test_an_architecture_of_open_clip_by_name() -> None:
    tower = load_tower("RN50", seed=0)
    assert (tower.view.size, tower.width, tower.context_length) == (224, 1024, 77)
    # All its pretrained weights were trained with QuickGELU, though its config does not say so.
    assert type(tower.model.transformer.resblocks[0].mlp.gelu).__name__ == "QuickGELU"
    assert any("QuickGELU" in note for note in tower.notes)


def test_seeds() -> None:
    torch.manual_seed(7)
    random.seed(7)
    before, python_before = torch.get_rng_state(), random.getstate()
    first, again, other = (load_tower("aced-demo-s", seed=seed) for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), before)
    assert random.getstate() == python_before
    assert _same(first, again)
    assert not _same(first, other)
    assert first.fingerprint() == again.fingerprint() != other.fingerprint()


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_no_weight_is_left_as_it_was_found_in_memory(
    configs: dict[str, Path], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """open_clip leaves a weight of CoCa's decoder to `torch.empty`: builds of one seed differed, and NaN broke ==."""
    import_open_clip()
    empty = torch.empty

    def garbage(*args: Any, **kwargs: Any) -> torch.Tensor:
        tensor = empty(*args, **kwargs)
        return tensor.fill_(torch.nan) if tensor.is_floating_point() else tensor

    monkeypatch.setattr(torch, "empty", garbage)
    state = load_tower(configs[name], seed=0).model.state_dict()
    monkeypatch.undo()
    assert not [key for key, value in state.items() if value.isnan().any()]
    assert all(
        torch.equal(value, state[key]) for key, value in load_tower(configs[name], seed=0).model.state_dict().items()
    )


def test_without_a_seed_the_global_generator_is_used() -> None:
    towers = []
    for _ in range(2):
        torch.manual_seed(5)
        towers.append(load_tower("aced-demo-s"))
    assert _same(*towers)
    assert not _same(towers[0], load_tower("aced-demo-s"))


def test_loading_a_folder_leaves_the_global_generator_alone(demo: Tower, tmp_path: Path) -> None:
    save_tower(demo, tmp_path)
    before = torch.get_rng_state()
    load_tower(tmp_path)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("aced-demo-x", "'aced-demo-x'.*'aced-demo-"),
        ("qqqqqqqqqqq", "'qqqqqqqqqqq'"),
        ("https://example.org/x.json", "hf-hub:"),
        ("/no/such/config.json", "file"),
        ("no/such/folder", "file"),
        ("", "model"),
    ],
)
def test_unknown_models(model: str, words: str) -> None:
    with pytest.raises(AcedError, match=words):
        load_tower(model)


def test_a_folder_with_a_models_name_is_not_in_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("aced-demo-s", "other"):
        Path(name).mkdir()
    assert load_tower("aced-demo-s").width == 64
    with pytest.raises(AcedError, match=r"other.*tower"):
        load_tower("other")
    with pytest.raises(AcedError, match="tower"):
        load_tower(tmp_path)


# -- configs -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["plain", "custom"])
def test_a_config_gives_what_open_clip_gives(
    configs: dict[str, Path], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    factory = import_open_clip().factory
    for registry in ("_MODEL_CONFIGS", "_MODEL_CONFIG_PATHS"):
        monkeypatch.setattr(factory, registry, getattr(factory, registry).copy())
    factory.add_model_config(configs[name])
    torch.manual_seed(2)
    theirs = factory.create_model(name)
    mine = load_tower(configs[name], seed=2)
    assert type(mine.model) is type(theirs)
    state = theirs.state_dict()
    assert all(torch.equal(state[k], v) for k, v in mine.model.state_dict().items())
    preprocess = theirs.visual.preprocess_cfg
    assert mine.preprocess == {k: list(v) if isinstance(v, tuple) else v for k, v in preprocess.items()}


def test_a_name_with_siglip_in_it_is_only_a_name(configs: dict[str, Path]) -> None:
    tower = load_tower(configs["tiny-siglip"], seed=0)
    assert tower.score(candidates([tower]), 8).image.shape == (5, 32)


def test_a_second_level_gives_the_preprocessing(tmp_path: Path) -> None:
    preprocess = {"mean": 0.5, "std": [0.5, 0.5, 0.5], "resize_mode": "squash", "interpolation": "bilinear"}
    path = write_config(tmp_path / "two.json", {"model_cfg": CONFIGS["plain"], "preprocess_cfg": preprocess})
    tower = load_tower(path)
    assert (tower.view.mode, tower.view.interpolation) == ("squash", "bilinear")
    assert tower.mean.flatten().tolist() == [0.5, 0.5, 0.5]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "model config"),
        ("[]", r"broken\.json.*JSON"),
        ('{"embed_dim": 4}', "'vision_cfg'.*missing"),
        ('{"embed_dim": 4, "vision_cfg": 3, "text_cfg": {}}', "'vision_cfg'"),
        ('{"embed_dim": 4, "vision_cfg": {"no_such": 1}, "text_cfg": {}}', "no_such"),
        ('{"embed_dim": 4, "vision_cfg": {"timm_model_name": "nope"}, "text_cfg": {}}', "nope"),
        ('{"embed_dim": 4, "vision_cfg": {"timm_model_name": "hf-hub:x/y"}, "text_cfg": {}}', "hub"),
        ('{"embed_dim": 4, "vision_cfg": {}, "text_cfg": {"hf_model_name": "bert"}}', "download"),
    ],
)
def test_broken_configs(tmp_path: Path, content: str, words: str) -> None:
    path = tmp_path / "broken.json"
    path.write_text(content)
    with pytest.raises(AcedError, match=words):
        load_tower(path)


def test_pretrained_parts_are_never_fetched(tmp_path: Path) -> None:
    vision = {"timm_model_name": "resnet10t", "timm_model_pretrained": True, "image_size": 32}
    config = {**CONFIGS["plain"], "vision_cfg": vision}
    assert load_tower(write_config(tmp_path / "timm.json", config)).width == 32


# -- checkpoints ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["safetensors", "pt", "wrapped", "open_clip_train", "compiled"])
def test_local_checkpoints(configs: dict[str, Path], tmp_path: Path, kind: str) -> None:
    source = load_tower(configs["custom"], seed=11)
    state = source.model.state_dict()
    path = tmp_path / ("w.safetensors" if kind == "safetensors" else "w.pt")
    if kind == "safetensors":
        save_file(state, path)
    else:
        content: object = {
            "pt": state,
            "wrapped": {f"module.{k}": v for k, v in state.items()},
            "compiled": {f"module._orig_mod.{k}": v for k, v in state.items()},
            "open_clip_train": {"epoch": 1, "name": "x", "state_dict": state, "optimizer": {"lr": 0.1}},
        }[kind]
        torch.save(content, path)
    loaded = load_tower(configs["custom"], checkpoint=path, seed=0)
    assert _same(loaded, source)
    assert loaded.fingerprint() == source.fingerprint()


def test_a_plain_clip_checkpoint_in_a_model_with_its_own_text_tower(tmp_path: Path) -> None:
    plain = load_tower(write_config(tmp_path / "a.json", CONFIGS["plain"]), seed=1).eval()
    config = {**CONFIGS["plain"], "custom_text": True, "init_logit_bias": -10}
    torch.save(plain.model.state_dict(), tmp_path / "w.pt")
    custom = load_tower(write_config(tmp_path / "b.json", config), checkpoint=tmp_path / "w.pt").eval()
    assert torch.equal(custom.embed_text(["a red cat"]), plain.embed_text(["a red cat"]))
    assert custom.model.logit_bias.item() == 0.0


class _Evil:
    def __reduce__(self) -> tuple[object, ...]:
        return (os.system, ("true",))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("missing.pt", None, r"checkpoint .*missing\.pt"),
        ("evil.pt", {"state_dict": _Evil()}, "tensors"),
        ("empty.pt", {}, "state dict"),
        ("list.pt", [1, 2], "state dict"),
        ("strays.pt", {"a": torch.ones(1), "epoch": 3}, "'epoch'"),
        ("noise.pt", b"not a checkpoint at all", "read|file"),
        ("noise.safetensors", b"not a checkpoint at all", "read"),
        ("zero.pt", b"", "empty"),
    ],
)
def test_bad_checkpoints(tmp_path: Path, name: str, content: object, words: str) -> None:
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(AcedError, match=words) as caught:
        load_tower("aced-demo-s", checkpoint=path)
    assert name in str(caught.value)


def test_weights_that_do_not_fit(tmp_path: Path, demo: Tower) -> None:
    state = demo.model.state_dict()
    path = tmp_path / "w.pt"
    torch.save(state, path)
    with pytest.raises(AcedError, match=r"'aced-demo-m'.*64.*96.*\d+ more"):
        load_tower("aced-demo-m", checkpoint=path)
    for change, words in (
        ({"extra": torch.ones(1)}, "extra"),
        ({"logit_scale": None}, "logit_scale.*file"),
        (
            {"text.ln_final.weight": torch.ones(7)},
            "text.ln_final.weight.* 7 .* 64",
        ),
    ):
        torch.save({k: v for k, v in {**state, **change}.items() if v is not None}, path)
        with pytest.raises(AcedError, match=words):
            load_tower("aced-demo-s", checkpoint=path)


# -- folders -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["plain", "custom", "tiny-siglip", "coca", "demo"])
def test_save_and_load_is_bit_equal(towers: dict[str, Tower], name: str, tmp_path: Path) -> None:
    tower = towers[name]
    save_tower(tower, tmp_path / "deep" / "model")
    loaded = load_tower(tmp_path / "deep" / "model").eval()
    assert _same(loaded, tower)
    assert (loaded.name, loaded.view, loaded.preprocess, loaded.config, loaded.width) == (
        tower.name,
        tower.view,
        tower.preprocess,
        tower.config,
        tower.width,
    )
    assert loaded.fingerprint() == tower.fingerprint()
    pairs = candidates([tower])
    assert torch.equal(loaded.score(pairs, 8).image, tower.score(pairs, 8).image)
    assert torch.equal(loaded.score(pairs, 8).text, tower.score(pairs, 8).text)


def test_a_saved_demo_model_keeps_its_own_words(demo: Tower, tmp_path: Path, monkeypatch) -> None:
    from aced.models import tokenizers

    save_tower(demo, tmp_path)
    monkeypatch.setattr(tokenizers, "word_lists", lambda: {450: ("other", "words")})
    assert load_tower(tmp_path).tokenizer.words == demo.tokenizer.words


def test_a_hugging_face_tokenizer_goes_into_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Fake:
        """As open_clip's HFTokenizer, without the library behind it."""

        def __init__(self, source: str, context_length: int, **_: object) -> None:
            self.context_length = context_length
            self.encoder = json.loads((Path(source) / "words.json").read_text())

        def __call__(self, texts: list[str]) -> torch.Tensor:
            return torch.full((len(texts), self.context_length), self.encoder["end"])

        def save_pretrained(self, folder: Path) -> None:
            folder.mkdir(exist_ok=True)
            (folder / "words.json").write_text(json.dumps(self.encoder))

    monkeypatch.setattr(import_open_clip().tokenizer, "HFTokenizer", Fake)
    (tmp_path / "words").mkdir()
    (tmp_path / "words" / "words.json").write_text('{"end": 7}')
    text = {**CONFIGS["plain"]["text_cfg"], "hf_tokenizer_name": "words", "vocab_size": 8}
    tower = load_tower(write_config(tmp_path / "c.json", {**CONFIGS["plain"], "text_cfg": text}))
    save_tower(tower, tmp_path / "saved")
    (tmp_path / "words").rename(tmp_path / "gone")
    (tmp_path / "saved").rename(tmp_path / "moved")
    loaded = load_tower(tmp_path / "moved")
    assert isinstance(loaded.tokenizer, Fake)
    assert loaded.fingerprint() == tower.fingerprint()
    assert torch.equal(loaded.tokens(["a"]), tower.tokens(["a"]))


def test_a_checkpoint_takes_the_place_of_a_folders_weights(tmp_path: Path) -> None:
    first, second = (load_tower("aced-demo-s", seed=seed) for seed in (0, 1))
    save_tower(first, tmp_path / "a")
    save_tower(second, tmp_path / "b")
    assert _same(load_tower(tmp_path / "a", checkpoint=tmp_path / "b" / "model.safetensors"), second)


def test_saving_over_a_folder_and_half_overwritten_folders(tmp_path: Path) -> None:
    first, second = (load_tower("aced-demo-s", seed=seed) for seed in (0, 1))
    (tmp_path / "notes.txt").write_text("mine")
    save_tower(first, tmp_path)
    old = (tmp_path / "tower.json").read_text()
    save_tower(second, tmp_path)
    assert _same(load_tower(tmp_path), second)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "model.safetensors",
        "notes.txt",
        "tower.json",
        "vocabulary.txt",
    ]
    (tmp_path / "tower.json").write_text(old)
    with pytest.raises(AcedError, match="together"):
        load_tower(tmp_path)


def test_damaged_folders(demo: Tower, tmp_path: Path) -> None:
    save_tower(demo, tmp_path)
    description = json.loads((tmp_path / "tower.json").read_text())
    (tmp_path / "vocabulary.txt").unlink()
    with pytest.raises(AcedError, match="vocabulary"):
        load_tower(tmp_path)
    save_tower(demo, tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(AcedError, match="checkpoint"):
        load_tower(tmp_path)
    (tmp_path / "tower.json").write_text(json.dumps({**description, "format": 9}))
    with pytest.raises(AcedError, match="format 9"):
        load_tower(tmp_path)


def test_a_folder_that_cannot_be_written(demo: Tower, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(AcedError, match="write"):
        save_tower(demo, tmp_path / "file" / "model")


def test_open_clip_loads_the_saved_weights(demo: Tower, tmp_path: Path) -> None:
    save_tower(demo, tmp_path)
    open_clip = import_open_clip()
    model = open_clip.create_model("aced-demo-s", pretrained=str(tmp_path / "model.safetensors")).eval()
    batch = demo.pixels(images(2, 32))
    assert torch.equal(model.encode_image(batch, normalize=True), demo.eval().model.encode_image(batch, normalize=True))


def test_a_local_copy_of_a_hub_folder(demo: Tower, tmp_path: Path) -> None:
    (tmp_path / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": demo.config, "preprocess_cfg": {"resize_mode": "squash"}})
    )
    save_file(demo.model.state_dict(), tmp_path / "open_clip_model.safetensors")
    tower = load_tower(tmp_path)
    assert _same(tower, demo)
    assert tower.view.mode == "squash"
