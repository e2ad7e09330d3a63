"""Export for Hugging Face's transformers: CLIPModel or SiglipModel with its tokenizer and image processor."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from aced.errors import AcedError
from aced.export.agreement import Examples, check_equal, difference
from aced.files.atomic import write_atomic, writing
from aced.models import Tower
from aced.models.compat import import_open_clip
from aced.models.layouts import as_transformers
from aced.models.text import trims
from aced.models.tokenizers import WordTokenizer

_BICUBIC, _BILINEAR = 3, 2


class NoCounterpart(Exception):
    """The reason why transformers has no counterpart of this model."""


def write_transformers(tower: Tower, folder: Path) -> tuple[str, float]:
    """Fill an empty folder.

    Returns:
        The class that loads it, and the largest difference of its embeddings.

    Raises:
        AcedError: transformers is not installed, has no counterpart of the model or its tokenizer, or returns other
            embeddings; the disk is full.
    """
    import_open_clip()  # before transformers, which imports torchvision
    with _refusing(tower):  # before the package is asked for, which would be installed in vain
        family, options = _family(tower)
        _check_tokenizer(tower)
    try:
        import transformers
    except ImportError:
        raise AcedError("--format transformers needs that package: run `pip install 'aced[transformers]'`.") from None
    with _quiet(transformers), torch.no_grad():
        with _refusing(tower):
            model = _counterpart(tower, transformers, family, options)
        tokenizer = _tokenizer(tower, transformers)
        with writing(folder):
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
        kind = type(model).__name__
        write_atomic(folder / "preprocessor_config.json", json.dumps(_pixels(tower, kind), indent=2) + "\n")
        found = _read_again(tower, folder, kind, transformers)
    check_equal(found, "transformers")
    return kind, found


@contextlib.contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """Silence transformers' own bars and advice, which do not concern users of `aced`."""
    log = transformers.utils.logging
    level, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity(log.CRITICAL)
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(level)
        if bars:
            log.enable_progress_bar()


@contextlib.contextmanager
def _refusing(tower: Tower) -> Iterator[None]:
    """Name the model to the user whose counterpart is missing."""
    try:
        yield
    except NoCounterpart as error:
        raise AcedError(f"{tower.name} has no counterpart in transformers: {error}.") from None


# -- weights -------------------------------------------------------------------------------------------------------


def _family(tower: Tower) -> tuple[str, dict[str, Any]]:
    """`Siglip` or `CLIP`, and the options of its config; known without the package."""
    trunk: Any = getattr(tower.model.visual, "trunk", None)
    siglip = trunk is not None
    if siglip and not all(hasattr(trunk, part) for part in ("blocks", "attn_pool", "patch_embed")):
        raise NoCounterpart(f"its vision tower is {type(trunk).__name__}, but SigLIP's is timm's with a pooling head")
    if siglip and not trunk.attn_pool:
        raise NoCounterpart("its vision tower does not pool by attention, as SigLIP's does")
    if not siglip and type(tower.model.visual).__name__ != "VisionTransformer":
        raise NoCounterpart(f"its vision tower is {type(tower.model.visual).__name__}, but CLIP's is a plain ViT")
    try:
        return ("Siglip", _siglip_config(tower)) if siglip else ("CLIP", _clip_config(tower))
    except (AttributeError, TypeError) as error:
        raise NoCounterpart(f"among its parts, {error}") from None


def _counterpart(tower: Tower, transformers: Any, name: str, options: dict[str, Any]) -> Any:
    """The model of transformers with a tower's weights; `name` and `options` as of `_family`."""
    siglip = name == "Siglip"
    try:
        config = getattr(transformers, f"{name}Config")(**options)
    except (AttributeError, TypeError) as error:
        raise NoCounterpart(f"among its parts, {error}") from None
    with torch.random.fork_rng(devices=[]):
        model = getattr(transformers, f"{name}Model")(config).eval()
    own = {key: value.detach().cpu() for key, value in as_transformers(tower.model.state_dict(), siglip=siglip).items()}
    if not siglip:
        own.pop("logit_bias", None)  # the same for all pairs; CLIPModel has none
    there = model.state_dict()
    odd = sorted(own.keys() ^ there.keys())
    wrong = [key for key in own.keys() & there.keys() if own[key].numel() != there[key].numel()]
    if odd or wrong:
        raise NoCounterpart(f"{name} has other weights, such as '{[*odd, *wrong][0]}'")
    model.load_state_dict({key: value.reshape(there[key].shape) for key, value in own.items()})
    return model


def _clip_config(tower: Tower) -> dict[str, Any]:
    visual: Any = tower.model.visual
    return {
        "projection_dim": tower.width,
        "vision_config": {
            **_blocks(visual.transformer),
            "image_size": tower.view.size,
            "patch_size": visual.patch_size[0],
            "projection_dim": tower.width,
        },
        "text_config": _text_config(tower)
        | {"projection_dim": tower.width, "eos_token_id": getattr(tower.tokenizer, "eot_token_id", 2)},
    }


def _siglip_config(tower: Tower) -> dict[str, Any]:
    trunk: Any = tower.model.visual.trunk  # type: ignore[union-attr]
    block = trunk.blocks[0]
    vision = {
        "hidden_size": trunk.embed_dim,
        "intermediate_size": block.mlp.fc1.out_features,
        "num_hidden_layers": len(trunk.blocks),
        "num_attention_heads": block.attn.num_heads,
        "hidden_act": _activation(block.mlp.act),
        "layer_norm_eps": block.norm1.eps,
        "image_size": tower.view.size,
        "patch_size": trunk.patch_embed.patch_size[0],
    }
    return {"vision_config": vision, "text_config": _text_config(tower) | {"projection_size": tower.width}}


def _text_config(tower: Tower) -> dict[str, Any]:
    text: Any = getattr(tower.model, "text", tower.model)
    return {
        **_blocks(text.transformer),
        "vocab_size": text.token_embedding.num_embeddings,
        "max_position_embeddings": text.positional_embedding.shape[0],
    }


def _blocks(transformer: Any) -> dict[str, Any]:
    block = transformer.resblocks[0]
    return {
        "hidden_size": transformer.width,
        "intermediate_size": block.mlp.c_fc.out_features,
        "num_hidden_layers": len(transformer.resblocks),
        "num_attention_heads": block.attn.num_heads,
        "hidden_act": _activation(block.mlp.gelu),
        "layer_norm_eps": block.ln_1.eps,
    }


def _activation(module: nn.Module) -> str:
    """transformers' name for an activation of open_clip or timm."""
    name = type(module).__name__
    if name == "GELU" and getattr(module, "approximate", "") == "tanh":
        return "gelu_pytorch_tanh"
    names = {"QuickGELU": "quick_gelu", "GELU": "gelu", "GELUTanh": "gelu_pytorch_tanh"}
    if name not in names:
        raise NoCounterpart(f"its activation is {name}")
    return names[name]


# -- inputs --------------------------------------------------------------------------------------------------------


def _check_tokenizer(tower: Tower) -> None:
    own: Any = tower.tokenizer
    if isinstance(own, WordTokenizer):
        raise NoCounterpart("its tokenizer is a word list of aced")
    if not hasattr(own, "save_pretrained") and not trims(tower.model):
        raise NoCounterpart(
            "its texts are padded with 0, which CLIP's tokenizer does not do there, and it does not mask padding"
        )


def _tokenizer(tower: Tower, transformers: Any) -> Any:
    own: Any = tower.tokenizer
    if hasattr(own, "save_pretrained"):
        return own.tokenizer
    names = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    vocabulary = {names.get(piece, piece): number for piece, number in own.encoder.items()}
    return transformers.CLIPTokenizer(
        vocab=vocabulary, merges=list(own.bpe_ranks), model_max_length=tower.context_length
    )


def _pixels(tower: Tower, kind: str) -> dict[str, Any]:
    """`preprocessor_config.json`: the tower's own preprocessing in transformers' terms."""
    side, squash = tower.view.size, tower.view.mode == "squash"
    square = {"height": side, "width": side}
    siglip = {"image_processor_type": "SiglipImageProcessor"}
    clip = {"image_processor_type": "CLIPImageProcessor", "do_center_crop": not squash, "crop_size": square}
    return (siglip if squash and kind == "SiglipModel" else clip) | {
        "do_resize": True,
        "size": square if squash else {"shortest_edge": side},
        "resample": _BILINEAR if tower.view.interpolation == "bilinear" else _BICUBIC,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": tower.mean.flatten().tolist(),
        "image_std": tower.std.flatten().tolist(),
        "do_convert_rgb": True,
    }


# -- the check -----------------------------------------------------------------------------------------------------


def _read_again(tower: Tower, folder: Path, kind: str, transformers: Any) -> float:
    """Load the folder as a user of transformers would; see `difference`. Other ids count as infinitely far."""
    model: Any = getattr(transformers, kind).from_pretrained(folder)
    model.eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    examples = Examples(tower)
    clean = getattr(tower.tokenizer, "clean_fn", None) if kind == "SiglipModel" else None
    captions = [clean(text) for text in examples.captions] if clean else examples.captions
    options = {"padding": "max_length", "max_length": tower.context_length, "truncation": True, "return_tensors": "pt"}
    ids = tokenizer(captions, **options)["input_ids"]
    if kind == "SiglipModel":
        same = torch.equal(ids, examples.ids)
    else:  # CLIP's two tokenizers pad differently after the end of a text, where it has no effect
        ended = examples.ids.cumsum(1) == examples.ids.sum(1, keepdim=True)
        ended[:, 1:] = ended[:, :-1].clone()
        same = bool(((ids == examples.ids) | ended).all())
    if not same:
        return float("inf")

    def image(pixels: Tensor) -> Tensor:
        return _rows(model.get_image_features(pixel_values=pixels))

    return difference(examples, image, lambda ids: _rows(model.get_text_features(input_ids=ids)))


def _rows(found: Any) -> Tensor:
    """The features, which later versions wrap."""
    return found if isinstance(found, Tensor) else found.pooler_output
