import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from aced.data.views import View
from aced.errors import AcedError
from aced.evaluate import folder as folder_module
from aced.evaluate.folder import find_task_folders, load_task_folder
from aced.evaluate.tasks import Classification, Retrieval

VIEW = View(16)


def picture(number: int, form: str = "JPEG") -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (30, 20), (40 * number % 256, 90, 200 - 30 * number)).save(out, form)
    return out.getvalue()


def write_tar(path: Path, members: list[tuple[str, bytes]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


@pytest.fixture
def colours(tmp_path: Path) -> Path:
    """A classification task of two tars."""
    task = tmp_path / "tasks" / "wds_colours"
    write_tar(
        task / "test" / "0.tar",
        [("a.jpg", picture(0)), ("a.cls", b"1"), ("b.png", picture(1, "PNG")), ("b.cls", b"0\n")],
    )
    write_tar(task / "test" / "1.tar", [("a.cls", b"2"), ("a.webp", picture(2, "WEBP"))])
    (task / "test" / "nshards.txt").write_text("2")
    (task / "classnames.txt").write_text("red\ngreen or so\nblue\n")
    (task / "zeroshot_classification_templates.txt").write_text("a photo of {c}.\r\na {c} thing\n")
    return task


@pytest.fixture
def captions(tmp_path: Path) -> Path:
    task = tmp_path / "tasks" / "mycaps"
    write_tar(
        task / "test" / "0.tar",
        [("a.jpg", picture(0)), ("a.txt", b"one\ntwo\n\n three \n"), ("b.jpg", picture(1)), ("b.txt", b"four")],
    )
    (task / "dataset_type.txt").write_text("retrieval\n")
    return task


def test_classification(colours: Path):
    (task,) = load_task_folder(colours)
    assert isinstance(task, Classification)
    assert task.name == "colours"
    assert task.classes == ["red", "green or so", "blue"]
    assert task.templates == ["a photo of {c}.", "a {c} thing"]
    assert task.labels.dtype == torch.int64
    assert task.labels.tolist() == [1, 0, 2]
    assert task.chance == 1 / 3
    pixels = task.images(VIEW)
    assert pixels.shape == (3, 3, 16, 16)
    for row, form in enumerate(["JPEG", "PNG", "WEBP"]):
        whole = np.asarray(Image.open(io.BytesIO(picture(row, form))).convert("RGB"))
        assert np.array_equal(pixels[row].numpy(), VIEW.apply(whole))


def test_images_are_decoded_once_for_each_view(captions: Path, monkeypatch):
    calls = []
    real = folder_module.decode_image
    monkeypatch.setattr(folder_module, "decode_image", lambda content: calls.append(1) or real(content))
    tasks = load_task_folder(captions)
    assert not calls
    assert tasks[0].images(VIEW) is tasks[1].images(VIEW)
    assert len(calls) == 2
    assert tasks[1].images(View(8)).shape == (2, 3, 8, 8)
    assert len(calls) == 4


def test_retrieval(captions: Path):
    to_text, to_image = load_task_folder(captions)
    assert isinstance(to_text, Retrieval)
    assert isinstance(to_image, Retrieval)
    assert (to_text.name, to_text.direction) == ("mycaps_i2t", "image_to_text")
    assert (to_image.name, to_image.direction) == ("mycaps_t2i", "text_to_image")
    assert to_text.captions == to_image.captions == [["one", "two", "three"], ["four"]]
    assert to_image.chance == 1 / 2
    assert to_text.chance == pytest.approx((3 / 4 + 1 / 4) / 2)


def test_finding_task_folders(tmp_path: Path, colours: Path, captions: Path):
    (tmp_path / "tasks" / "other").mkdir()
    assert find_task_folders([tmp_path / "tasks"]) == [captions, colours]
    assert find_task_folders([str(colours), tmp_path / "tasks"]) == [colours, captions]
    assert find_task_folders([]) == []
    with pytest.raises(AcedError, match=r"There is no folder .*gone"):
        find_task_folders([tmp_path / "gone"])
    with pytest.raises(AcedError, match=r"other neither is an evaluation task nor holds any: a task has test/0\.tar"):
        find_task_folders([tmp_path / "tasks" / "other"])


def retar(members: list[tuple[str, bytes]]):
    return lambda task: write_tar(task / "test" / "1.tar", members)


def rewrite(name: str, content: str):
    return lambda task: (task / name).write_text(content)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda task: (task / "classnames.txt").unlink(), "is not an evaluation task"),
        (lambda task: (task / "zeroshot_classification_templates.txt").unlink(), "has no zeroshot_classification"),
        (rewrite("zeroshot_classification_templates.txt", "a photo\n"), r"template without \{c\}.*'a photo'"),
        (rewrite("classnames.txt", "\n\n"), "empty line"),
        (rewrite("classnames.txt", "red\n\nblue"), "empty line"),
        (rewrite("classnames.txt", "red\ngreen"), r"label of a in .*1\.tar is 2, but there are 2 classes"),
        (rewrite("dataset_type.txt", "ranking"), "says ranking; known are"),
        (rewrite("test/nshards.txt", "many"), "not a number of tars"),
        (rewrite("test/nshards.txt", "3"), r"lacks 2\.tar of its 3 tars"),
        (retar([("a.jpg", picture(0)), ("a.cls", b"-1")]), "'-1', not a number"),
        (retar([("a.jpg", picture(0)), ("a.cls", b"cat")]), "'cat', not a number"),
        (retar([("a.jpg", picture(0))]), r"a in .*1\.tar has no \.cls"),
        (retar([("a.cls", b"1")]), r"a in .*1\.tar has no image"),
        (retar([]), "is an empty file|has no members|holds no samples"),
        (rewrite("test/1.tar", "<html>"), "is a web page"),
    ],
)
def test_faults_of_a_task(colours: Path, damage, words: str):
    damage(colours)
    with pytest.raises(AcedError, match=words) as caught:
        load_task_folder(colours)
    assert str(colours) in str(caught.value)


def test_faults_of_images_and_captions(colours: Path, captions: Path):
    retar([("a.jpg", picture(0)[:-30]), ("a.cls", b"1")])(colours)
    (task,) = load_task_folder(colours)
    with pytest.raises(AcedError, match=r"evaluation image a in .*1\.tar cannot be used: the image cannot be decoded"):
        task.images(VIEW)
    write_tar(captions / "test" / "0.tar", [("a.jpg", picture(0)), ("a.txt", b" \n")])
    with pytest.raises(AcedError, match=r"a in .*0\.tar has no caption"):
        load_task_folder(captions)
    (task,) = load_task_folder(colours)
    (colours / "test" / "0.tar").write_bytes(b"")
    with pytest.raises(AcedError, match="has changed since the evaluation began"):
        task.images(VIEW)


def test_real_tasks(shared_data: Path):
    folders = find_task_folders([shared_data / "eval"])
    assert len(folders) == 10
    (digits,) = load_task_folder(shared_data / "eval" / "wds_sign_digits")
    assert (digits.name, digits.chance, len(digits.labels)) == ("sign_digits", 0.1, 500)
    assert digits.images(View(32)).shape == (500, 3, 32, 32)
    assert torch.bincount(digits.labels).tolist() == [50] * 10
    to_text, _ = load_task_folder(shared_data / "eval" / "wds_flickr8k")
    assert {len(lines) for lines in to_text.captions} == {5}
    assert len(to_text.captions) == 1000
