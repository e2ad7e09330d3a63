"""Small tars, and a source and a tower without images, for the tests of data."""

import io
import json
import tarfile
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from PIL import Image

from aced.core.embeddings import Embeddings
from aced.data.source import Candidates, Fault
from aced.data.views import View

Members = Iterable[tuple[str, bytes]]


def picture(number: int, form: str = "JPEG", size: tuple[int, int] = (40, 30)) -> bytes:
    """A small smooth image file whose pixels depend on `number`."""
    seeds = np.random.default_rng(number).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(seeds).resize(size, Image.Resampling.BICUBIC).save(out, form)
    return out.getvalue()


def pairs(count: int, start: int = 0) -> list[tuple[str, bytes]]:
    """Members of `count` whole samples as img2dataset writes them."""
    members = []
    for number in range(start, start + count):
        meta = {"caption": f"json caption {number}", "kind": "clean" if number % 2 else "junk"}
        members += [
            (f"{number:05d}.jpg", picture(number)),
            (f"{number:05d}.json", json.dumps(meta).encode()),
            (f"{number:05d}.txt", f"caption {number}".encode()),
        ]
    return members


def tar_bytes(members: Members, form: int = tarfile.USTAR_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


class ListSource:
    """A source of words without images; keys that end in `bad` are faulty."""

    kinds = None

    def __init__(self, keys: Sequence[str], fingerprint: str = "words") -> None:
        self.name = "words"
        self.keys: Sequence[str] = list(keys)
        self.fingerprint = fingerprint

    def __len__(self) -> int:
        return len(self.keys)

    def read(self, indices: Sequence[int], views: Sequence[View]) -> Candidates:
        good = [i for i in indices if not self.keys[i].endswith("bad")]
        return Candidates(
            indices=torch.tensor(good, dtype=torch.int64),
            texts=[self.keys[i] for i in good],
            images={view: torch.zeros(len(good), 3, view.size, view.size, dtype=torch.uint8) for view in views},
            faults=tuple(Fault(self.keys[i], "bad_word", "a bad word") for i in indices if i not in good),
        )


class WordTower:
    """A tower whose embeddings depend on the text alone."""

    name = "words-8"
    view = View(8)

    def __init__(self, mark: str = "tower") -> None:
        self.mark = mark
        self.calls = 0

    def fingerprint(self) -> str:
        return self.mark

    def score(self, candidates: Candidates, micro_batch: int) -> Embeddings:
        self.calls += 1
        seeds = [int.from_bytes(text.encode()[-6:], "little") for text in candidates.texts]
        rows = torch.stack([torch.randn(16, generator=torch.Generator().manual_seed(seed)) for seed in seeds])
        rows = torch.nn.functional.normalize(rows.view(-1, 2, 8), dim=2)
        return Embeddings(rows[:, 0], rows[:, 1], scale=torch.tensor(12.5), bias=-4.0)
