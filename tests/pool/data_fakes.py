"""Small tars, and a source and a tower without images, for the tests of data."""

import io
import json
import tarfile
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from PIL import Image

from aced.core.embeddings import Embeddings
from aced.models.flops import Flops
from aced.pool.source import Candidates, Fault, Source
from aced.pool.views import View

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


class ListSource(Source):
    """A source of words without images; keys that end in `bad` are faulty."""

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
    width = 8
    device = torch.device("cpu")

    def __init__(
        self,
        weights: str = "weights",
        preprocessing: str = "pixels",
        tokenizer: str = "words",
        architecture: str = "plain",
    ) -> None:
        self.marks = {"weights": weights, "preprocessing": preprocessing, "tokenizer": tokenizer}
        self.architecture = architecture
        self.calls = 0

    def identity(self) -> dict[str, str]:
        contents = "-".join(self.marks.values())
        own = {"architecture": self.architecture, "contents": contents, "tower": f"{contents}-{self.architecture}"}
        return self.marks | own

    def scale_and_bias(self) -> tuple[torch.Tensor, float]:
        return torch.tensor(12.5), -4.0

    def score(self, candidates: Candidates, micro_batch: int) -> Embeddings:
        self.calls += 1
        seeds = [int.from_bytes(text.encode()[-6:], "little") for text in candidates.texts]
        rows = torch.stack([torch.randn(16, generator=torch.Generator().manual_seed(seed)) for seed in seeds])
        rows = torch.nn.functional.normalize(rows.view(-1, 2, 8), dim=2)
        return Embeddings(rows[:, 0], rows[:, 1], *self.scale_and_bias())

    def score_images(self, images: torch.Tensor, micro_batch: int) -> torch.Tensor:
        raise NotImplementedError("words have no pictures")

    def forward_flops(self, texts: Sequence[str]) -> float:
        return 1000.0

    def flops(self, text_length: int) -> Flops:
        return Flops(700, 300)
