"""The decoder that sees nothing: trained as the others on the same texts, once for all encoders."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch

from aced.errors import AcedError
from aced.files.atomic import write_atomic
from aced.lab.lit.decoder import DecoderShape, make_decoder
from aced.lab.lit.decoder_training import DecoderSettings, train_decoder, write_texts
from aced.lab.lit.texts import Data
from aced.lab.lit.words import Vocabulary

_VERSION = 1


def blind_texts(
    cache: Path,
    data: Data,
    vocabulary: Vocabulary,
    shape: DecoderShape,
    settings: DecoderSettings,
    seed: int,
    beams: int,
    device: torch.device,
    tick: Callable[[int, int], None] | None = None,
) -> list[list[str]]:
    """What a decoder without sight writes for each test set; from the cache where the same one wrote before.

    It knows the questions and how often each text comes, and no encoder has a part in it: its texts are shared by all
    encoders that are compared on the same data.

    Raises:
        AcedError: the cached file is damaged, or the disk is full.
    """
    path = cache / "blind" / f"{_identity(data, vocabulary, shape, settings, seed, beams)}.json"
    if path.is_file():
        return _read(path, data)
    decoder = make_decoder(shape, len(vocabulary), 0, seed).to(device)
    train_decoder(decoder, vocabulary, data.train, None, settings, seed, tick)
    found = []
    for examples in data.test:
        caption = examples.kind == "caption"
        # Without sight every picture gets the same caption: one is enough.
        few = examples.only([0]) if caption else examples
        texts = write_texts(decoder, vocabulary, few, None, beams=beams if caption else 1)
        found.append(texts * len(examples) if caption else texts)
    write_atomic(path, json.dumps(found))
    return found


def _identity(
    data: Data, vocabulary: Vocabulary, shape: DecoderShape, settings: DecoderSettings, seed: int, beams: int
) -> str:
    digest = hashlib.sha256(
        json.dumps([_VERSION, asdict(shape), asdict(settings), seed, beams, vocabulary.words]).encode()
    )
    for examples in (*data.train, *data.test):
        facts = [examples.kind, list(examples.texts), list(examples.questions)]
        digest.update(json.dumps(facts).encode())
    return digest.hexdigest()[:24]


def _read(path: Path, data: Data) -> list[list[str]]:
    try:
        found = json.loads(path.read_bytes())
        fits = [len(texts) for texts in found] == [len(examples) for examples in data.test]
    except (OSError, ValueError, TypeError):
        fits = False
    if not fits:
        raise AcedError(f"{path} is damaged: delete it and run again.")
    return found
