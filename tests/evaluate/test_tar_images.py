"""The images of a task in parts, decoded here or by other processes, and what is wrong with them."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from task_fakes import BROKEN, COUNT, KINDS, LOST, PixelTower, members, noise, texts, write_task

from aced.evaluate import tar_images
from aced.evaluate.image_faults import FaultNotes, ImageFaults
from aced.evaluate.tar_images import TarImages
from aced.evaluate.task_embedder import TaskEmbedder
from aced.evaluate.task_folders import load_task_folder
from aced.evaluate.tasks import Task
from aced.evaluate.zeroshot import score_all
from aced.pool.loader.loading import Loading
from aced.pool.views import View

VIEW = View(24)


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A task of every kind with images that cannot be read."""
    place, draw = tmp_path_factory.mktemp("tasks"), np.random.default_rng(3)
    content = [BROKEN if i in LOST else noise(draw) for i in range(COUNT)]
    names = {kind: "fairface" if kind == "faces" else f"wds_{kind}" for kind in KINDS}
    return {kind: write_task(place / names[kind], members(kind, content, set(range(COUNT))), **texts(kind))
            for kind in KINDS}  # fmt: skip


def images_of(folder: Path) -> TarImages:
    (task,) = load_task_folder(folder)
    assert isinstance(task.images, TarImages)
    return task.images


@pytest.mark.parametrize(
    ("loading", "chunk"),
    [(Loading(), 1), (Loading(), 64), (Loading(2), 1), (Loading(2), 5), (Loading(1, start="forkserver"), 5)],
)
def test_parts_are_the_whole(
    loading: Loading, chunk: int, tasks: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tar_images, "_CHUNK", chunk)
    ((whole, faults),) = images_of(tasks["retrieval"]).parts(VIEW, [range(COUNT)])
    spans = [range(7), range(7, 8), range(8, COUNT)]
    parts = list(images_of(tasks["retrieval"]).parts(VIEW, spans, loading))
    assert [len(part.pixels) for part in parts] == [len(span) for span in spans]
    assert torch.equal(torch.cat([part.pixels for part in parts]), whole)
    assert ImageFaults.joined(part.faults for part in parts) == faults
    assert [set(part.faults.lost) for part in parts] == [LOST & set(span) for span in spans]
    assert set(faults.lost) == LOST
    assert not whole[list(LOST)].any()
    assert not any(part.pixels.is_shared() for part in parts)  # they would fill /dev/shm
    assert not multiprocessing.active_children()


def test_what_is_kept_is_bounded_over_all_tasks(tasks: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[bytes] = []
    real = tar_images.decode_like_pillow
    monkeypatch.setattr(tar_images, "decode_like_pillow", lambda content: decoded.append(content) or real(content))
    room = COUNT * 3 * VIEW.size**2
    others = sum(images.kept_bytes for images in tar_images._ALIVE)
    monkeypatch.setattr(tar_images, "_KEPT_BYTES", others + room)
    first, second = images_of(tasks["retrieval"]), images_of(tasks["multilabel"])
    for _ in range(2):
        first(VIEW), second(VIEW)
    assert len(decoded) == 3 * COUNT
    assert (first.kept_bytes, second.kept_bytes) == (room, 0)
    del first
    list(second.parts(VIEW, [range(COUNT)], keep=False))
    second(VIEW), second(VIEW)
    assert len(decoded) == 5 * COUNT


def test_faults_of_parts_are_those_of_all_in_order() -> None:
    notes, parts = FaultNotes(), [FaultNotes() for _ in range(3)]
    draw = np.random.default_rng(0)
    for i in range(60):
        name = "abc"[draw.integers(3)]
        for target in (notes, parts[i // 20]):
            (target.lose(i, name, f"image {i}") if i % 2 else target.odd(name, f"image {i}"))
    joined = ImageFaults.joined(part.all() for part in parts)
    assert joined == notes.all()
    assert list(joined.left_out) == list(notes.all().left_out)
    assert ImageFaults.joined([]) == ImageFaults()


def loaded(tasks: dict[str, Path]) -> list[Task]:
    return [task for folder in tasks.values() for task in load_task_folder(folder)]


def test_a_process_that_dies_costs_the_task_whose_image_it_was(
    tasks: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = loaded(tasks)
    tower = PixelTower()
    expected = score_all(tower, found, TaskEmbedder(tower, 7))
    deadly = tasks["selection"]
    real: Any = tar_images.read_member

    def reading(tar: Path, *rest: Any) -> bytes:
        if deadly in tar.parents and multiprocessing.parent_process() is not None:
            os._exit(9)
        return real(tar, *rest)

    monkeypatch.setattr(tar_images, "read_member", reading)
    scores = score_all(tower, loaded(tasks), TaskEmbedder(tower, 7, loading=Loading(2)))
    (name,) = scores.failed
    assert name in deadly.name
    assert "status 9" in scores.failed[name]
    assert "--workers 0" in scores.failed[name]
    del expected.results[name]
    assert scores.results == expected.results
    assert not multiprocessing.active_children()
