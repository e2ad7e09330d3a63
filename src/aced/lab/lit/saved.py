"""A trained decoder on disk: weights, sizes, words, and the encoder that it belongs to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file

from aced.errors import AcedError
from aced.files.atomic import save_tensors_atomic, write_atomic
from aced.lab.lit.decoder import DecoderShape, TextDecoder, describe, make_decoder
from aced.lab.lit.words import SPECIALS, Vocabulary
from aced.models import Tower

FORMAT = 1
_WEIGHTS, _FACTS = "decoder.safetensors", "decoder.json"


def save_decoder(folder: Path, decoder: TextDecoder, vocabulary: Vocabulary, tower: Tower) -> None:
    """Write `decoder.safetensors` and `decoder.json`, each as a whole.

    Raises:
        AcedError: the disk is full or the folder cannot be written.
    """
    save_tensors_atomic(folder / _WEIGHTS, decoder.state_dict())
    facts = {
        "format": FORMAT,
        **describe(decoder),
        "tower": tower.name,
        "tower_fingerprint": tower.fingerprint(),
        "special": SPECIALS,
        "words": vocabulary.words,
    }
    write_atomic(folder / _FACTS, json.dumps(facts))


def load_decoder(folder: Path, tower: Tower) -> tuple[TextDecoder, Vocabulary]:
    """The decoder in a folder, in evaluation mode, and its words.

    Raises:
        AcedError: there is none, it is damaged, or it belongs to another encoder than `tower`.
    """
    try:
        facts: dict[str, Any] = json.loads((folder / _FACTS).read_bytes())
        if facts["format"] != FORMAT or tuple(facts["special"]) != SPECIALS:
            raise AcedError(f"{folder} holds a decoder of another version of aced: train it again.")
        fingerprint = facts["tower_fingerprint"]
        vocabulary = Vocabulary(facts["words"])
        sizes = {name: facts[name] for name in ("layers", "width", "heads", "max_length", "dropout")}
        decoder = make_decoder(DecoderShape(**sizes), len(vocabulary), facts["memory_width"], 0)
        decoder.load_state_dict(load_file(folder / _WEIGHTS))
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".:")
        raise AcedError(f"The decoder in {folder} cannot be read ({reason}): train it again with aced lit.") from None
    identity = tower.identity()
    if fingerprint not in (identity["tower"], identity["contents"]):  # older versions recorded the second
        raise AcedError(
            f"The decoder in {folder} was trained on another encoder than '{tower.name}': its weights differ; name "
            f"that encoder ({facts['tower']}), or train a decoder on this one."
        )
    return decoder.to(tower.device).eval(), vocabulary
