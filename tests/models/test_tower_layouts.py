"""Checkpoints of other libraries and older formats, against forward passes in their own words."""

from __future__ import annotations

import json
import pickle
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from test_tower_checkpoints import SMALL, State, is_loaded, load, under
from tower_fakes import write_config

from aced.errors import AcedError
from aced.models import import_open_clip, load_tower
from aced.models.torchscript import read_torchscript

LAYERS, WIDTH, HEADS, PATCH, SIDE, LENGTH, VOCABULARY = 2, 16, 2, 8, 16, 12, 450
CLIP: dict[str, Any] = {
    "embed_dim": 8,
    "vision_cfg": {"image_size": SIDE, "layers": LAYERS, "width": WIDTH, "head_width": 8, "patch_size": PATCH},
    "text_cfg": {
        "context_length": LENGTH,
        "vocab_size": VOCABULARY,
        "width": WIDTH,
        "heads": HEADS,
        "layers": LAYERS,
    },
}
SIGLIP: dict[str, Any] = {
    "embed_dim": WIDTH,
    "custom_text": True,
    "vision_cfg": {"image_size": SIDE, "timm_model_name": "aced_test_siglip", "timm_pool": "map", "timm_proj": "none"},
    "text_cfg": {**CLIP["text_cfg"], "no_causal_mask": True, "proj_bias": True, "pool_type": "last"},
}


@pytest.fixture(scope="module", autouse=True)
def _siglips_image_tower() -> None:
    import_open_clip()
    import timm.models

    def build(pretrained: bool = False, **options: Any) -> torch.nn.Module:
        shape: dict[str, Any] = {"img_size": SIDE, "patch_size": PATCH, "embed_dim": WIDTH, "depth": LAYERS}
        known = {key: value for key, value in options.items() if key in ("num_classes", "global_pool")}
        return timm.models.VisionTransformer(**shape, num_heads=HEADS, class_token=False, **known)

    build.__name__, build.__module__ = "aced_test_siglip", __name__
    if not timm.models.is_model("aced_test_siglip"):
        timm.models.register_model(build)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_config(tmp_path_factory.mktemp("clip") / "clip.json", CLIP)


@pytest.fixture(scope="module")
def siglip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_config(tmp_path_factory.mktemp("siglip") / "siglip.json", SIGLIP)


# -- transformers ------------------------------------------------------------------------------------------------


def _tower(name: str, tokens: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {f"{name}.embeddings.position_embedding.weight": (tokens, WIDTH)}
    for number in range(LAYERS):
        layer = f"{name}.encoder.layers.{number}."
        linear = dict.fromkeys((f"self_attn.{part}_proj" for part in ("q", "k", "v", "out")), (WIDTH, WIDTH))
        linear |= {"mlp.fc1": (4 * WIDTH, WIDTH), "mlp.fc2": (WIDTH, 4 * WIDTH)}
        for part, shape in linear.items():
            shapes |= {f"{layer}{part}.weight": shape, f"{layer}{part}.bias": shape[:1]}
        for norm in ("layer_norm1", "layer_norm2"):
            shapes |= {f"{layer}{norm}.weight": (WIDTH,), f"{layer}{norm}.bias": (WIDTH,)}
    return shapes


def _norm(name: str) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (WIDTH,), f"{name}.bias": (WIDTH,)}


def _drawn(shapes: dict[str, tuple[int, ...]]) -> State:
    generator = torch.Generator().manual_seed(3)
    return {name: torch.randn(shape, generator=generator) * 0.3 for name, shape in shapes.items()}


def transformers_clip() -> State:
    """A state dict as `transformers.CLIPModel` has it."""
    return _drawn(
        {
            **_tower("text_model", LENGTH),
            **_tower("vision_model", 1 + (SIDE // PATCH) ** 2),
            **_norm("text_model.final_layer_norm"),
            **_norm("vision_model.pre_layrnorm"),
            **_norm("vision_model.post_layernorm"),
            "text_model.embeddings.token_embedding.weight": (VOCABULARY, WIDTH),
            "vision_model.embeddings.class_embedding": (WIDTH,),
            "vision_model.embeddings.patch_embedding.weight": (WIDTH, 3, PATCH, PATCH),
            "text_projection.weight": (8, WIDTH),
            "visual_projection.weight": (8, WIDTH),
            "logit_scale": (),
        }
    ) | {"text_model.embeddings.position_ids": torch.arange(LENGTH)[None]}


def transformers_siglip() -> State:
    """A state dict as `transformers.SiglipModel` has it."""
    head = "vision_model.head."
    return _drawn(
        {
            **_tower("text_model", LENGTH),
            **_tower("vision_model", (SIDE // PATCH) ** 2),
            **_norm("text_model.final_layer_norm"),
            **_norm("vision_model.post_layernorm"),
            **_norm(f"{head}layernorm"),
            "text_model.embeddings.token_embedding.weight": (VOCABULARY, WIDTH),
            "text_model.head.weight": (WIDTH, WIDTH),
            "text_model.head.bias": (WIDTH,),
            "vision_model.embeddings.patch_embedding.weight": (WIDTH, 3, PATCH, PATCH),
            "vision_model.embeddings.patch_embedding.bias": (WIDTH,),
            f"{head}probe": (1, 1, WIDTH),
            f"{head}attention.in_proj_weight": (3 * WIDTH, WIDTH),
            f"{head}attention.in_proj_bias": (3 * WIDTH,),
            f"{head}attention.out_proj.weight": (WIDTH, WIDTH),
            f"{head}attention.out_proj.bias": (WIDTH,),
            f"{head}mlp.fc1.weight": (4 * WIDTH, WIDTH),
            f"{head}mlp.fc1.bias": (4 * WIDTH,),
            f"{head}mlp.fc2.weight": (WIDTH, 4 * WIDTH),
            f"{head}mlp.fc2.bias": (WIDTH,),
            "logit_scale": (1,),
            "logit_bias": (1,),
        }
    )


class Words:
    """transformers' forward passes in their own words, on one sample."""

    def __init__(self, state: State, epsilon: float) -> None:
        self.state, self.epsilon = state, epsilon

    def linear(self, name: str, x: torch.Tensor) -> torch.Tensor:
        return x @ self.state[f"{name}.weight"].T + self.state.get(f"{name}.bias", torch.zeros(()))

    def norm(self, name: str, x: torch.Tensor) -> torch.Tensor:
        return F.layer_norm(x, (WIDTH,), self.state[f"{name}.weight"], self.state[f"{name}.bias"], self.epsilon)

    def attend(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        heads = [part.reshape(len(part), HEADS, -1).transpose(0, 1) for part in (q, k, v)]
        scores = heads[0] @ heads[1].transpose(1, 2) / (WIDTH // HEADS) ** 0.5 + mask
        return (scores.softmax(-1) @ heads[2]).transpose(0, 1).reshape(len(q), WIDTH)

    def encode(self, name: str, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        for number in range(LAYERS):
            layer = f"{name}.encoder.layers.{number}."
            y = self.norm(f"{layer}layer_norm1", x)
            q, k, v = (self.linear(f"{layer}self_attn.{part}_proj", y) for part in "qkv")
            x = x + self.linear(f"{layer}self_attn.out_proj", self.attend(q, k, v, mask))
            y = F.gelu(self.linear(f"{layer}mlp.fc1", self.norm(f"{layer}layer_norm2", x)))
            x = x + self.linear(f"{layer}mlp.fc2", y)
        return x

    def patches(self, image: torch.Tensor) -> torch.Tensor:
        name = "vision_model.embeddings.patch_embedding"
        found = F.conv2d(image[None], self.state[f"{name}.weight"], self.state.get(f"{name}.bias"), stride=PATCH)
        return found[0].flatten(1).T

    def tokens(self, ids: torch.Tensor) -> torch.Tensor:
        places = self.state["text_model.embeddings.position_embedding.weight"]
        return self.state["text_model.embeddings.token_embedding.weight"][ids] + places

    def clip(self, image: torch.Tensor, ids: torch.Tensor) -> list[torch.Tensor]:
        first = self.state["vision_model.embeddings.class_embedding"][None]
        places = self.state["vision_model.embeddings.position_embedding.weight"]
        x = self.norm("vision_model.pre_layrnorm", torch.cat([first, self.patches(image)]) + places)
        x = self.encode("vision_model", x, torch.zeros(()))
        seen = self.linear("visual_projection", self.norm("vision_model.post_layernorm", x[0]))
        y = self.encode("text_model", self.tokens(ids), torch.full((LENGTH, LENGTH), -torch.inf).triu(1))
        y = self.norm("text_model.final_layer_norm", y)
        return [seen, self.linear("text_projection", y[ids.argmax()])]

    def siglip(self, image: torch.Tensor, ids: torch.Tensor) -> list[torch.Tensor]:
        x = self.patches(image) + self.state["vision_model.embeddings.position_embedding.weight"]
        x = self.norm("vision_model.post_layernorm", self.encode("vision_model", x, torch.zeros(())))
        head = "vision_model.head."
        weights = self.state[f"{head}attention.in_proj_weight"].chunk(3)
        biases = self.state[f"{head}attention.in_proj_bias"].chunk(3)
        q, k, v = (
            of @ weight.T + bias
            for of, weight, bias in zip((self.state[f"{head}probe"][0], x, x), weights, biases, strict=True)
        )
        z = self.linear(f"{head}attention.out_proj", self.attend(q, k, v, torch.zeros(())))
        y = F.gelu(self.linear(f"{head}mlp.fc1", self.norm(f"{head}layernorm", z)))
        seen = (z + self.linear(f"{head}mlp.fc2", y))[0]
        told = self.encode("text_model", self.tokens(ids), torch.zeros(()))
        return [seen, self.linear("text_model.head", self.norm("text_model.final_layer_norm", told)[-1])]


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_transformers_layout_computes_the_same(kind: str, clip: Path, siglip: Path, tmp_path: Path) -> None:
    state = transformers_clip() if kind == "clip" else transformers_siglip()
    save_file(state, tmp_path / "model.safetensors")
    model = load(clip if kind == "clip" else siglip, tmp_path / "model.safetensors").eval().model
    generator = torch.Generator().manual_seed(1)
    image = torch.randn(3, SIDE, SIDE, generator=generator)
    ids = torch.randint(1, VOCABULARY, (LENGTH,), generator=generator)
    words = Words(state, 1e-5 if kind == "clip" else 1e-6)
    if kind == "siglip":
        model.text.ln_final.eps = 1e-6
        for block in model.text.transformer.resblocks:
            block.ln_1.eps = block.ln_2.eps = 1e-6
    with torch.no_grad():
        seen, told = model.encode_image(image[None])[0], model.encode_text(ids[None])[0]
    wanted = words.clip(image, ids) if kind == "clip" else words.siglip(image, ids)
    torch.testing.assert_close(seen, wanted[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(told, wanted[1], rtol=1e-4, atol=1e-5)
    own = model.state_dict()
    assert all(float(own[key]) == float(state[key]) for key in ("logit_scale", "logit_bias") if key in state)


def test_transformers_layout_in_wrappers_and_in_another_form_of_text_tower(clip: Path, tmp_path: Path) -> None:
    state = transformers_clip()
    torch.save({"state_dict": under("model.", state)}, tmp_path / "w.ckpt")
    save_file(state, tmp_path / "w.safetensors")
    plain = load(clip, tmp_path / "w.safetensors").model.state_dict()
    assert is_loaded(load(clip, tmp_path / "w.ckpt"), dict(plain))
    custom = write_config(tmp_path / "custom.json", {**CLIP, "custom_text": True})
    own = load(custom, tmp_path / "w.safetensors").model.state_dict()
    assert all(torch.equal(own[name if name in own else f"text.{name}"], value) for name, value in plain.items())


@pytest.mark.parametrize("missing", ["text_model.final_layer_norm.weight", "text_model.encoder.layers.1.mlp.fc2.bias"])
def test_a_part_of_transformers_layout_is_refused(missing: str, clip: Path, tmp_path: Path) -> None:
    state = transformers_clip()
    del state[missing]
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(AcedError, match=r"ln_final\.weight|resblocks\.1\.mlp\.c_proj\.bias"):
        load(clip, tmp_path / "w.safetensors")


def test_siglips_weights_do_not_fit_a_clip(clip: Path, tmp_path: Path) -> None:
    save_file(transformers_siglip(), tmp_path / "w.safetensors")
    with pytest.raises(AcedError, match="fit"):
        load(clip, tmp_path / "w.safetensors")


# -- big_vision ----------------------------------------------------------------------------------------------------


def big_vision() -> dict[str, np.ndarray[Any, Any]]:
    """Arrays as Google publishes them, layers stacked as its later models have them not."""
    generator = np.random.default_rng(0)
    shapes: dict[str, tuple[int, ...]] = {
        "img/embedding/kernel": (PATCH, PATCH, 3, WIDTH),
        "img/embedding/bias": (WIDTH,),
        "img/pos_embedding": (1, (SIDE // PATCH) ** 2, WIDTH),
        "img/MAPHead_0/probe": (1, 1, WIDTH),
        "txt/Embed_0/embedding": (VOCABULARY, WIDTH),
        "txt/pos_embedding": (1, LENGTH, WIDTH),
        "txt/head/kernel": (WIDTH, WIDTH),
        "txt/head/bias": (WIDTH,),
        "b": (1,),
        "t": (1,),
    }

    def norm(name: str) -> None:
        shapes.update({f"{name}/scale": (WIDTH,), f"{name}/bias": (WIDTH,)})

    def attention(name: str) -> None:
        for part in ("query", "key", "value"):
            shapes.update({f"{name}/{part}/kernel": (WIDTH, HEADS, WIDTH // HEADS)})
            shapes.update({f"{name}/{part}/bias": (HEADS, WIDTH // HEADS)})
        shapes.update({f"{name}/out/kernel": (HEADS, WIDTH // HEADS, WIDTH), f"{name}/out/bias": (WIDTH,)})

    def mlp(name: str) -> None:
        shapes.update({f"{name}/Dense_0/kernel": (WIDTH, 4 * WIDTH), f"{name}/Dense_0/bias": (4 * WIDTH,)})
        shapes.update({f"{name}/Dense_1/kernel": (4 * WIDTH, WIDTH), f"{name}/Dense_1/bias": (WIDTH,)})

    for encoder in ("img/Transformer", "txt/Encoder_0"):
        norm(f"{encoder}/encoder_norm")
        for number in range(LAYERS):
            block = f"{encoder}/encoderblock_{number}"
            norm(f"{block}/LayerNorm_0")
            norm(f"{block}/LayerNorm_1")
            attention(f"{block}/MultiHeadDotProductAttention_0")
            mlp(f"{block}/MlpBlock_0")
    attention("img/MAPHead_0/MultiHeadDotProductAttention_0")
    norm("img/MAPHead_0/LayerNorm_0")
    mlp("img/MAPHead_0/MlpBlock_0")
    return {f"params/{name}": generator.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


@pytest.mark.parametrize("bias", [None, -10])
def test_big_visions_arrays_are_loaded_as_open_clip_does(bias: float | None, siglip: Path, tmp_path: Path) -> None:
    arrays = big_vision()
    np.savez(tmp_path / "siglip.npz", **arrays, **{"opt/count": np.zeros(3)})
    config = write_config(tmp_path / "s.json", SIGLIP if bias is None else {**SIGLIP, "init_logit_bias": bias})
    tower = load(config, tmp_path / "siglip.npz")
    theirs = load_tower(write_config(tmp_path / "t.json", {**SIGLIP, "init_logit_bias": -10}), seed=1).model
    import_open_clip().convert.load_big_vision_weights(theirs, str(tmp_path / "siglip.npz"))
    assert is_loaded(tower, dict(theirs.state_dict()))
    assert float(tower.model.state_dict()["logit_bias"]) == float(arrays["params/b"][0])
    torch.testing.assert_close(
        tower.model.state_dict()["visual.trunk.blocks.1.mlp.fc1.weight"],
        torch.from_numpy(arrays["params/img/Transformer/encoderblock_1/MlpBlock_0/Dense_0/kernel"].T),
    )


def test_arrays_of_another_model_are_refused(clip: Path, siglip: Path, tmp_path: Path) -> None:
    arrays = big_vision()
    np.savez(tmp_path / "whole.npz", **arrays)
    deeper = {name.replace("encoderblock_1", "encoderblock_2"): value for name, value in arrays.items()}
    np.savez(tmp_path / "deeper.npz", **arrays | deeper)  # the library would leave the third layer out
    np.savez(tmp_path / "renamed.npz", **{k.replace("MAPHead_0/probe", "MAPHead_0/prob"): v for k, v in arrays.items()})
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    np.savez(tmp_path / "objects.npz", **arrays | {"params/b": np.array([{}], dtype=object)})
    for name, model in {
        "whole": clip,
        "deeper": siglip,
        "renamed": siglip,
        "other": siglip,
        "objects": siglip,
    }.items():
        with pytest.raises(AcedError, match=rf"{name}\.npz"):
            load(model, tmp_path / f"{name}.npz")


# -- TorchScript -----------------------------------------------------------------------------------------------------


class Block(torch.nn.Module):
    """A module as OpenAI's are: weights in half precision, a mask that is no buffer, numbers as buffers."""

    def __init__(self, state: State) -> None:
        super().__init__()
        for name, value in state.items():
            inner: torch.nn.Module = self
            for part in name.split(".")[:-1]:
                if not hasattr(inner, part):
                    inner.add_module(part, torch.nn.Module())
                inner = getattr(inner, part)
            inner.register_parameter(name.rpartition(".")[2], torch.nn.Parameter(value.half()))
        self.register_buffer("input_resolution", torch.tensor(16))
        self.register_buffer("context_length", torch.tensor(16))
        self.register_buffer("vocab_size", torch.tensor(450))
        self.attn_mask = torch.zeros(3, 3)
        self.sizes = [1, 2]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.attn_mask


@pytest.fixture
def archive(tmp_path: Path) -> tuple[Path, State]:
    state = dict(load_tower(write_config(tmp_path / "small.json", SMALL), seed=5).model.state_dict())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(Block(state)), str(tmp_path / "b32.pt"))
    return tmp_path / "b32.pt", state


def test_a_torchscript_archive_gives_its_state_dict_and_runs_nothing(
    archive: tuple[Path, State], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, state = archive
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wanted = torch.jit.load(str(path)).state_dict()
    monkeypatch.setattr(torch.jit, "load", None)
    found = read_torchscript(path)
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], value) and found[name].dtype == value.dtype for name, value in wanted.items())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tower = load(tmp_path / "small.json", path)
    assert is_loaded(tower, {name: value.half() for name, value in state.items()})
    assert any("QuickGELU" in note for note in tower.notes)


class Evil:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return exec, ("raise SystemExit('it ran')",)


@pytest.mark.parametrize("code", [Evil(), {"a": Evil()}])
def test_a_pickle_with_more_than_tensors_in_such_an_archive_is_refused(
    code: Any, archive: tuple[Path, State], tmp_path: Path
) -> None:
    with zipfile.ZipFile(archive[0]) as old, zipfile.ZipFile(tmp_path / "evil.pt", "w") as new:
        for name in old.namelist():
            new.writestr(name, pickle.dumps(code) if name.endswith("/data.pkl") else old.read(name))
    with pytest.raises(AcedError, match=r"evil\.pt.*builtins\.exec"):
        load(tmp_path / "small.json", tmp_path / "evil.pt")


def test_an_archive_that_lacks_numbers_is_refused(archive: tuple[Path, State], tmp_path: Path) -> None:
    with zipfile.ZipFile(archive[0]) as old, zipfile.ZipFile(tmp_path / "less.pt", "w") as new:
        for name in old.namelist():
            if not name.endswith("data/1"):
                new.writestr(name, old.read(name))
    with pytest.raises(AcedError, match=r"less\.pt"):
        load(tmp_path / "small.json", tmp_path / "less.pt")
    with zipfile.ZipFile(archive[0]) as old, zipfile.ZipFile(tmp_path / "short.pt", "w") as new:
        for name in old.namelist():
            content = old.read(name)
            new.writestr(name, content[:2] if name.endswith("data/1") else content)
    with pytest.raises(AcedError, match=r"short\.pt"):
        load(tmp_path / "small.json", tmp_path / "short.pt")


# -- one of several sets -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "factor"), [("", 1), ("state_dict", 1), ("ema", 2), ("ema.model", 2), ("gone", 0), ("model", 0)]
)
def test_a_key_chooses_one_of_several_sets(key: str, factor: int, tmp_path: Path) -> None:
    config = write_config(tmp_path / "small.json", SMALL)
    state = dict(load_tower(config, seed=5).model.state_dict())
    doubled = {name: 2 * value for name, value in state.items()}
    torch.save({"state_dict": under("model.", state), "ema": under("model.", doubled)}, tmp_path / "w#1.pt")
    chosen = f"{tmp_path / 'w#1.pt'}#{key}" if key else str(tmp_path / "w#1.pt")
    if factor == 0:
        with pytest.raises(AcedError, match=rf"'{key}'.*'state_dict\.model', 'ema\.model'"):
            load_tower(config, chosen)
        return
    tower = load_tower(config, chosen)
    assert is_loaded(tower, state if factor == 1 else doubled)
    assert any("#ema" in note for note in tower.notes) == (not key)
    assert json.dumps(tower.config)
