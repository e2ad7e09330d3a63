from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from aced.errors import AcedError
from aced.evaluate.datacomp import datacomp_tasks, known_chance, recognise, task_name
from aced.evaluate.prompts import apply_policy, canonicalize, check_policy
from aced.models.compat import import_open_clip


def test_the_data_file_is_datacomps_task_list(shared_data: Path) -> None:
    listed = yaml.safe_load((shared_data / "datacomp_metadata" / "tasklist.yml").read_text())
    ours = datacomp_tasks()
    assert list(ours) == list(listed)
    assert sum(task.scored for task in ours.values()) == 38
    for key, entry in listed.items():
        task = ours[key]
        assert (task.title, task.size, task.classes, task.chance) == (
            entry["name"], entry["size"], entry.get("num_classes"), entry.get("random_score"),
        )  # fmt: skip
        if task.scored:
            assert task.main_metric == entry.get("main_metric", "acc1")


def test_the_data_file_fits_the_published_table(shared_data: Path) -> None:
    header = (shared_data / "openclip_results.csv").read_text().splitlines()[0].split(",")
    assert {task.title for task in datacomp_tasks().values() if task.scored} == set(header[5:])


@pytest.mark.parametrize(
    ("folder", "key"),
    [
        ("wds_vtab-caltech101_test", "vtab/caltech101"),
        ("wds_caltech101", "vtab/caltech101"),
        ("wds_vtab-cifar10", "cifar10"),
        ("cifar10", "cifar10"),
        ("wds_imagenet-a_test", "imagenet-a"),
        ("wds_imagenet1k", "imagenet1k"),
        ("wds_wilds-fmow_test", "wilds/fmow"),
        ("wds_fairness-dollar_street_test", "fairness/dollar_street"),
        ("wds_flickr30k", "retrieval/flickr_1k_test_image_text_retrieval"),
        ("wds_mscoco_captions", "retrieval/mscoco_2014_5k_test_image_text_retrieval"),
        ("wds_imagenet1k_sample", None),
        ("wds_voc2007_multilabel", None),
        ("wds_flickr8k", None),
    ],
)
def test_tasks_are_recognised_by_name(folder: str, key: str | None) -> None:
    known = recognise(task_name(folder))
    assert (known.key if known else None) == key


def test_chance() -> None:
    svhn, dollar = recognise("svhn"), recognise("fairness-dollar_street")
    assert svhn is not None
    assert dollar is not None
    assert known_chance(svhn, "acc1", 10, 26032) == 0.117897
    assert known_chance(svhn, "acc1", 10, 500) == 0.1
    assert known_chance(dollar, "acc_top5_wg", 58, 3503) == 5 / 58
    assert known_chance(None, "acc1", 4, 10) == 0.25


def test_canonical_prompts_are_open_clips() -> None:
    peer = import_open_clip().tokenizer.canonicalize_text
    texts = ["A photo of a St. Bernard's_dog,  asleep.", " {x} — Ünïcode; (tab)\tand\nline ", "", "don't", "50%!"]
    assert [canonicalize(text) for text in texts] == [peer(text) for text in texts]
    assert apply_policy("siglip", ["A B."]) == ["a b"]
    assert apply_policy("clip", ["A B."]) == ["A B."]
    with pytest.raises(AcedError, match=r"'siglop'.*'siglip'"):
        check_policy("siglop")
