"""Export for open_clip, as a folder or for the hub: `open_clip_config.json` and the weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from aced.errors import AcedError
from aced.export.agreement import Examples, check_equal, difference
from aced.files.atomic import save_tensors_atomic, write_atomic, writing
from aced.models import Tower
from aced.models.compat import import_open_clip
from aced.models.hub_folder import HUB_CONFIG, NAMES
from aced.models.recipes import WORDS_FILE
from aced.models.tokenizers import WordTokenizer


def write_open_clip(tower: Tower, folder: Path) -> float:
    """Fill an empty folder; returns the largest difference of an embedding after open_clip has loaded it.

    A word list and the architecture for aced are written beside the weights; open_clip does not read them.

    Raises:
        AcedError: open_clip cannot find the text tower in the folder, or returns other embeddings; the disk is full.
    """
    if tower.text_model is not None:
        raise AcedError(
            f"{tower.name}: its text tower comes from transformers, whose config open_clip seeks on the hub and not "
            "in the folder of the model; share the folder that 'aced train' wrote, which is complete."
        )
    config: dict[str, Any] = json.loads(json.dumps(tower.config))
    if isinstance(tower.tokenizer, WordTokenizer):
        write_atomic(folder / WORDS_FILE, "\n".join(tower.tokenizer.words) + "\n")
    elif hasattr(tower.tokenizer, "save_pretrained"):
        with writing(folder):
            tower.tokenizer.save_pretrained(folder)
        config["text_cfg"]["hf_tokenizer_name"] = "."  # in a folder, open_clip uses the folder itself, as aced does
    if config["vision_cfg"].get("timm_model_name"):
        config["vision_cfg"]["timm_model_pretrained"] = False
    save_tensors_atomic(folder / NAMES[0], {key: value.cpu() for key, value in tower.model.state_dict().items()})
    description = {"model_cfg": config, "preprocess_cfg": tower.preprocess}
    write_atomic(folder / HUB_CONFIG, json.dumps(description, indent=2) + "\n")
    found = _read_again(tower, folder)
    check_equal(found, "open_clip")
    return found


def _read_again(tower: Tower, folder: Path) -> float:
    """Load a folder as a user of open_clip would; see `difference`."""
    model, _, _ = import_open_clip().create_model_and_transforms(f"local-dir:{folder}")
    model.eval()
    return difference(Examples(tower), model.encode_image, model.encode_text)
