"""Small evaluation tasks on disk, the same bytes wherever they are written."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from aced.pool.views import View

MODEL = {
    "embed_dim": 64,
    "vision_cfg": {"image_size": 64, "layers": 3, "width": 96, "patch_size": 16, "head_width": 32},
    "text_cfg": {"context_length": 24, "vocab_size": 49408, "width": 96, "heads": 3, "layers": 3},
}
"""The model of the comparison with CLIP_benchmark, initialised after `torch.manual_seed(0)`."""

WORDS = [
    "red",
    "green",
    "blue",
    "small",
    "large",
    "round",
    "square",
    "old",
    "new",
    "dark",
    "bright",
    "wet",
    "dry",
    "tall",
    "flat",
    "soft",
]


def picture(number: int, form: str = "JPEG") -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (30, 20), (40 * number % 256, 90, 200 - 30 * number)).save(out, form)
    return out.getvalue()


def noise(rng: np.random.Generator) -> bytes:
    """A PNG of coarse coloured noise, of a random size."""
    height, width = rng.integers(40, 100, size=2)
    pixels = rng.integers(0, 256, size=(height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).resize((int(width), int(height)), Image.Resampling.BICUBIC).save(out, "PNG")
    return out.getvalue()


def array(*values: int) -> bytes:
    out = io.BytesIO()
    np.save(out, np.array(values))
    return out.getvalue()


def write_tar(path: Path, members: list[tuple[str, bytes]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def write_task(folder: Path, members: list[tuple[str, bytes]], **texts: str) -> Path:
    """A task of one tar; `texts` are the .txt files, by stem."""
    write_tar(folder / "test" / "0.tar", members)
    (folder / "test" / "nshards.txt").write_text("1")
    for stem, text in texts.items():
        (folder / f"{stem}.txt").write_text(text)
    return folder


def prompts(classes: int) -> dict[str, str]:
    names = "\n".join(f"{WORDS[i % 16]} {WORDS[(3 * i + 1) % 16]} thing" for i in range(classes))
    return {"classnames": names, "zeroshot_classification_templates": "a photo of a {c}.\n{c}\na Drawing of the {c}"}


def write_golden(folder: Path) -> dict[str, Path]:
    """One task of each kind that CLIP_benchmark reads from tars."""
    rng = np.random.default_rng(5)
    single, several, captions = [], [], []
    for i in range(90):
        single += [(f"{i:04}.png", noise(rng)), (f"{i:04}.cls", str(rng.integers(12) if i % 3 else 7).encode())]
    for i in range(60):
        several += [(f"{i:04}.png", noise(rng)), (f"{i:04}.npy", array(*(rng.random(7) < 0.3).astype(np.int64)))]
    for i in range(50):
        lines = [" ".join(rng.choice(WORDS, size=6)) for _ in range(3)]
        captions += [(f"{i:04}.png", noise(rng)), (f"{i:04}.txt", "\n".join(lines).encode())]
    return {
        "single": write_task(folder / "wds_single", single, **prompts(12)),
        "several": write_task(folder / "wds_several", several, **prompts(7), dataset_type="multilabel"),
        "captions": write_task(folder / "wds_captions", captions, dataset_type="retrieval"),
    }


def write_model(folder: Path) -> tuple[Path, Path]:
    """The JSON config of `MODEL` and its weights."""
    import torch

    from aced.models.compat import import_open_clip

    config, weights = folder / "tiny-aced.json", folder / "tiny.pt"
    folder.mkdir(parents=True, exist_ok=True)
    config.write_text(json.dumps(MODEL))
    open_clip = import_open_clip()
    open_clip.add_model_config(config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        torch.save(open_clip.create_model("tiny-aced").state_dict(), weights)
    return config, weights


# -- a task of every kind, some of whose images may be unreadable -----------------------------------------------------

BROKEN = b"GIF89a, or so it says"
COUNT = 24
LOST = {0, 3, 10, 13, 23}
KINDS = ["classification", "groups", "multilabel", "retrieval", "selection", "association", "faces"]


class PixelTower:
    """Embeds by fixed random projections: of pixels, and of words."""

    view = View(8)
    device = torch.device("cpu")

    def __init__(self) -> None:
        draw = torch.Generator().manual_seed(0)
        self.of_pixels = torch.randn(3 * 64, 12, generator=draw)
        self.of_words = torch.randn(128, 12, generator=draw)

    def embed_image(self, images: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.normalize((images.float().flatten(1) / 255 - 0.5) @ self.of_pixels, dim=-1)

    def embed_text(self, texts: list[str]) -> torch.Tensor:
        counts = torch.stack([torch.bincount(torch.tensor(list(text.encode())), minlength=128) for text in texts])
        return torch.nn.functional.normalize(counts.float() @ self.of_words, dim=-1)


def members(kind: str, image: list[bytes], keep: set[int]) -> list[tuple[str, bytes]]:
    """The files of a task with the images (or, of sets, the sets of two or six of them) in `keep`."""
    draw = np.random.default_rng(7)
    labels, places = draw.integers(6, size=COUNT), draw.integers(2, size=COUNT)
    many = draw.random((COUNT, 6)) < 0.4
    faces = np.stack([draw.integers(size, size=COUNT) for size in (9, 2, 7, 2)], axis=1)
    lines = [" ".join(draw.choice(WORDS, size=3)) for _ in range(2 * COUNT)]
    found: list[tuple[str, bytes]] = []
    if kind == "selection":
        for i in range(0, COUNT, 2):
            if i // 2 in keep:
                found += [(f"{i:02}.0.png", image[i]), (f"{i:02}.1.png", image[i + 1])]
                found += [(f"{i:02}.txt", "\n".join(lines[i : i + 2]).encode())]
        return found
    if kind == "association":
        for i in range(0, COUNT, 4):
            if i // 4 in keep:
                size = 3 + (i // 4) % 2  # sets of two sizes, whose chance differs
                found += [(f"{i:02}.{k}.png", image[i + k]) for k in range(size)]
                found += [(f"{i:02}.txt", lines[i].encode()), (f"{i:02}.npy", array(*([1, 0, 0, 1][:size])))]
        return found
    for i in sorted(keep):
        found.append((f"{i:02}.png", image[i]))
        if kind in ("classification", "groups"):
            found.append((f"{i:02}.cls", str(labels[i]).encode()))
        if kind == "groups":
            found.append((f"{i:02}.npy", array(places[i], labels[i])))
        if kind == "multilabel":
            found.append((f"{i:02}.npy", array(*many[i].astype(np.int64))))
        if kind == "retrieval":
            found.append((f"{i:02}.txt", "\n".join(lines[i : i + 1 + i % 3]).encode()))
        if kind == "faces":
            found.append((f"{i:02}.npy", array(*faces[i])))
    return found


def texts(kind: str) -> dict[str, str]:
    if kind == "faces":
        from aced.evaluate.groups import ATTRIBUTES

        names = {"race": 7, "gender": 2, "age": 9, "toxic": 4}
        classes = [f"{part}:{WORDS[i]}" for part in ATTRIBUTES for i in range(names[part])]
        return {
            "classnames": "\n".join(classes),
            "zeroshot_classification_templates": "\n".join(f"{part}:a {{c}} thing" for part in ATTRIBUTES),
        }
    if kind in ("retrieval", "selection", "association"):
        return {"dataset_type": kind}
    return prompts(6) | ({"dataset_type": kind} if kind != "classification" else {})
