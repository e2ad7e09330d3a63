"""Pools and tasks for the study on photos: what differs between versions, what is kept, and that bytes repeat."""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import sys
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from aced import open_shards
from aced.evaluate.task_folders import find_task_folders, load_task_folder
from aced.evaluate.tasks import Classification, Retrieval

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))
import photo_pools  # noqa: E402
import pool_tars  # noqa: E402

LABELS = {"pets": ["cat", "dog", "eel"], "digits": ["0", "1"], "said": [None]}
"""The collections of the synthetic pool; the last one has sentences."""
JUNK = [f"IMG_{number}.jpg" for number in range(7)]


def picture(number: int) -> bytes:
    held = io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), number % 251, dtype=np.uint8)).save(held, "PNG")
    return held.getvalue() + str(number).encode()  # each is another file


def about(number: int, source: str, kind: str = "clean", **more: Any) -> dict[str, Any]:
    labels = LABELS.get(source, [source])
    label = labels[number % len(labels)]
    caption = f"sentence {number}" if label is None else f"{'a photo of' if number % 2 else 'my'} {label}"
    return {"key": f"{number:09}", "uid": f"{number:032x}", "caption": caption, "source": source, "kind": kind} | {
        "label": label,
        **more,
    }


def write(path: Path, pairs: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for one in pairs:
            parts = {"jpg": picture(int(one["key"])), "json": json.dumps(one).encode(), "txt": one["caption"].encode()}
            for part, content in parts.items():
                info = tarfile.TarInfo(f"{one['key']}.{part}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return path.parent


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    """40 clean pairs of each collection, 7 junk ones, 5 shuffled ones, 6 copies that come before their originals."""
    made = [about(number, "pets", "duplicate", dup_of=f"{number + 100:09}") for number in range(6)]
    made += [about(number + 100, list(LABELS)[number // 40]) for number in range(120)]
    made += [about(number + 300, "pets", "junk", true_caption="?") | {"caption": JUNK[number]} for number in range(7)]
    made += [about(number + 400, "digits", "shuffled", true_caption="?") for number in range(5)]
    write(tmp_path / "pool/00000.tar", made[:70])
    return write(tmp_path / "pool/00001.tar", made[70:])


def run(*words: object) -> None:
    photo_pools.main([str(word) for word in words])


def files(folder: Path) -> dict[str, str]:
    found = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


# -- share -------------------------------------------------------------------------------------------------------------


def shares(pool: Path, out: Path, *more: object) -> dict[int, list[pool_tars.Pair]]:
    run("share", "--pool", pool, "--out", out, *more)
    return {int(folder.name[6:]): pool_tars.read_pairs([str(folder)]) for folder in out.iterdir()}


def test_versions_have_the_same_pictures_and_the_clean_share_that_is_asked(pool: Path, tmp_path: Path) -> None:
    made = shares(pool, tmp_path / "out")
    clean = [pair for pair in pool_tars.read_pairs([str(pool)]) if pair.about["kind"] == "clean"]
    assert sorted(made) == [10, 25, 50, 75, 100]
    for percent, pairs in made.items():
        assert [pair.image for pair in pairs] == [pair.image for pair in clean]
        assert [pair.about["key"] for pair in pairs] == [f"{number:09}" for number in range(120)]
        counts = Counter(pair.about["kind"] for pair in pairs)
        assert counts["clean"] == 120 * percent // 100
        assert counts["junk"] == (120 - counts["clean"]) * 30 // 100
        assert counts["shuffled"] == 120 - counts["clean"] - counts["junk"]
    assert [pair.about | {"key": ""} for pair in made[100]] == [pair.about | {"key": ""} for pair in clean]


def test_what_is_spoilt_is_wrong_stays_so_and_its_fields_say_how(pool: Path, tmp_path: Path) -> None:
    made = shares(pool, tmp_path / "out")
    whole = made[100]
    fitting = {(pair.about["source"], pair.about["label"], pair.caption) for pair in whole}
    captions = {source: {c for s, _, c in fitting if s == source} for source in LABELS}
    for pairs in made.values():
        for own, pair in zip(whole, pairs, strict=True):
            source, label = own.about["source"], own.about["label"]
            assert (pair.about["source"], pair.about["label"]) == (source, label)
            if pair.about["kind"] == "clean":
                assert pair.about == own.about
                continue
            assert pair.about["true_caption"] == own.caption
            assert pair.about["uid"] != own.about["uid"]
            if pair.about["kind"] == "junk":
                assert pair.caption in JUNK
            else:
                assert pair.caption in captions[source] - {own.caption}
                assert label is None or (source, label, pair.caption) not in fitting
    for less, more in itertools.pairwise(sorted(made, reverse=True)):
        spoilt = [at for at, pair in enumerate(made[less]) if pair.about["kind"] != "clean"]
        assert [made[more][at] for at in spoilt] == [made[less][at] for at in spoilt]
    assert Counter(pair.caption for pair in made[10] if pair.about["kind"] == "junk").most_common()[-1][1] >= 4


def test_each_caption_is_drawn_anew(pool: Path, tmp_path: Path) -> None:
    shuffled = [pair for pair in shares(pool, tmp_path / "out", "--shares", 0)[0] if pair.about["kind"] == "shuffled"]
    said = [pair.caption for pair in shuffled if pair.about["source"] == "said"]
    assert len(set(said)) > len(said) / 2
    pets = {pair.caption for pair in shuffled if pair.about["source"] == "pets"}
    assert pets == {f"{start} {label}" for start in ("a photo of", "my") for label in LABELS["pets"]}


def test_bytes_depend_on_the_seed_alone(pool: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        shares(pool, tmp_path / name, "--seed", seed, "--pairs", 50, "--shares", 100, 50)
    a, b, c = (files(tmp_path / name) for name in "abc")
    assert sorted(a) == ["share-100/00000.tar", "share-50/00000.tar"]
    assert a == b
    assert not set(a.values()) & set(c.values())


def test_tars_are_webmixs_in_layout_and_the_reader_agrees(
    pool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_tars, "TAR", 50)
    made = shares(pool, tmp_path / "out", "--shares", 50)[50]
    folder = tmp_path / "out/share-50"
    assert sorted(path.name for path in folder.iterdir()) == ["00000.tar", "00001.tar", "00002.tar"]
    with tarfile.open(folder / "00002.tar") as tar:
        members = tar.getmembers()
        assert [one.name for one in members[:4]] == [
            *(f"000020000.{part}" for part in ("jpg", "json", "txt")),
            "000020001.jpg",
        ]
        assert {one.mtime for one in members} == {0}
        assert len(members) == 3 * 20
    source = open_shards([str(folder)], kind_field="kind")
    assert len(source) == 120
    assert source.kinds == [pair.about["kind"] for pair in made]
    assert list(source.fields("caption")) == [pair.caption for pair in made]


@pytest.mark.parametrize(
    ("words", "tells"),
    [(("--pairs", 121), "121"), (("--pairs", 0), "0 cannot"), (("--shares", 101), "101"), (("--shares", "ten"), "ten")],
)
def test_what_cannot_be_made_is_refused(
    pool: Path, tmp_path: Path, words: tuple[object, ...], tells: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        shares(pool, tmp_path / "out", *words)
    assert tells in f"{ended.value.code} {capsys.readouterr().err}"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kept", [("pets",), ("junk",)])
def test_a_pool_without_wrong_captions_is_refused(tmp_path: Path, kept: tuple[str, ...]) -> None:
    """One class alone has no wrong caption; without junk ones there is none to take either."""
    made = [about(3 * number, "pets") for number in range(9)]
    if kept != ("junk",):
        made += [about(100, "pets", "junk")]
    folder = write(tmp_path / "pool/00000.tar", made)
    with pytest.raises(SystemExit, match="pets" if kept == ("pets",) else "junk"):
        shares(folder, tmp_path / "out")


def test_a_pool_is_never_written_over(pool: Path, tmp_path: Path) -> None:
    shares(pool, tmp_path / "out", "--shares", 50)
    before = files(tmp_path / "out")
    with pytest.raises(SystemExit, match="share-50"):
        shares(pool, tmp_path / "out", "--shares", 50, "--seed", 1)
    assert files(tmp_path / "out") == before


@pytest.mark.parametrize("lost", ["label", "kind"])
def test_pairs_that_nothing_is_known_of_are_refused(tmp_path: Path, lost: str) -> None:
    one = about(3, "pets")
    del one[lost]
    folder = write(tmp_path / "pool/00000.tar", [one])
    with pytest.raises(SystemExit, match=lost):
        shares(folder, tmp_path / "out")
    write(tmp_path / "pool/00000.tar", [about(3, "pets"), about(4, "pets")])
    write(tmp_path / "pool/00001.tar", [about(4, "pets")])
    with pytest.raises(SystemExit, match="000000004"):
        shares(folder, tmp_path / "out")


# -- validation --------------------------------------------------------------------------------------------------------


@pytest.fixture
def eval_folder(tmp_path: Path) -> Path:
    """Tasks without any picture: none may be needed."""
    for name, classes in {"pets": "dog\ncat\nnewt\neel\n", "digits": "0\n1\n", "other": "x\n"}.items():
        folder = tmp_path / f"eval/wds_{name}"
        folder.mkdir(parents=True)
        (folder / "classnames.txt").write_text(classes, encoding="utf-8")
        (folder / "zeroshot_classification_templates.txt").write_text("a {c}\nmy {c}\n", encoding="utf-8")
    (tmp_path / "eval/wds_said").mkdir()
    (tmp_path / "eval/wds_said/dataset_type.txt").write_text("retrieval\n", encoding="utf-8")
    return tmp_path / "eval"


def test_validation_has_the_tasks_classes_and_curated_pictures(eval_folder: Path, tmp_path: Path) -> None:
    made = [about(number, list(LABELS)[number // 10]) for number in range(30)]
    curated = write(tmp_path / "curated/00000.tar", [*made, about(77, "pets", "junk")])
    out = tmp_path / "validation"
    run("validation", "--curated", curated, "--eval", eval_folder, "--out", out)
    assert [folder.name for folder in find_task_folders([out])] == ["wds_digits", "wds_pets", "wds_said"]
    tasks: dict[str, Any] = {folder.name: load_task_folder(folder)[0] for folder in out.iterdir()}
    pets, said = tasks["wds_pets"], tasks["wds_said"]
    assert isinstance(pets, Classification)
    assert pets.classes == ["dog", "cat", "newt", "eel"]
    assert pets.templates == ["a {c}", "my {c}"]
    assert pets.chance == 1 / 4
    assert [pets.classes[at] for at in pets.labels.tolist()] == [one["label"] for one in made[:10]]
    assert isinstance(said, Retrieval)
    assert said.captions == [[one["caption"]] for one in made[20:]]
    with tarfile.open(out / "wds_digits/test/0.tar") as tar:
        images = [tar.extractfile(one).read() for one in tar if one.name.endswith("jpg")]  # type: ignore[union-attr]
    assert images == [picture(number) for number in range(10, 20)]
    run("validation", "--curated", curated, "--eval", eval_folder, "--out", tmp_path / "again")
    assert files(out) == files(tmp_path / "again")


def test_labels_and_collections_without_a_task_are_refused(eval_folder: Path, tmp_path: Path) -> None:
    curated = write(tmp_path / "curated/00000.tar", [about(2, "pets"), about(1, "pets")])
    (eval_folder / "wds_pets/classnames.txt").write_text("dog\ncat\n", encoding="utf-8")
    with pytest.raises(SystemExit, match="eel"):
        run("validation", "--curated", curated, "--eval", eval_folder, "--out", tmp_path / "out")
    write(tmp_path / "curated/00000.tar", [about(2, "birds")])
    with pytest.raises(SystemExit, match="wds_birds"):
        run("validation", "--curated", curated, "--eval", eval_folder, "--out", tmp_path / "out")


def test_validation_of_the_real_photos(shared_data: Path, tmp_path: Path) -> None:
    """Counts and empty classes as `shared_data` describes them."""
    curated, tasks = shared_data / "webmix-curated", shared_data / "eval"
    run("validation", "--curated", curated, "--eval", tasks, "--out", tmp_path)
    made = {folder.name: load_task_folder(folder)[0] for folder in tmp_path.iterdir()}
    sizes = {name: len(task.captions) for name, task in made.items() if isinstance(task, Retrieval)}
    named = {name: task for name, task in made.items() if isinstance(task, Classification)}
    sizes |= {name: len(task.labels) for name, task in named.items()}
    assert sizes.pop("wds_flickr8k") == 1460
    assert sizes.pop("wds_tiny_imagenet") == 1000
    assert sum(sizes.values()) == 4109 - 2460
    assert len(sizes) == 7
    empty = {name: set(task.classes) - {task.classes[at] for at in task.labels} for name, task in named.items()}
    assert {name: len(lost) for name, lost in empty.items() if lost} == {"wds_caltech101": 4, "wds_gtsrb": 1}
    assert "brontosaurus" in empty["wds_caltech101"]


# -- domains -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def others(tmp_path: Path) -> list[Path]:
    made = {name: range(start, start + 30) for name, start in (("mri", 2000), ("roofs", 3000))}
    return [
        write(tmp_path / f"{name}/00200.tar", [about(n, name, "clean" if n % 3 else "junk") for n in numbers])
        for name, numbers in made.items()
    ]


def test_each_domain_has_its_share_of_the_pool(pool: Path, others: list[Path], tmp_path: Path) -> None:
    words = ("domains", "--pool", pool, "--percent", 10, "--domains", *others)
    for name in "ab":
        run(*words, "--out", tmp_path / name)
    assert files(tmp_path / "a") == files(tmp_path / "b")
    pairs = pool_tars.read_pairs([str(tmp_path / "a")])
    # 138 of the pool are 80 % of 172.5.
    assert Counter(pair.about["domain"] for pair in pairs) == {"photos": 138, "mri": 17, "roofs": 17}
    given = {pair.image: pair.about for pair in pool_tars.read_pairs([str(place) for place in (pool, *others)])}
    for pair in pairs:
        own = given[pair.image]
        assert pair.about["domain"] == (own["source"] if own["source"] in ("mri", "roofs") else "photos")
        assert pair.about["domain_kind"] == f"{pair.about['domain']}/{own['kind']}"
        kept = {name: value for name, value in pair.about.items() if name not in ("domain", "domain_kind")}
        assert kept | {"key": 0, "dup_of": 0} == own | {"key": 0, "dup_of": 0}
    places = [at for at, pair in enumerate(pairs) if pair.about["domain"] == "mri"]
    assert max(places) - min(places) > 100
    by_key = {pair.about["key"]: pair for pair in pairs}
    copies = [pair for pair in pairs if "dup_of" in pair.about]
    assert len(copies) == 6
    for copy in copies:
        assert by_key[copy.about["dup_of"]].about["uid"] == f"{int(copy.about['uid'], 16) + 100:032x}"


@pytest.mark.parametrize(("percent", "tells"), [(50, "50"), (25, "69"), (0, "0")])
def test_domains_that_are_too_small_are_refused(
    pool: Path, others: list[Path], tmp_path: Path, percent: int, tells: str
) -> None:
    with pytest.raises(SystemExit, match=tells):
        run("domains", "--pool", pool, "--percent", percent, "--domains", *others, "--out", tmp_path / "out")


def read(*folders: Path) -> list[pool_tars.Pair]:
    return pool_tars.read_pairs([str(folder) for folder in folders])


def test_domains_apart_are_the_same_pairs_and_the_rest_is_clean_and_in_no_pool(
    pool: Path, others: list[Path], tmp_path: Path
) -> None:
    words = ("domains", "--pool", pool, "--percent", 10, "--domains", *others)
    run(*words, "--out", tmp_path / "mixed")
    run(*words, "--out", tmp_path / "apart", "--apart", "--rest", tmp_path / "rest")
    mixed, rest = read(tmp_path / "mixed"), read(tmp_path / "rest")
    folders = sorted((tmp_path / "apart").iterdir())
    assert [folder.name for folder in folders] == ["mri", "photos", "roofs"]
    apart = {folder.name: read(folder) for folder in folders}
    for name, pairs in apart.items():
        # In the order of the mixed pool, with everything that is known of them but their numbers.
        same = [pair for pair in mixed if pair.about["domain"] == name]
        assert [pair.image for pair in pairs] == [pair.image for pair in same]
        for one, other in zip(pairs, same, strict=True):
            assert one.about | {"key": 0, "dup_of": 0} == other.about | {"key": 0, "dup_of": 0}
    assert len(read(*folders, tmp_path / "rest")) == len(mixed) + len(rest)  # no key occurs twice
    by_key = {pair.about["key"]: pair for pair in apart["photos"]}
    copies = [pair for pair in apart["photos"] if "dup_of" in pair.about]
    assert all(by_key[copy.about["dup_of"]].about["uid"][-3:] != copy.about["uid"][-3:] for copy in copies)
    assert len(copies) == 6
    taken = {pair.image for pair in mixed}
    wanted = [pair for pair in read(*others) if pair.about["kind"] == "clean" and pair.image not in taken]
    assert [(pair.image, pair.caption) for pair in rest] == [(pair.image, pair.caption) for pair in wanted]
    assert {pair.about["domain_kind"] for pair in rest} == {"mri/clean", "roofs/clean"}
    assert 0 < len(rest) < 2 * 13


def test_the_rest_has_no_picture_of_the_pool_under_another_caption() -> None:
    seen, other = pool_tars.Pair(b"a", about(1, "pets")), pool_tars.Pair(b"b", about(2, "pets"))
    twin = pool_tars.Pair(b"a", about(3, "pets"))
    assert photo_pools.left_over([seen, other, twin], [seen]) == [other]


def test_a_domain_that_the_pool_takes_whole_leaves_no_rest(pool: Path, tmp_path: Path) -> None:
    few = write(tmp_path / "few/00200.tar", [about(2000, "mri", "junk"), about(2001, "mri")])
    words = ("domains", "--pool", pool, "--percent", 1.43, "--domains", few, "--out", tmp_path / "out")
    with pytest.raises(SystemExit, match="--rest"):
        run(*words, "--rest", tmp_path / "rest")
    assert not (tmp_path / "out").exists()


def test_two_domains_of_one_name_are_refused(pool: Path, others: list[Path], tmp_path: Path) -> None:
    photos = write(tmp_path / "photos/00200.tar", [about(n, "mri") for n in range(2000, 2030)])
    for twice in ([others[0], others[0]], [photos]):
        with pytest.raises(SystemExit, match="--domains"):
            run("domains", "--pool", pool, "--percent", 5, "--domains", *twice, "--out", tmp_path / "out")


def test_a_copy_without_its_original_is_refused(tmp_path: Path) -> None:
    copy = pool_tars.Pair(b"", about(1, "pets", "duplicate", dup_of="000000002"))
    with pytest.raises(pool_tars.AcedError, match="000000002"):
        pool_tars.write_pool(tmp_path / "out", [copy])


# -- kept --------------------------------------------------------------------------------------------------------------


def write_run(folder: Path, kinds: list[dict[str, Any] | None]) -> Path:
    folder.mkdir()
    lines = [{"step": 20 * at} | ({} if one is None else {"kinds": one}) for at, one in enumerate(kinds, start=1)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return folder


def test_kept_counts_candidates_and_trained_pairs_of_all_steps(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pool = {"photos/clean": 60, "photos/junk": 20, "photos/duplicate": 10, "mri/clean": 6, "mri/junk": 4}
    first = {"pool": pool, "chosen": {"photos/clean": 12, "photos/duplicate": 3, "mri/clean": 1}}
    second = {"pool": pool, "chosen": {"photos/junk": 3, "mri/junk": 1}}
    run("kept", write_run(tmp_path / "one", [first, None, second]))
    rows = [[word.strip() for word in line.split("|")[1:-1]] for line in capsys.readouterr().out.splitlines()[2:]]
    assert rows == [
        ["one", "mri", "10.00", "60.00", "10.00", "50.00", "1.00"],
        ["one", "photos", "90.00", "77.78", "90.00", "83.33", "1.00"],
        ["one", "all", "100.00", "76.00", "100.00", "80.00", "1.00"],
    ]


@pytest.mark.parametrize("kinds", [[None], [{"pool": {"clean": 3}, "chosen": {"clean": 1}}]])
def test_runs_without_counts_by_domain_are_refused(tmp_path: Path, kinds: list[dict[str, Any] | None]) -> None:
    with pytest.raises(SystemExit, match=r"data\.kind_field"):
        run("kept", write_run(tmp_path / "one", kinds))
