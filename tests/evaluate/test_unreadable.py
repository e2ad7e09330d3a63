"""Images of tasks that cannot be read are left out with all that belongs to them; odd ones are scored."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from task_fakes import WORDS, array, noise, prompts, write_task

from aced.data.images import decode_like_pillow
from aced.data.views import View
from aced.errors import AcedError
from aced.evaluate import tar_images
from aced.evaluate.embedder import Embedder
from aced.evaluate.embedding_cache import EmbeddingCache
from aced.evaluate.folder import load_task_folder
from aced.evaluate.tasks import TaskResult
from aced.evaluate.zeroshot import evaluate_task

BROKEN = b"GIF89a, or so it says"
COUNT = 24
LOST = {0, 3, 10, 13, 23}


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


def result_of(folder: Path, cache: EmbeddingCache | None = None) -> TaskResult:
    (task,) = load_task_folder(folder)
    tower = PixelTower()
    return evaluate_task(tower, task, Embedder(tower, 7, cache=cache))


KINDS = ["classification", "groups", "multilabel", "retrieval", "selection", "association", "faces"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_score_is_that_of_the_task_without_them(kind: str, tmp_path: Path) -> None:
    name = "fairface" if kind == "faces" else f"wds_{kind}"
    draw = np.random.default_rng(3)
    whole = [noise(draw) for _ in range(COUNT)]
    torn = [BROKEN if i in LOST else content for i, content in enumerate(whole)]
    size = {"selection": 2, "association": 4}.get(kind, 1)
    lost = {i // size for i in LOST}
    if kind == "association":  # image 3 of the first set, which has three, is in no set
        lost.discard(0)
        torn[0] = whole[0]
    units = set(range(COUNT // size))
    write_task(tmp_path / "torn" / name, members(kind, torn, units), **texts(kind))
    write_task(tmp_path / "without" / name, members(kind, whole, units - lost), **texts(kind))
    write_task(tmp_path / "whole" / name, members(kind, whole, units), **texts(kind))
    found, expected = result_of(tmp_path / "torn" / name), result_of(tmp_path / "without" / name)
    assert found == expected
    assert dict(found.metrics) == dict(expected.metrics)
    assert (found.stderr, found.chance, found.n) == (expected.stderr, pytest.approx(expected.chance), expected.n)
    assert expected.n < result_of(tmp_path / "whole" / name).n
    (tally,) = found.faults.left_out.values()
    assert tally.count == len(LOST) - 2 * (kind == "association")
    assert ".png in " in tally.example
    assert not expected.faults


def test_faults_come_back_with_cached_embeddings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = np.random.default_rng(3)
    content = [BROKEN if i in LOST else noise(draw) for i in range(COUNT)]
    content[5] = strip()
    write_task(tmp_path / "t", members("retrieval", content, set(range(COUNT))), **texts("retrieval"))
    cache = EmbeddingCache(tmp_path / "cache", "model", "fp32")
    first = result_of(tmp_path / "t", cache)
    monkeypatch.delattr(tar_images.TarImages, "parts")  # now only the cache can know
    again = result_of(tmp_path / "t", cache)
    assert again == first
    assert again.faults == first.faults
    assert set(first.faults.lost) == LOST
    assert {name: tally.count for name, tally in first.faults.odd.items()} == {"image_aspect": 1}


def strip(width: int = 420, height: int = 20) -> bytes:
    out = io.BytesIO()
    Image.effect_noise((width, height), 60).convert("RGB").save(out, "PNG")
    return out.getvalue()


def test_a_long_image_is_scored_and_an_absurd_one_left_out(tmp_path: Path) -> None:
    """At 224 pixels a strip of 1 x 40,000 would become one of 2,000 million."""
    absurd = strip(40_000, 1)
    long = strip()
    write_task(tmp_path / "t", [("a.png", long), ("a.cls", b"0"), ("b.png", absurd), ("b.cls", b"1")], **prompts(2))
    (task,) = load_task_folder(tmp_path / "t")
    large = View(224)
    ((pixels, faults),) = task.images.parts(large, [range(2)])
    assert np.array_equal(pixels[0].numpy(), large.apply(decode_like_pillow(long)[0]))
    assert dict(faults.lost) == {1: "image_too_large"}
    assert list(faults.odd) == ["image_aspect"]
    squashed = View(224, "squash")
    ((_, faults),) = task.images.parts(squashed, [range(2)])
    assert not faults.lost


def test_a_task_without_a_usable_image_cannot_be_scored(tmp_path: Path) -> None:
    write_task(tmp_path / "t", [("a.jpg", BROKEN), ("a.cls", b"0"), ("b.jpg", b""), ("b.cls", b"1")], **prompts(2))
    with pytest.raises(AcedError, match=r"Task 't': none of its images can be read \(a\.jpg in "):
        result_of(tmp_path / "t")


def test_no_set_of_ten_candidates_is_left(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    content = [(f"0.{k}.png", noise(draw) if k else BROKEN) for k in range(10)]
    content += [(f"1.{k}.png", noise(draw)) for k in range(5)]
    content += [(f"{i}.txt", b"a cue") for i in range(2)]
    content += [("0.npy", array(*[1] * 3, *[0] * 7)), ("1.npy", array(1, 0, 0, 0, 0))]
    write_task(tmp_path / "wds_winogavil", content, dataset_type="association")
    with pytest.raises(AcedError, match="no set of 10 candidates or more is left"):
        result_of(tmp_path / "wds_winogavil")
