"""Export as ONNX: image and text tower separately, in fp32 and with 8-bit weights, and a description of the inputs."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aced.errors import AcedError
from aced.export.agreement import Examples, check_equal, difference
from aced.files.atomic import write_atomic, writing
from aced.models import Tower
from aced.models.recipes import WORDS_FILE
from aced.models.tokenizers import WordTokenizer

FILE, FORMAT = "aced_onnx.json", 1
KINDS = ("fp32", "int8")
SIDES = {"image": "pixel_values", "text": "input_ids"}
"""The towers and the name of each one's input."""
_OPSET = 18
# Convolutions stay in fp32: in 8 bits onnxruntime computes them more slowly.
_QUANTISED = ["MatMul", "Gather"]


def file_of(side: str, kind: str) -> str:
    """The name of a tower's file."""
    return f"{side}.onnx" if kind == "fp32" else f"{side}.{kind}.onnx"


class _Side(nn.Module):
    """One tower, with embeddings of length 1."""

    def __init__(self, encode: Callable[[Tensor], Tensor], model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self._encode = encode

    def forward(self, inputs: Tensor) -> Tensor:
        """Pixels `[B, 3, S, S]` or ids `[B, T]` to `[B, d]`."""
        return F.normalize(self._encode(inputs), dim=-1)


def write_onnx(tower: Tower, folder: Path) -> dict[str, float]:
    """Fill an empty folder; the tower must be on a CPU and in evaluation mode.

    Returns:
        The largest difference of an embedding by onnxruntime in fp32, and the lowest cosine in int8.

    Raises:
        AcedError: a package is missing, torch cannot export the model as ONNX, its embeddings differ; the disk is full.
    """
    write_graphs(tower, folder)
    examples = Examples(tower)
    found = difference(examples, *_encoders(folder, "fp32"))
    check_equal(found, "onnxruntime")
    image, text = _encoders(folder, "int8")
    rows = ((image(examples.pixels), examples.image), (text(examples.ids), examples.text))
    cosine = min(float((F.normalize(own, dim=-1) * wanted).sum(1).min()) for own, wanted in rows)
    _write_tokenizer(tower, folder)
    with torch.no_grad():
        scale, bias = tower.scale_and_bias()
    facts = {
        "format": FORMAT,
        "name": tower.name,
        "model_cfg": _portable(tower),
        "preprocess_cfg": tower.preprocess,
        "inputs": _inputs(tower),
        "logit_scale": float(scale),
        "logit_bias": float(bias),
        "vocabulary": WORDS_FILE if isinstance(tower.tokenizer, WordTokenizer) else None,
        "files": {file_of(side, kind): _mark(folder / file_of(side, kind)) for side in SIDES for kind in KINDS},
        "checked": {"fp32_largest_difference": found, "int8_lowest_cosine": cosine},
    }
    write_atomic(folder / FILE, json.dumps(facts, indent=2) + "\n")
    return {"difference": found, "cosine": cosine}


def write_graphs(tower: Tower, folder: Path) -> None:
    """Write only the four files.

    Raises:
        AcedError: as `write_onnx`.
    """
    try:
        import onnxruntime.quantization as quantization
        import onnxscript  # noqa: F401 - torch's exporter needs it
    except ImportError as error:
        raise AcedError(f"ONNX needs a package ({error.name}): run `pip install 'aced[onnx]'`.") from None
    model: Any = tower.model
    side = tower.view.size
    examples = {"image": torch.zeros(2, 3, side, side), "text": tower.tokenizer(["a dog", "a red sofa"])}
    with _quiet(), torch.no_grad(), writing(folder):
        for name, encode in (("image", model.encode_image), ("text", model.encode_text)):
            whole, small = (folder / file_of(name, kind) for kind in KINDS)
            try:
                torch.onnx.export(
                    _Side(encode, model).eval(),
                    (examples[name],),
                    whole,
                    input_names=[SIDES[name]],
                    output_names=[f"{name}_embedding"],
                    dynamic_shapes={"inputs": {0: torch.export.Dim("batch", min=1)}},
                    opset_version=_OPSET,
                    dynamo=True,
                    external_data=False,
                    verbose=False,
                )
            except (torch.onnx.errors.OnnxExporterError, ValueError) as error:
                reason = str(error).strip().splitlines()[0]
                raise AcedError(f"{tower.name}: torch cannot write its {name} tower as ONNX: {reason}") from error
            quantization.quantize_dynamic(
                whole, small, weight_type=quantization.QuantType.QInt8, op_types_to_quantize=_QUANTISED
            )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the advice of the exporter and the quantiser, which does not concern users of `aced`."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def session_of(path: Path) -> Callable[[Tensor], Tensor]:
    """An exported file as a function of a CPU tensor, run by onnxruntime with torch's number of threads.

    Raises:
        AcedError: onnxruntime is not installed, or cannot read the file.
    """
    try:
        import onnxruntime
    except ImportError:
        raise AcedError("ONNX needs onnxruntime: run `pip install 'aced[onnx]'`.") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = torch.get_num_threads(), 3
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its own classes share no other base
        raise AcedError(f"{path}: onnxruntime cannot read it: {str(error).splitlines()[0]}") from None
    name = session.get_inputs()[0].name
    return lambda inputs: torch.from_numpy(session.run(None, {name: inputs.numpy()})[0])


def _encoders(folder: Path, kind: str) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
    image, text = (session_of(folder / file_of(side, kind)) for side in SIDES)
    return image, text


# -- what the inputs need ------------------------------------------------------------------------------------------


def _portable(tower: Tower) -> dict[str, Any]:
    """The config without paths of this machine."""
    config: dict[str, Any] = json.loads(json.dumps(tower.config))
    if hasattr(tower.tokenizer, "save_pretrained"):
        config["text_cfg"]["hf_tokenizer_name"] = "."
    return config


def _write_tokenizer(tower: Tower, folder: Path) -> None:
    """The word list, the files of transformers' tokenizer, or CLIP's pieces and merges."""
    own: Any = tower.tokenizer
    if isinstance(own, WordTokenizer):
        write_atomic(folder / WORDS_FILE, "\n".join(own.words) + "\n")
    elif hasattr(own, "save_pretrained"):
        with writing(folder):
            own.save_pretrained(folder)
    else:
        write_atomic(folder / "vocab.json", json.dumps(own.encoder, ensure_ascii=False))
        lines = ["#version: 0.2", *(" ".join(pair) for pair in own.bpe_ranks)]
        write_atomic(folder / "merges.txt", "\n".join(lines) + "\n")


def _inputs(tower: Tower) -> dict[str, str]:
    """In words, for an implementation of the preprocessing in another language."""
    view = tower.view
    how = (
        f"resize to {view.size} x {view.size} ({view.interpolation})"
        if view.mode == "squash"
        else f"resize the shorter side to {view.size} ({view.interpolation}), crop the centre {view.size} x {view.size}"
    )
    mean, std = (values.flatten().tolist() for values in (tower.mean, tower.std))
    if isinstance(tower.tokenizer, WordTokenizer):
        texts = (
            f"lower; ids 1 to 256 are bytes, then the lines of {WORDS_FILE}, then the end; see aced.models.tokenizers"
        )
    elif hasattr(tower.tokenizer, "save_pretrained"):
        clean = getattr(getattr(tower.tokenizer, "clean_fn", None), "__name__", "none")
        texts = f"the tokenizer of transformers in this folder, after open_clip's cleaning '{clean}'"
    else:
        texts = "CLIP's byte pair encoding by vocab.json and merges.txt: lower, <start_of_text>, pieces, <end_of_text>"
    return {
        SIDES["image"]: f"float32 [B, 3, {view.size}, {view.size}]: RGB; {how}; divide by 255; mean {mean}, std {std}",
        SIDES["text"]: f"int64 [B, {tower.context_length}]: {texts}; padded with 0 at the end",
        "score": "logit_scale * image_embedding @ text_embedding.T + logit_bias; embeddings have length 1",
    }


def _mark(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]
