"""An exported ONNX folder as a tower for evaluation."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aced.errors import AcedError
from aced.export.onnxfiles import FILE, FORMAT, KINDS, file_of, session_of
from aced.models.tokenizers import choose_tokenizer
from aced.models.tower import view_of


class OnnxTower:
    """The part of a tower that evaluation needs, run by onnxruntime on the CPU.

    Args:
        folder: written by `aced export --format onnx`.
        kind: `fp32` or `int8`.

    Attributes:
        name: of the model.
        view: the view of its images.
        device: the CPU.
        notes: sentences that a user should read.

    Raises:
        AcedError: the folder is damaged or from a later version, or onnxruntime is missing.
    """

    device = torch.device("cpu")
    notes: tuple[str, ...] = ()

    def __init__(self, folder: Path, kind: str = "fp32") -> None:
        if kind not in KINDS:
            raise AcedError(
                f"{folder}: its weights are {' and '.join(KINDS)}, but --checkpoint is '{kind}': choose one of them."
            )
        facts = _facts(folder)
        config, preprocess = facts["model_cfg"], facts["preprocess_cfg"]
        if config["text_cfg"].get("hf_tokenizer_name"):
            config["text_cfg"]["hf_tokenizer_name"] = str(folder)
        words = folder / facts["vocabulary"] if facts["vocabulary"] else None
        self.name, self.view = str(facts["name"]), view_of(str(facts["name"]), preprocess)
        length = int(config["text_cfg"].get("context_length", 77))
        self._tokenizer = choose_tokenizer(self.name, config["text_cfg"], length, words)
        self._mean, self._std = (torch.tensor(preprocess[key]).reshape(3, 1, 1) for key in ("mean", "std"))
        files = {side: file_of(side, kind) for side in ("image", "text")}
        self._image, self._text = (session_of(folder / file) for file in files.values())
        marks = [facts["files"][file] for file in files.values()]
        told = json.dumps([marks, preprocess, config["text_cfg"]], sort_keys=True).replace(str(folder), "")
        self._mark = hashlib.sha256(told.encode()).hexdigest()[:16]

    def identity(self) -> dict[str, str]:
        """As for a tower: it changes with the files and with the description of their inputs."""
        return {"tower": self._mark, "contents": ""}

    def embed_image(self, images: Tensor) -> Tensor:
        """`[B, 3, S, S]` uint8 to `[B, d]` of length 1."""
        return self._image(images.float().div(255).sub(self._mean).div(self._std))

    def embed_text(self, texts: list[str]) -> Tensor:
        """B texts to `[B, d]` of length 1."""
        return self._text(self._tokenizer(texts))


def is_onnx(model: str) -> bool:
    """Whether a name is an exported ONNX folder."""
    return (Path(model) / FILE).is_file()


def _facts(folder: Path) -> dict[str, Any]:
    try:
        facts = json.loads((folder / FILE).read_text(encoding="utf-8"))
        if facts["format"] != FORMAT:
            raise AcedError(f"{folder / FILE}: format {facts['format']!r} is unknown; update aced.")
        return dict(facts)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise AcedError(f"{folder / FILE} cannot be read ({error}); export the model again.") from None
