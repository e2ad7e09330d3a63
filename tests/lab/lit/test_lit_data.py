"""Questions that are true and balanced, files as they are published, and what is wrong with data in one sentence."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from pathlib import Path

import pytest
import torch
from lit_fakes import caption_tars, caption_task, easy_vqa, jpeg, write_tar
from rich.console import Console

from aced.errors import AcedError
from aced.lab.lit.caption_files import load_caption_tars, load_caption_task
from aced.lab.lit.easy_vqa import load_easy_vqa
from aced.lab.lit.scenes_vqa import SORTS, ask, make_scenes_examples, plan_scenes
from aced.lab.lit.sources import load_data
from aced.lab.lit.texts import Data, TextExamples
from aced.lab.scenes import world
from aced.lab.scenes.world import BLOCK, COLOUR, COUNT, FIRST, GROUND, POSITION, SHAPE, SIZE, TEXTURE
from aced.pool.views import View
from aced.runtime.progress import Bars

VIEW = View(32)


# -- scenes ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rows() -> list[list[int]]:
    return plan_scenes(4000, "train", 0).attributes.tolist()


@pytest.fixture(scope="module")
def asked(rows: list[list[int]]) -> list[tuple[list[int], str, str, str]]:
    """(scene, sort, question, answer)."""
    found = ask(rows, 3, random.Random(0))
    return [(row, one.type, one.question, one.answer) for row, scene in zip(rows, found, strict=True) for one in scene]


def truth(row: list[int], sort: str, question: str) -> str:
    """The answer by another way: from the words of the question and the scene's attributes."""
    objects = [row[FIRST + k * BLOCK : FIRST + (k + 1) * BLOCK] for k in range(row[COUNT])]
    names = {
        "colour": [tuple(world.COLOURS)[o[COLOUR]] for o in objects],
        "shape": [world.SHAPES[o[SHAPE]] for o in objects],
        "size": [tuple(world.SIZES)[o[SIZE]] for o in objects],
        "pattern": [world.TEXTURES[o[TEXTURE]] for o in objects],
        "position": [world.POSITIONS[o[POSITION]] for o in objects],
        "background": [tuple(world.BACKGROUNDS)[row[GROUND]]],
    }
    words = question.rstrip("?").split()
    if sort == "count":
        return ("one", "two")[len(objects) - 1]
    if sort == "yes/no":
        told = names["background"] if "background" in words else [n[0] for k, n in names.items() if k != "background"]
        return "yes" if words[-1] in told else "no"
    if sort == "attribute: shape of one of two":
        return names["shape"][names["position"].index(words[-1])]
    if len(objects) == 2:
        which = names["shape"].index(words[-1])
        return names["position" if sort.startswith("position") else "colour"][which]
    return names[sort.removeprefix("attribute: ")][0]


def test_every_answer_is_true(asked: list[tuple[list[int], str, str, str]]) -> None:
    wrong = [one for one in asked if truth(*one[:3]) != one[3]]
    assert not wrong
    assert {sort for _, sort, _, _ in asked} == set(SORTS)


def test_every_answer_of_a_sort_comes_equally_often(asked: list[tuple[list[int], str, str, str]]) -> None:
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for _, sort, _, answer in asked:
        counts[sort][answer] += 1
    for sort, (_, answers) in SORTS.items():
        assert set(counts[sort]) == set(answers)
        assert len(set(counts[sort].values())) == 1, sort
        assert sum(counts[sort].values()) > 0.02 * len(asked), sort


def test_the_best_guess_from_the_words_alone_is_near_chance(asked: list[tuple[list[int], str, str, str]]) -> None:
    """A table of the commonest answer to each question, learnt on one half and tried on the other."""
    half = len(asked) // 2
    seen: dict[str, Counter[str]] = defaultdict(Counter)
    for _, _, question, answer in asked[:half]:
        seen[question][answer] += 1
    right: dict[str, list[bool]] = defaultdict(list)
    for _, sort, question, answer in asked[half:]:
        right[sort].append(bool(seen[question]) and max(seen[question], key=lambda a: seen[question][a]) == answer)
    for sort, hits in right.items():
        chance = 1 / len(SORTS[sort][1])
        assert sum(hits) / len(hits) < chance + 0.08, sort
    total = [hit for hits in right.values() for hit in hits]
    guess = sum(len(hits) / len(SORTS[sort][1]) for sort, hits in right.items()) / len(total)
    assert sum(total) / len(total) < guess + 0.03


def test_splits_and_seeds_share_no_scene_and_repeat() -> None:
    plans = {key: plan_scenes(200, *key) for key in (("train", 0), ("test", 0), ("train", 1))}
    again = plan_scenes(200, "train", 0)
    assert torch.equal(plans["train", 0].attributes, again.attributes)
    tapes = [set(plan.tape.tolist()) for plan in plans.values()]
    assert len(set.union(*tapes)) > 595
    assert 0.35 < float((again.attributes[:, COUNT] == 2).float().mean()) < 0.45


def test_scenes_give_one_caption_to_train_on_and_five_to_test_on() -> None:
    for split, count in (("train", 1), ("test", 5)):
        captions, questions = make_scenes_examples(120, split, 0)
        assert captions.source is questions.source
        assert {len(texts) for texts in captions.texts} == {count}
        assert len(captions) == 120
        assert 0.1 < (questions.chance or 0) < 0.4
        assert len(set(questions.rows)) > 60


# -- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("packed", [True, False])
def test_easy_vqa_is_read_packed_and_unpacked(tmp_path: Path, packed: bool) -> None:
    examples = load_easy_vqa(easy_vqa(tmp_path, packed), "test")
    assert examples.questions == ["what color is it?", "what color is it?", "is it red?"]
    assert examples.texts == [("red",), ("blue",), ("no",)]
    assert examples.types == ["open", "open", "yes/no"]
    assert examples.chance == pytest.approx(1 / 3)
    pixels = examples.source.read(examples.rows, [VIEW]).images[VIEW]
    assert pixels[:, :, -1, -1].tolist() == [[200, 20, 20], [20, 20, 200], [20, 20, 200]]


def test_caption_tars_are_chosen_by_a_field(tmp_path: Path) -> None:
    tars = caption_tars(tmp_path)
    everything = load_caption_tars(str(tars), None, None)
    some = load_caption_tars(str(tars), ("source", "b"), None)
    assert (len(everything), len(some)) == (12, 4)
    assert some.rows == [0, 3, 6, 9]
    assert all(texts[0].endswith("of b") for texts in some.texts)


def test_a_retrieval_task_is_a_test_of_captions(tmp_path: Path) -> None:
    examples = load_caption_task(caption_task(tmp_path / "wds_squares"))
    assert examples.name == "squares captions"
    assert examples.texts[1] == ("a square number 1", "the square of number 1", "square 1 in a corner")
    assert examples.source.read([2], [VIEW]).images[VIEW].shape == (1, 3, 32, 32)


def test_a_picture_of_a_test_that_cannot_be_read_is_reported(tmp_path: Path) -> None:
    members = [(f"{i}.jpg", b"no picture" if i == 1 else jpeg((20, 50 * i, 30))) for i in range(3)]
    write_tar(tmp_path / "t/test/0.tar", [*members, *((f"{i}.txt", b"a square") for i in range(3))])
    (tmp_path / "t/dataset_type.txt").write_text("retrieval", encoding="utf-8")
    examples = load_caption_task(tmp_path / "t")
    read = examples.source.read([2, 1, 0], [VIEW])
    assert read.indices.tolist() == [2, 0]
    assert len(read.texts) == len(read.images[VIEW]) == 2
    assert [(fault.key, fault.name) for fault in read.faults] == [(examples.source.keys[1], "image_unreadable")]


def test_the_published_easy_vqa(shared_data: Path) -> None:
    train, test = (load_easy_vqa(shared_data / "easy-VQA", split) for split in ("train", "test"))
    assert (len(train.source), len(test.source)) == (4000, 1000)
    assert len({texts[0] for texts in train.texts}) == 13
    assert {texts[0] for texts in test.texts} <= {texts[0] for texts in train.texts}


# -- bad input -------------------------------------------------------------------------------------------------------


def load(*names: object, where: str | None = None) -> Data:
    with Bars(Console(quiet=True)) as bars:
        return load_data(
            [str(n) for n in names], where=where, index_dir=None, scenes=(100, 100), split="test", bars=bars
        )


def test_all_kinds_of_data_together(tmp_path: Path) -> None:
    data = load("scenes", easy_vqa(tmp_path / "e"), caption_tars(tmp_path / "t"), caption_task(tmp_path / "wds_x"))
    assert [one.kind for one in data.train] == ["caption", "vqa", "vqa", "caption"]
    assert [one.name for one in data.test] == ["scenes captions", "scenes questions", "e", "x captions"]
    assert len(data.sources()) == 6


def test_data_that_are_no_data_are_told_in_a_sentence(tmp_path: Path) -> None:
    tars, test = caption_tars(tmp_path / "t"), caption_task(tmp_path / "wds_x")
    bare = write_tar(tmp_path / "bare/0.tar", [("a.jpg", b"x")]).parent
    (tmp_path / "none").mkdir()
    wrong = easy_vqa(tmp_path / "wrong", packed=False)
    (wrong / "train/questions.json").write_text("[[1]]", encoding="utf-8")
    gone = easy_vqa(tmp_path / "gone", packed=False)
    (gone / "test/questions.json").unlink()
    cut = easy_vqa(tmp_path / "cut")
    (cut / "test.tar.gz").write_bytes((cut / "test.tar.gz").read_bytes()[:200])
    for names, where, sentence in (
        ((), None, "'scenes'"),
        ((tmp_path / "nowhere",), None, "'.*nowhere'"),
        ((tmp_path / "none",), None, "questions.*captions"),
        ((bare,), None, "pair.*image"),
        ((tars,), None, "test"),
        ((test,), None, "train"),
        ((tars, test), "source", "--where.*'source'.*FIELD=VALUE"),
        ((tars, test), "source=z", "'z'"),
        ((wrong,), None, "list"),
        ((gone,), None, "questions.json"),
        ((cut,), None, "read"),
    ):
        with pytest.raises(AcedError, match=sentence) as told:
            load(*names, where=where)
        assert str(told.value).endswith(".")
        assert "\n" not in str(told.value)


def test_examples_must_fit_together() -> None:
    source = make_scenes_examples(100, "test", 0)[0].source
    with pytest.raises(ValueError, match="fit"):
        TextExamples("x", "vqa", source, [0], [("a",)])
    with pytest.raises(ValueError, match="fit"):
        TextExamples("x", "caption", source, [0, 1], [("a",)])
