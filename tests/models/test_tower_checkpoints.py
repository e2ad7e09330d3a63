"""Checkpoints as the field writes them: wrappers, prefixes, formats; loaded right, or refused with what to do."""

from __future__ import annotations

import argparse
import gzip
import io
import json
import pickle
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tower_fakes import CONFIGS, write_config

from aced.errors import AcedError
from aced.models import Tower, load_tower

State = dict[str, torch.Tensor]

SMALL: dict[str, Any] = {
    "embed_dim": 8,
    "vision_cfg": {"image_size": 16, "layers": 1, "width": 8, "head_width": 8, "patch_size": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 450, "width": 8, "heads": 1, "layers": 1},
}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_config(tmp_path_factory.mktemp("small") / "small.json", SMALL)


@pytest.fixture(scope="module")
def state(config: Path) -> State:
    return dict(load_tower(config, seed=5).model.state_dict())


@pytest.fixture(scope="module")
def custom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model with a text tower of its own, whose names begin with `text.`."""
    return write_config(tmp_path_factory.mktemp("custom") / "custom.json", {**SMALL, "custom_text": True})


def load(config: Path, path: Path) -> Tower:
    return load_tower(config, checkpoint=path, seed=0)


def is_loaded(tower: Tower, state: State) -> bool:
    own = tower.model.state_dict()
    return own.keys() == state.keys() and all(torch.equal(own[name], state[name].float()) for name in state)


def under(prefix: str, state: State) -> State:
    return {prefix + name: value for name, value in state.items()}


def halved(state: State) -> State:
    return {name: value / 2 for name, value in state.items()}


def fsdp(state: State) -> State:
    """Names as FSDP and compilation of a submodule leave them, in the middle too."""
    return {
        "_fsdp_wrapped_module." + name.replace("visual.", "visual._orig_mod._checkpoint_wrapped_module."): value
        for name, value in state.items()
    }


# -- one set of weights ------------------------------------------------------------------------------------------


ALONE: dict[str, Callable[[State], Any]] = {
    "model": lambda s: {"model": s},
    "model and optimizer": lambda s: {"model": s, "optimizer": {}},
    "model_ema": lambda s: {"model_ema": s},
    "net": lambda s: {"net": s, "epoch": 3},
    "params": lambda s: {"params": s},
    "any other key": lambda s: {"my_weights": s, "args": {"lr": 0.1}},
    "two keys deep": lambda s: {"checkpoint": {"state_dict": s}},
    "averaged": lambda s: under("module.", s) | {"n_averaged": torch.tensor(5)},
    "deepspeed": lambda s: {"module": s, "buffer_names": [], "global_steps": 7, "ds_version": "0.14"},
    "deepspeed forward": lambda s: under("_forward_module.", s),
    "fsdp": fsdp,
    "compiled ddp": lambda s: under("_orig_mod.module.", s),
    "lightning": lambda s: {"state_dict": under("model.", s), "hyper_parameters": {"lr": 1e-4}},
    "lightning, deeper": lambda s: {"state_dict": under("student.clip.", s), "epoch": 1},
    "a flat file with a number": lambda s: {**s, "epoch": 3},
    "openai's keys": lambda s: (
        s | {key: torch.tensor(16) for key in ("input_resolution", "context_length", "vocab_size")}
    ),
    "with an optimizer's moments": lambda s: {
        "model": s,
        "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": [{"params": [0]}]},
        "ema": {"decay": torch.tensor(0.9)},
    },
    "optimizer by names": lambda s: {
        "model": s,
        "optimizer": {"state": {name: {"exp_avg": value, "step": torch.ones(())} for name, value in s.items()}},
    },
    "moments of the model's names": lambda s: {"my_weights": s, "optimizer": {"exp_avg": s, "exp_avg_sq": s}},
    "half": lambda s: {name: value.half() for name, value in s.items()},
    "bfloat16": lambda s: {"model": {name: value.bfloat16() for name, value in s.items()}},
}


@pytest.mark.parametrize("kind", ALONE)
def test_the_only_state_dict_of_a_file_is_taken(kind: str, config: Path, state: State, tmp_path: Path) -> None:
    torch.save(ALONE[kind](state), tmp_path / "w.pt")
    precision = {"half": torch.float16, "bfloat16": torch.bfloat16}.get(kind, torch.float32)
    wanted = {name: value.to(precision) for name, value in state.items()}
    tower = load(config, tmp_path / "w.pt")
    assert is_loaded(tower, wanted)
    assert not any("several" in note for note in tower.notes)


@pytest.mark.parametrize("kind", ["lightning", "fsdp", "model_ema", "deepspeed"])
def test_the_same_in_a_model_with_its_own_text_tower(kind: str, custom: Path, tmp_path: Path) -> None:
    state = dict(load_tower(custom, seed=6).model.state_dict())
    torch.save(ALONE[kind](state), tmp_path / "w.pt")
    assert is_loaded(load(custom, tmp_path / "w.pt"), state)


def test_plain_clips_names_in_wrappers_fit_a_model_with_its_own_text_tower(
    custom: Path, state: State, tmp_path: Path
) -> None:
    torch.save({"state_dict": under("model.", state)}, tmp_path / "w.pt")
    own = load(custom, tmp_path / "w.pt").model.state_dict()
    assert all(torch.equal(own[name if name in own else f"text.{name}"], value) for name, value in state.items())


# -- several sets ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "taken", "left"),
    [
        (lambda s: {"state_dict": s, "state_dict_ema": halved(s)}, "state_dict", "state_dict_ema"),
        (lambda s: {"state_dict_ema": halved(s), "state_dict": s}, "state_dict", "state_dict_ema"),
        (lambda s: {"model_ema": halved(s), "model": s}, "model", "model_ema"),
        (lambda s: {"ema": halved(s), "net": s}, "net", "ema"),
        (
            lambda s: {"state_dict": under("model.", s) | under("ema_model.", halved(s))},
            "state_dict.model",
            "ema_model",
        ),
        (
            lambda s: {"state_dict": under("model.", s), "ema": under("model.", halved(s))},
            "state_dict.model",
            "ema.model",
        ),
        (lambda s: s | under("teacher.", halved(s)), "file", "teacher"),
    ],
)
def test_of_several_sets_the_model_itself_is_taken_and_told(
    content: Callable[[State], Any], taken: str, left: str, config: Path, state: State, tmp_path: Path
) -> None:
    torch.save(content(state), tmp_path / "w.pt")
    tower = load(config, tmp_path / "w.pt")
    assert is_loaded(tower, state)
    (note,) = [note for note in tower.notes if "several" in note]
    assert taken in note
    assert left in note
    assert "w.pt" in note


@pytest.mark.parametrize(
    "content",
    [
        lambda s: {"student": s, "teacher": halved(s)},
        lambda s: {"state_dict": under("student.", s) | under("teacher.", halved(s))},
        lambda s: under("a.", s) | under("b.", halved(s)),
        lambda s: {"student": under("model.", s), "teacher": halved(s)},
    ],
)
def test_several_models_of_which_none_is_the_one_are_refused(
    content: Callable[[State], Any], config: Path, state: State, tmp_path: Path
) -> None:
    made = content(state)
    torch.save(made, tmp_path / "w.pt")
    with pytest.raises(AcedError, match=r"student.*teacher|'a', 'b'"):
        load(config, tmp_path / "w.pt")


def test_a_set_of_another_model_is_no_candidate(config: Path, state: State, tmp_path: Path) -> None:
    other = {"backbone.conv.weight": torch.ones(2), "backbone.fc.weight": torch.ones(2)}
    torch.save({"discriminator": other, "generator": state}, tmp_path / "w.pt")
    assert is_loaded(load(config, tmp_path / "w.pt"), state)


def test_what_lies_beside_a_prefix_is_told(config: Path, state: State, tmp_path: Path) -> None:
    torch.save({"state_dict": under("model.", state) | {"sink_temp": torch.ones(1)}}, tmp_path / "last.ckpt")
    tower = load(config, tmp_path / "last.ckpt")
    assert is_loaded(tower, state)
    assert any("state_dict.model" in note and "sink_temp" in note for note in tower.notes)


# -- the logit bias ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(), (1,)])
def test_a_model_gets_the_bias_that_its_file_has(
    shape: tuple[int, ...], config: Path, state: State, tmp_path: Path
) -> None:
    torch.save(state | {"logit_bias": torch.full(shape, -7.5)}, tmp_path / "b.pt")
    tower = load(config, tmp_path / "b.pt")
    assert float(tower.model.state_dict()["logit_bias"]) == -7.5
    assert isinstance(tower.model.logit_bias, torch.nn.Parameter)
    assert tower.config["init_logit_bias"] == -7.5
    named = write_config(tmp_path / "named.json", {**SMALL, "init_logit_bias": -10})
    assert load(named, tmp_path / "b.pt").fingerprint() == tower.fingerprint()
    assert tower.fingerprint() != load_tower(config, seed=5).fingerprint()


def test_a_missing_bias_starts_at_zero_and_is_told(config: Path, state: State, tmp_path: Path) -> None:
    torch.save(state, tmp_path / "w.pt")
    tower = load(write_config(tmp_path / "named.json", {**SMALL, "init_logit_bias": -10}), tmp_path / "w.pt")
    assert float(tower.model.state_dict()["logit_bias"]) == 0
    assert any("logit_bias" in note for note in tower.notes)


# -- formats -----------------------------------------------------------------------------------------------------


def test_numbers_of_numpy_are_harmless(config: Path, state: State, tmp_path: Path) -> None:
    numbers = {"lr": np.float64(0.1), "step": np.int64(3), "scale": np.float32(2), "done": np.bool_(True)}
    torch.save({"state_dict": under("module.", state), "optimizer": {"param_groups": [numbers]}}, tmp_path / "w.pt")
    assert is_loaded(load(config, tmp_path / "w.pt"), state)
    with pytest.raises(pickle.UnpicklingError):  # and only while a checkpoint is read
        torch.load(tmp_path / "w.pt", weights_only=True)


def test_files_of_numpy_1_name_another_module(config: Path, state: State, tmp_path: Path) -> None:
    torch.save({"state_dict": state, "lr": np.float64(0.1)}, tmp_path / "new.pt")
    with zipfile.ZipFile(tmp_path / "new.pt") as old, zipfile.ZipFile(tmp_path / "w.pt", "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name.endswith("data.pkl"):
                assert b"numpy._core.multiarray" in content or b"numpy.core.multiarray" in content
                content = content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
            new.writestr(name, content)
    assert is_loaded(load(config, tmp_path / "w.pt"), state)


@pytest.mark.parametrize("name", ["w.pt", "w.bin", "w.ckpt", "weights"])
def test_safetensors_are_known_by_what_is_in_them(name: str, config: Path, state: State, tmp_path: Path) -> None:
    save_file(state, tmp_path / name)
    assert is_loaded(load(config, tmp_path / name), state)


def test_a_torch_file_under_another_name(config: Path, state: State, tmp_path: Path) -> None:
    torch.save(state, tmp_path / "w.safetensors")
    assert is_loaded(load(config, tmp_path / "w.safetensors"), state)


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_weights_in_several_files(suffix: str, config: Path, state: State, tmp_path: Path) -> None:
    names = sorted(state)
    files = [f"model-{i:05d}-of-00002.{suffix}" for i in (1, 2)]
    where = {name: files[number % 2] for number, name in enumerate(names)}
    for file in files:
        part = {name: state[name] for name in names if where[name] == file}
        save_file(part, tmp_path / file) if suffix == "safetensors" else torch.save(part, tmp_path / file)
    index = tmp_path / f"model.{suffix}.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": where}))
    assert is_loaded(load(config, index), state)
    with pytest.raises(AcedError, match=r"file 1 of 2.*index"):
        load(config, tmp_path / files[0])
    (tmp_path / files[1]).unlink()
    with pytest.raises(AcedError, match=f"{files[1]}"):
        load(config, index)


def zipped(name: str, content: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr(name, content)
    return out.getvalue()


def torch_bytes(content: Any) -> bytes:
    out = io.BytesIO()
    torch.save(content, out)
    return out.getvalue()


def npz() -> bytes:
    out = io.BytesIO()
    np.savez(out, **{"params/b": np.zeros(1)})
    return out.getvalue()


ONE = {"a.b": torch.ones(300)}


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("w.pt", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "git lfs pull"),
        ("w.safetensors", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "git lfs pull"),
        ("w.pt", b"<!DOCTYPE html><html></html>", "web page"),
        ("w.bin", b"", "empty"),
        ("w.pt.gz", gzip.compress(torch_bytes(ONE)), "gzip"),
        ("w.zip", zipped("folder/w.pt", torch_bytes(ONE)), r"zip.*folder/w\.pt"),
        ("w.npz", npz(), "numpy"),
        ("w.onnx", b"\x08\x07\x12\x07pytorch", "ONNX"),
        ("flax_model.msgpack", b"\x82\xa5", "Flax"),
        ("tf_model.h5", b"\x89HDF\r\n\x1a\n" + bytes(99), "HDF5"),
        ("w.gguf", b"GGUF" + bytes(99), "GGUF"),
        ("w.pt", torch_bytes(ONE)[:900], "cut"),
        ("optimizer.pt", torch_bytes({"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": []}), "weights"),
        ("args.pt", torch_bytes({"args": argparse.Namespace(lr=1), "model": ONE}), r"argparse\.Namespace"),
        ("moments.pt", torch_bytes({"exp_avg": {"visual.proj": torch.ones(2)}}), "weights"),
        ("w.pt", torch_bytes({"loss": 3.0}), "weights"),
        ("w.pt.index.json", b"{}", "index"),
    ],
)
def test_what_is_no_checkpoint_gets_the_sentence_that_helps(
    name: str, content: bytes, words: str, config: Path, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(AcedError, match=words) as caught:
            load(config, tmp_path / name)
    assert name in str(caught.value)
    assert "weights_only=False" not in str(caught.value) or "trust" in str(caught.value)


@pytest.mark.parametrize("missing", [1, 100])
def test_a_cut_safetensors_file(missing: int, config: Path, state: State, tmp_path: Path) -> None:
    save_file(state, tmp_path / "w.safetensors")
    content = (tmp_path / "w.safetensors").read_bytes()
    (tmp_path / "w.safetensors").write_bytes(content[:-missing])
    with pytest.raises(AcedError, match=r"w\.safetensors.*cut"):
        load(config, tmp_path / "w.safetensors")
    (tmp_path / "w.safetensors").write_bytes(content[:100])
    with pytest.raises(AcedError, match=r"w\.safetensors.*cut"):
        load(config, tmp_path / "w.safetensors")


def test_folders_in_the_place_of_a_file(config: Path, state: State, tmp_path: Path) -> None:
    (tmp_path / "ds").mkdir()
    (tmp_path / "ds" / "mp_rank_00_model_states.pt").write_bytes(torch_bytes(state))
    with pytest.raises(AcedError, match=r"mp_rank_00_model_states\.pt"):
        load(config, tmp_path / "ds")
    (tmp_path / "ds" / ".metadata").write_bytes(b"")
    with pytest.raises(AcedError, match="dcp_to_torch"):
        load(config, tmp_path / "ds")
    (tmp_path / "hub").mkdir()
    write_config(tmp_path / "hub" / "open_clip_config.json", {"model_cfg": SMALL})
    with pytest.raises(AcedError, match="model"):
        load(config, tmp_path / "hub")


def test_a_tag_in_the_place_of_a_file(config: Path) -> None:
    for tag in ("openai", "laion2b_s34b_b79k", "LAION2B-s34b-b79k"):
        with pytest.raises(AcedError, match=f"'{tag}'.*(ViT-B-32|RN50)"):
            load(config, Path(tag))


# -- misfits -----------------------------------------------------------------------------------------------------


def test_transformers_layout_is_named(config: Path, tmp_path: Path) -> None:
    state = {
        "text_model.embeddings.token_embedding.weight": torch.zeros(8, 8),
        "vision_model.embeddings.class_embedding": torch.zeros(8),
        "logit_scale": torch.tensor(1.0),
    }
    for name, content in {"hf": state, "llava": under("model.vision_tower.", state)}.items():
        save_file(content, tmp_path / f"{name}.safetensors")
        with pytest.raises(AcedError, match=r"transformers.*open_clip"):
            load(config, tmp_path / f"{name}.safetensors")


def test_another_image_size_or_text_length_is_named(config: Path, state: State, tmp_path: Path) -> None:
    larger = {**SMALL, "vision_cfg": {**SMALL["vision_cfg"], "image_size": 32}}
    torch.save(load_tower(write_config(tmp_path / "l.json", larger), seed=1).model.state_dict(), tmp_path / "l.pt")
    with pytest.raises(AcedError, match=r"image_size to 32"):
        load(config, tmp_path / "l.pt")
    longer = {**SMALL, "text_cfg": {**SMALL["text_cfg"], "context_length": 24}}
    torch.save(load_tower(write_config(tmp_path / "t.json", longer), seed=1).model.state_dict(), tmp_path / "t.pt")
    with pytest.raises(AcedError, match=r"context_length to 24"):
        load(config, tmp_path / "t.pt")


def test_a_state_dict_of_another_width_is_refused_by_its_first_weights(config: Path, tmp_path: Path) -> None:
    other = load_tower(write_config(tmp_path / "o.json", CONFIGS["plain"]), seed=1).model.state_dict()
    torch.save({"state_dict": under("model.", dict(other))}, tmp_path / "o.pt")
    with pytest.raises(AcedError, match=r"'small'.*positional_embedding"):
        load(config, tmp_path / "o.pt")
