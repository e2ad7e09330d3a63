"""Images of tasks that cannot be read are left out with all that belongs to them; odd ones are scored."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from task_fakes import BROKEN, COUNT, KINDS, LOST, PixelTower, array, members, noise, prompts, texts, write_task

from aced.errors import AcedError
from aced.evaluate import tar_images
from aced.evaluate.embedding_cache import EmbeddingCache
from aced.evaluate.task_embedder import TaskEmbedder
from aced.evaluate.task_folders import load_task_folder
from aced.evaluate.tasks import TaskResult
from aced.evaluate.zeroshot import evaluate_task
from aced.pool.images import decode_like_pillow
from aced.pool.views import View


def result_of(folder: Path, cache: EmbeddingCache | None = None) -> TaskResult:
    (task,) = load_task_folder(folder)
    tower = PixelTower()
    return evaluate_task(tower, task, TaskEmbedder(tower, 7, cache=cache))


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
    cache = EmbeddingCache(tmp_path / "cache", {"tower": "model"}, "fp32")
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
    with pytest.raises(AcedError, match=r"'t': .*a\.jpg in "):
        result_of(tmp_path / "t")


def test_no_set_of_ten_candidates_is_left(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    content = [(f"0.{k}.png", noise(draw) if k else BROKEN) for k in range(10)]
    content += [(f"1.{k}.png", noise(draw)) for k in range(5)]
    content += [(f"{i}.txt", b"a cue") for i in range(2)]
    content += [("0.npy", array(*[1] * 3, *[0] * 7)), ("1.npy", array(1, 0, 0, 0, 0))]
    write_task(tmp_path / "wds_winogavil", content, dataset_type="association")
    with pytest.raises(AcedError, match="10 candidates"):
        result_of(tmp_path / "wds_winogavil")
