"""The blind decoder: trained like the others on the same texts but without images, once for all encoders."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from aced.errors import AcedError
from aced.files.atomic import write_atomic
from aced.lab.lit.decoder import DecoderShape, make_decoder
from aced.lab.lit.decoder_training import DecoderSettings, train_decoder, write_texts
from aced.lab.lit.texts import Data
from aced.lab.lit.words import Vocabulary

_VERSION = 1


@dataclass(frozen=True)
class DecoderPlan:
    """A decoder to train and run.

    Attributes:
        shape: its sizes.
        settings: its training.
        seed: of its initial weights, the order of the examples and the dropout.
        beams: width of the beam search for captions; 1 is greedy.
    """

    shape: DecoderShape
    settings: DecoderSettings
    seed: int = 0
    beams: int = 4


def blind_texts(
    cache: Path,
    data: Data,
    vocabulary: Vocabulary,
    plan: DecoderPlan,
    device: torch.device,
    tick: Callable[[int, int], None] | None = None,
) -> list[list[str]]:
    """A blind decoder's texts for each test set; from the cache if the same decoder has written them before.

    It knows the questions and how often each text occurs, and uses no encoder, so its texts are shared by all encoders
    that are compared on the same data.

    Raises:
        AcedError: the cached file is damaged, or the disk is full.
    """
    path = cache / "blind" / f"{_identity(data, vocabulary, plan)}.json"
    if path.is_file():
        return _read(path, data)
    decoder = make_decoder(plan.shape, len(vocabulary), 0, plan.seed).to(device)
    train_decoder(decoder, vocabulary, data.train, None, plan.settings, plan.seed, tick)
    found = []
    for examples in data.test:
        caption = examples.kind == "caption"
        # Without sight every image gets the same caption: one is enough.
        few = examples.only([0]) if caption else examples
        texts = write_texts(decoder, vocabulary, few, None, beams=plan.beams if caption else 1)
        found.append(texts * len(examples) if caption else texts)
    write_atomic(path, json.dumps(found))
    return found


def _identity(data: Data, vocabulary: Vocabulary, plan: DecoderPlan) -> str:
    how = [asdict(plan.shape), asdict(plan.settings), plan.seed, plan.beams]
    digest = hashlib.sha256(json.dumps([_VERSION, *how, vocabulary.words]).encode())
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
