import io
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from task_fakes import array, picture, write_tar, write_task

from aced.errors import AcedError
from aced.evaluate import tar_images
from aced.evaluate.groups import group_scores
from aced.evaluate.task_folders import find_task_folders, load_task_folder
from aced.evaluate.tasks import Association, Attributes, CaptionSelection, Classification, Multilabel, Retrieval
from aced.pool.views import View

VIEW = View(16)
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 12\n"


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
    real = tar_images.decode_like_pillow
    monkeypatch.setattr(tar_images, "decode_like_pillow", lambda content: calls.append(1) or real(content))
    (task,) = load_task_folder(captions)
    assert not calls
    whole = task.images(VIEW)
    assert task.images(VIEW) is whole
    assert len(calls) == 2
    assert task.images(View(8)).shape == (2, 3, 8, 8)
    assert len(calls) == 4
    # Part by part, in any order, and kept since they are few.
    spans = [range(1, 2), range(1)]
    for _ in range(2):
        parts = [part.pixels for part in task.images.parts(VIEW, spans)]
        assert torch.equal(torch.cat(parts[::-1]), whole)
        assert len(calls) == 6


def test_retrieval(captions: Path):
    (task,) = load_task_folder(captions)
    assert isinstance(task, Retrieval)
    assert (task.name, task.direction) == ("mycaps", "both")
    assert task.captions == [["one", "two", "three"], ["four"]]
    # To an image: one of two. To a text: the mean of 3 of 4 and 1 of 4.
    assert task.chance == pytest.approx((3 / 4 + 1 / 4) / 2) == 1 / 2


def test_multilabel(tmp_path: Path):
    members = [("a.jpg", picture(0)), ("a.npy", array(1, 0, 1)), ("b.jpg", picture(1)), ("b.npy", array(0, 0, 1))]
    texts = {"classnames": "x\ny\nz", "zeroshot_classification_templates": "{c}", "dataset_type": "multilabel"}
    (task,) = load_task_folder(write_task(tmp_path / "wds_many_test", members, **texts))
    assert isinstance(task, Multilabel)
    assert task.name == "many"
    assert task.labels.tolist() == [[True, False, True], [False, False, True]]
    assert task.chance == pytest.approx(1 / 2)
    write_task(tmp_path / "wds_many_test", [*members[:3], ("b.npy", array(0, 2, 1))], **texts)
    with pytest.raises(AcedError, match=r" b .*0\.tar .* 3 .* 3 classes"):
        load_task_folder(tmp_path / "wds_many_test")
    write_task(tmp_path / "wds_many_test", [*members[:3], ("b.npy", b"no array")], **texts)
    with pytest.raises(AcedError, match=r"\.npy of b in .*numpy"):
        load_task_folder(tmp_path / "wds_many_test")


def test_an_array_with_objects_is_not_opened(tmp_path: Path):
    out = io.BytesIO()
    np.save(out, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    texts = {"classnames": "x", "zeroshot_classification_templates": "{c}", "dataset_type": "multilabel"}
    write_task(tmp_path / "t", [("a.jpg", picture(0)), ("a.npy", out.getvalue())], **texts)
    with pytest.raises(AcedError, match="numpy"):
        load_task_folder(tmp_path / "t")


def test_groups_of_any_task(tmp_path: Path):
    members = [(f"{i}.{s}", c) for i in range(3) for s, c in (("jpg", picture(i)), ("cls", b"1"), ("npy", array(i, 5)))]
    texts = {"classnames": "x\ny", "zeroshot_classification_templates": "{c}", "dataset_type": "groups"}
    (task,) = load_task_folder(write_task(tmp_path / "birds", members, **texts))
    assert isinstance(task, Classification)
    assert task.main_metric == "acc_wg"
    assert task.groups is not None
    assert task.groups.metadata.tolist() == [[0, 5], [1, 5], [2, 5]]
    assert [list(fields) for fields in task.groups.group_by] == [["field0"]]


def test_groups_by_several_columns(tmp_path: Path):
    """Waterbirds: four groups of background and bird."""
    places = [(background, bird) for background in (0, 1) for bird in (0, 1)]
    members = []
    for i, (background, bird) in enumerate(places):
        members += [(f"{i}.jpg", picture(i)), (f"{i}.cls", b"%d" % bird), (f"{i}.npy", array(background, bird, i))]
    texts = {"classnames": "land\nwater", "zeroshot_classification_templates": "{c} bird", "dataset_type": "groups"}
    texts["groups"] = "fields: background, y, split\ngroups: background, y"
    (task,) = load_task_folder(write_task(tmp_path / "waterbirds", members, **texts))
    assert task.groups.group_by == [["background", "y"]]
    scores = group_scores(task.groups, np.array([1, 1, 0, 1]), np.zeros(4), task.labels.numpy())
    assert {name: value for name, value in scores.items() if ":" in name} == {
        f"{what}_background:{b}_y:{y}": float((b, y) != (1, 0)) if what == "acc" else 1.0
        for b, y in places
        for what in ("acc", "count")
    }
    assert scores["acc_wg"].score() == 0
    for content, words in (
        ("fields: background, y", "line"),
        ("fields: a, a, b\ngroups: a", "field.*twice"),
        ("fields: background, y, split\ngroups: place", "'place'"),
        ("fields: background, y\ngroups: y", r"groups\.txt .* 2 .* 3"),
        ("background, y", "'fields: NAME, NAME'"),
    ):
        (tmp_path / "waterbirds" / "groups.txt").write_text(content)
        with pytest.raises(AcedError, match=words):
            load_task_folder(tmp_path / "waterbirds")


def test_groups_of_a_task_of_datacomp(tmp_path: Path):
    members = [(f"{i}.{s}", c) for i in range(3) for s, c in (("jpg", picture(i)), ("cls", b"1"), ("npy", array(i, 5)))]
    texts = {"classnames": "x\ny", "zeroshot_classification_templates": "{c}"}
    (task,) = load_task_folder(write_task(tmp_path / "wds_fairness-geode_test", members, **texts))
    assert isinstance(task, Classification)
    assert (task.name, task.main_metric, task.chance) == ("fairness-geode", "acc_wg", 1 / 2)
    assert task.groups is not None
    assert list(task.groups.fields) == ["region", "country"]
    with pytest.raises(AcedError, match=r" 2 .*wilds/fmow.* 3"):
        load_task_folder(write_task(tmp_path / "wds_wilds-fmow_test", members, **texts))
    with pytest.raises(AcedError, match=r"1 in .*\.npy"):
        load_task_folder(write_task(tmp_path / "wds_fairness-geode_test", members[:5], **texts))


def test_faces(tmp_path: Path):
    members = [("a.jpg", picture(0)), ("a.npy", array(3, 1, 0, 0))]
    names = "race:black\nrace:white\ngender:man\ngender:woman\nage:young\nage:old\ntoxic:thief\ntoxic:ape"
    templates = "race:a {c} person\ngender:a {c}\nage:{c}\ntoxic:a {c}\ntoxic:the {c}"
    texts = {"classnames": names, "zeroshot_classification_templates": templates}
    (task,) = load_task_folder(write_task(tmp_path / "wds_fairness-utkface_test", members, **texts))
    assert isinstance(task, Attributes)
    assert task.classes["gender"] == ["man", "woman"]
    assert task.templates["toxic"] == ["a {c}", "the {c}"]
    texts["classnames"] = "race:black\nman"
    with pytest.raises(AcedError, match=r"line 'man'.*race, gender, age, toxic"):
        load_task_folder(write_task(tmp_path / "wds_fairness-utkface_test", members, **texts))


def test_selection(tmp_path: Path):
    members = [("a.0.jpg", picture(0)), ("a.1.png", picture(1, "PNG")), ("a.txt", b"one\ntwo")]
    members += [("b.txt", b"three\nfour"), ("b.1.jpg", picture(3)), ("b.0.jpg", picture(2))]
    (task,) = load_task_folder(write_task(tmp_path / "wino", members, dataset_type="selection"))
    assert isinstance(task, CaptionSelection)
    assert task.captions == [["one", "two"], ["three", "four"]]
    assert (task.images_per_set, task.chance) == (2, 1 / 6)
    pixels = task.images(VIEW)
    for row in range(4):
        whole = np.asarray(Image.open(io.BytesIO(picture(row, "PNG" if row == 1 else "JPEG"))).convert("RGB"))
        assert np.array_equal(pixels[row].numpy(), VIEW.apply(whole))
    (task,) = load_task_folder(
        write_task(tmp_path / "crepe", [("a.jpg", picture(0)), ("a.txt", b"right\nwrong")], dataset_type="selection")
    )
    assert (task.images_per_set, task.chance) == (1, 1 / 2)
    write_task(tmp_path / "odd", [*members[:2], ("a.txt", b"1\n2\n3")], dataset_type="selection")
    with pytest.raises(AcedError, match=r"odd: .*2 images.*3 captions"):
        load_task_folder(tmp_path / "odd")
    write_task(tmp_path / "odd", [*members[:3], ("b.jpg", picture(1)), ("b.txt", b"1\n2")], dataset_type="selection")
    with pytest.raises(AcedError, match=r"b in .*1 images.*2 captions.*a 2.*2"):
        load_task_folder(tmp_path / "odd")


def test_association(tmp_path: Path):
    members = [*((f"a.{i}.jpg", picture(i)) for i in range(3)), ("a.txt", b"owl\n"), ("a.npy", array(0, 1, 1))]
    (task,) = load_task_folder(write_task(tmp_path / "cues", members, dataset_type="association"))
    assert isinstance(task, Association)
    assert (task.cues, task.associated, task.main_metric) == (["owl"], [[False, True, True]], "avg_jaccard_score")
    # Two of three guessed: both with probability 1/3, else one, of a union of three.
    assert task.chance == pytest.approx(1 / 3 + 2 / 3 * 1 / 3)
    with pytest.raises(AcedError, match="10 candidates"):
        load_task_folder(write_task(tmp_path / "wds_winogavil", members, dataset_type="association"))
    with pytest.raises(AcedError, match=r"2.*3 candidates"):
        load_task_folder(
            write_task(tmp_path / "cues", [*members[:4], ("a.npy", array(0, 1))], dataset_type="association")
        )


def test_finding_task_folders(tmp_path: Path, colours: Path, captions: Path):
    (tmp_path / "tasks" / "other").mkdir()
    (tmp_path / "tasks" / "note.txt").touch()
    assert find_task_folders([tmp_path / "tasks"]) == [captions, colours]
    assert find_task_folders([str(colours), tmp_path / "tasks"]) == [colours, captions]
    assert find_task_folders([]) == []
    with pytest.raises(AcedError, match="gone"):
        find_task_folders([tmp_path / "gone"])
    with pytest.raises(AcedError, match=r"other .*test/0\.tar"):
        find_task_folders([tmp_path / "tasks" / "other"])


def test_a_folder_that_looks_like_a_task_is_not_left_out(tmp_path: Path, colours: Path):
    broken = write_task(tmp_path / "tasks" / "broken", [("a.jpg", picture(0)), ("a.cls", b"0")])
    (tmp_path / "tasks" / "wds_empty").mkdir()
    assert find_task_folders([tmp_path / "tasks"]) == [broken, colours, tmp_path / "tasks" / "wds_empty"]
    with pytest.raises(AcedError, match=r"broken.*task"):
        load_task_folder(broken)


def retar(members: list[tuple[str, bytes]]):
    return lambda task: write_tar(task / "test" / "1.tar", members)


def rewrite(name: str, content: str):
    return lambda task: (task / name).write_text(content)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda task: (task / "classnames.txt").unlink(), r"wds_colours .*task"),
        (lambda task: (task / "zeroshot_classification_templates.txt").unlink(), "zeroshot_classification"),
        (rewrite("zeroshot_classification_templates.txt", "a photo\n"), r"template.*\{c\}.*'a photo'"),
        (rewrite("classnames.txt", "\n\n"), "empty line"),
        (rewrite("classnames.txt", "red\n\nblue"), "empty line"),
        (rewrite("classnames.txt", "red\ngreen"), r" a in .*1\.tar.* 2.* 2 classes"),
        (rewrite("dataset_type.txt", "ranking"), "ranking"),
        (rewrite("test/nshards.txt", "many"), "number"),
        (rewrite("test/nshards.txt", "3"), r"2\.tar.*3 tars"),
        (rewrite("test/nshards.txt", "1"), r"nshards\.txt.*1\.tar"),
        (rewrite("test/nshards.txt", "2\n2"), "number"),
        (retar([("a.jpg", picture(0)), ("a.cls", b"-1")]), "'-1'"),
        (retar([("a.jpg", picture(0)), ("a.cls", b"cat")]), "'cat'"),
        (retar([("a.jpg", picture(0))]), r"a in .*1\.tar.*\.cls"),
        (retar([("a.cls", b"1")]), r"a in .*1\.tar.*image"),
        (retar([]), "empty|members|samples"),
        (rewrite("test/1.tar", "<html>"), "web page"),
        (rewrite("classnames.txt", POINTER), r"classnames\.txt: .*git-lfs"),
        (rewrite("classnames.txt", "<!DOCTYPE html>\n<html>\n404\n"), r"classnames\.txt: .*web page"),
    ],
)
def test_faults_of_a_task(colours: Path, damage, words: str):
    damage(colours)
    with pytest.raises(AcedError, match=words) as caught:
        load_task_folder(colours)
    assert str(colours) in str(caught.value)


def test_faults_of_images_and_captions(colours: Path, captions: Path):
    write_tar(captions / "test" / "0.tar", [("a.jpg", picture(0)), ("a.txt", b" \n")])
    with pytest.raises(AcedError, match=r"a in .*0\.tar.*caption"):
        load_task_folder(captions)
    (task,) = load_task_folder(colours)
    (colours / "test" / "0.tar").write_bytes(b"")
    with pytest.raises(AcedError, match=r"0\.tar.*changed"):
        task.images(VIEW)


def test_a_tar_that_is_replaced_by_one_of_the_same_size_is_noticed(colours: Path):
    (task,) = load_task_folder(colours)
    tar = colours / "test" / "1.tar"
    os.utime(tar, ns=(1, 1))
    with pytest.raises(AcedError, match=r"1\.tar.*changed"):
        task.images(VIEW)
    tar.unlink()
    with pytest.raises(AcedError, match=r"1\.tar"):
        task.images(VIEW)


def test_real_tasks(shared_data: Path):
    folders = find_task_folders([shared_data / "eval"])
    assert len(folders) == 10
    (digits,) = load_task_folder(shared_data / "eval" / "wds_sign_digits")
    assert (digits.name, digits.chance, len(digits.labels)) == ("sign_digits", 0.1, 500)
    assert digits.images(View(32)).shape == (500, 3, 32, 32)
    assert torch.bincount(digits.labels).tolist() == [50] * 10
    (flickr,) = load_task_folder(shared_data / "eval" / "wds_flickr8k")
    assert {len(lines) for lines in flickr.captions} == {5}
    assert len(flickr.captions) == 1000
    (caltech,) = load_task_folder(shared_data / "eval" / "wds_caltech101")
    # Scored as in DataComp; chance by its own 100 classes.
    assert (caltech.main_metric, caltech.chance) == ("mean_per_class_recall", 0.01)
