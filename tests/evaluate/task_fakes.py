"""Small evaluation tasks on disk, the same bytes wherever they are written."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

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

    from aced.towers.compat import import_open_clip

    config, weights = folder / "tiny-aced.json", folder / "tiny.pt"
    folder.mkdir(parents=True, exist_ok=True)
    config.write_text(json.dumps(MODEL))
    open_clip = import_open_clip()
    open_clip.add_model_config(config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        torch.save(open_clip.create_model("tiny-aced").state_dict(), weights)
    return config, weights
