"""Texts whose scores are known, small data, and a run with a model."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

REFERENCES: list[tuple[str, ...]] = [
    ("a black dog runs on the green grass", "the dog is running", "a dog with a red ball runs through grass"),
    ("two men play a guitar on a stage", "a man and another man with guitars", "musicians play on stage"),
    ("a child in a pink dress climbs up stairs", "a girl going into a wooden building", "the girl climbs"),
    ("a man rides a bike down the hill", "the biker is on a hill", "a man in a helmet on a bike on a trail"),
    ("a dog and a cat play in the snow", "two animals in snow", "the white dog jumps over the snow"),
    ("people sit on a bench near the beach", "three people on a bench look at the sea", "people at the beach"),
]
WRITTEN = [
    "a black dog runs through the grass",
    "two men play on a stage",
    "a girl in a pink dress climbs the stairs the stairs the stairs",
    "a man rides a bike",
    "a brown dog runs in the snow",
    "a bird",
]


def jpeg(colour: tuple[int, int, int], side: int = 40, kind: str = "JPEG") -> bytes:
    """A picture of one colour with a lighter corner."""
    pixels = np.full((side, side, 3), colour, dtype=np.uint8)
    pixels[: side // 2, : side // 2] = 250
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format=kind)
    return file.getvalue()


def write_tar(path: Path, members: Sequence[tuple[str, bytes]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def caption_tars(folder: Path, count: int = 12) -> Path:
    """Training pairs, every third of source "b"."""
    members: list[tuple[str, bytes]] = []
    for i in range(count):
        key, source = f"{i:09d}", "b" if i % 3 == 0 else "a"
        members += [
            (f"{key}.jpg", jpeg((20 * i, 90, 30))),
            (f"{key}.txt", f"a square number {i % 4} of {source}".encode()),
            (f"{key}.json", json.dumps({"source": source}).encode()),
        ]
    write_tar(folder / "00000.tar", members)
    return folder


def caption_task(folder: Path, count: int = 4, kind: str = "retrieval") -> Path:
    """A test of captions, three for each picture."""
    members: list[tuple[str, bytes]] = []
    for i in range(count):
        texts = f"a square number {i}\nthe square of number {i}\nsquare {i} in a corner\n"
        members += [(f"{i:04d}.jpg", jpeg((20, 50 * i, 30))), (f"{i:04d}.txt", texts.encode())]
    write_tar(folder / "test/0.tar", members)
    (folder / "dataset_type.txt").write_text(kind, encoding="utf-8")
    return folder


def easy_vqa(folder: Path, packed: bool = True) -> Path:
    """Questions as easy-VQA has them."""
    for split in ("train", "test"):
        colours = [(200, 20, 20), (20, 20, 200)]
        questions = [["what color is it?", "red", 0], ["what color is it?", "blue", 1], ["is it red?", "no", 1]]
        files = [(f"{split}/images/{i}.png", jpeg(colour, 64, "PNG")) for i, colour in enumerate(colours)]
        files.append((f"{split}/questions.json", json.dumps(questions).encode()))
        if packed:
            write_tar(folder / f"{split}.tar.gz", files)
            continue
        for name, content in files:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
    return folder
