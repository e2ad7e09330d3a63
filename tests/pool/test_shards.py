import io
import json
import os
import pickle
import re
import resource
import threading
from collections import Counter
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import torch
from data_fakes import pairs, picture, tar_bytes
from PIL import Image

from aced.errors import AcedError
from aced.pool.captions import MAX_CAPTION
from aced.pool.faults import HARMLESS
from aced.pool.shards import Shards, open_shards
from aced.pool.source import Candidates
from aced.pool.tars import indexing, tarfiles, tarindex
from aced.pool.tars.tars import list_tar
from aced.pool.views import View

VIEW, OTHER = View(16), View(24, "squash", "bilinear")


def fault_names(source: Shards | Candidates) -> dict[str, str]:
    return {fault.key: fault.name for fault in source.faults}


def test_pairs_are_read_in_the_order_asked_in_every_view(write_tar):
    write_tar("d/0.tar", pairs(5))
    write_tar("d/1.tar", pairs(4, start=5))
    source = open_shards([str(write_tar("d/2.tar", pairs(1, start=9)).parent)], decoding="exact")
    assert len(source) == len(source.keys) == 10
    assert list(source.keys)[4:6] == ["0.tar/00004", "1.tar/00005"]
    assert source.keys[-1] == "2.tar/00009"
    assert source.name == "d"
    assert source.faults == ()
    found = source.read([7, 0, 9, 7], [VIEW, OTHER])
    assert found.indices.tolist() == [7, 0, 9, 7]
    assert found.texts == ["caption 7", "caption 0", "caption 9", "caption 7"]
    assert found.faults == ()
    for view in (VIEW, OTHER):
        assert found.images[view].dtype == torch.uint8
        for row, number in enumerate([7, 0, 9, 7]):
            pixels = np.asarray(Image.open(io.BytesIO(picture(number))).convert("RGB"))
            assert np.array_equal(found.images[view][row].numpy(), view.apply(pixels))
    assert len(source.read([], [VIEW])) == 0
    for wrong in (10, -1):
        with pytest.raises(IndexError):
            source.read([wrong], [VIEW])


def test_captions_from_json(write_tar):
    metas = [{"alt": ["first", "second"]}, {"alt": 7}, {"alt": None}, {}, {"alt": []}, [1], {"alt": " "}]
    members = []
    for number, meta in enumerate(metas):
        members += [(f"{number}.jpg", picture(number)), (f"{number}.json", json.dumps(meta).encode())]
    members += [("x.jpg", picture(0)), ("x.json", b"{broken"), ("y.jpg", picture(0)), ("y.txt", b"only txt")]
    source = open_shards([str(write_tar("0.tar", members))], caption="json:alt")
    found = source.read(range(len(source)), [VIEW])
    assert found.texts == ["first"]
    assert [fault.name for fault in found.faults] == [
        *["caption_no_text"] * 2,
        "caption_no_field",
        "caption_empty",
        "caption_no_field",
        "caption_empty",
        "caption_bad_json",
    ]
    assert fault_names(source) == {"0.tar/y": "no_caption"}
    with pytest.raises(AcedError, match=r'"txt".*"json:<field>".*"alt"'):
        open_shards([str(write_tar("0.tar", members))], caption="alt")


def test_captions_are_cleaned(write_tar):
    captions = {
        "a": "\ufeff grün \r\n".encode(),
        "b": b"latin \xe9",
        "c": b"nul\0 in it\0",
        "d": b"\xef\xbb\xbf \0 \n",
        "e": b"x" * 1_000_000,
    }
    members = [(f"{key}.jpg", picture(0)) for key in captions] + [(f"{k}.txt", v) for k, v in captions.items()]
    source = open_shards([str(write_tar("0.tar", members))])
    found = source.read(range(5), [VIEW])
    assert found.texts == ["grün", "latin \ufffd", "nul in it", "x" * MAX_CAPTION]
    assert fault_names(found) == {"0.tar/d": "caption_empty"}


def test_incomplete_samples_are_left_out_and_told(write_tar):
    members = [
        ("ok.jpg", picture(1)),
        ("no_text.jpg", picture(2)),
        ("no_image.txt", b"alone"),
        ("empty_image.jpg", b""),
        ("empty_image.txt", b"x"),
        ("empty_text.jpg", picture(3)),
        ("empty_text.txt", b""),
        ("ok.txt", b"far from its image"),
        ("dot.a.jpg", picture(4)),
        ("dot.txt", b"x"),
        ("A.JPG", picture(5)),
        ("A.txt", b"capital suffix"),
        (".hidden.jpg", picture(6)),
        ("README", b"x"),
    ]
    source = open_shards([str(write_tar("0.tar", members))])
    assert list(source.keys) == ["0.tar/ok", "0.tar/A"]
    assert source.read([0, 1], [VIEW]).texts == ["far from its image", "capital suffix"]
    assert fault_names(source) == {
        "0.tar/no_text": "no_caption",
        "0.tar/no_image": "no_image",
        "0.tar/empty_image": "empty_member",
        "0.tar/empty_text": "empty_member",
        "0.tar/dot": "dotted_key",
        "0.tar/.hidden.jpg": "no_key",
        "0.tar/README": "no_key",
    }
    assert "a.jpg, txt" in next(fault.detail for fault in source.faults if fault.key == "0.tar/dot")


def test_doubles_are_counted_and_the_first_or_the_preferred_is_used(write_tar):
    members = [
        ("a.jpg", picture(1)),
        ("a.txt", b"first"),
        ("a.txt", b"second"),
        ("b.png", picture(2, "PNG")),
        ("b.jpg", picture(3)),
        ("b.txt", b"both"),
    ]
    source = open_shards([str(write_tar("0.tar", members))], decoding="exact")
    found = source.read([0, 1], [VIEW])
    assert found.texts == ["first", "both"]
    expected = VIEW.apply(np.asarray(Image.open(io.BytesIO(picture(3)))))
    assert np.array_equal(found.images[VIEW][1].numpy(), expected)
    assert fault_names(source) == {"0.tar/a": "duplicate_member", "0.tar/b": "two_images"}
    assert set(fault_names(source).values()) <= set(HARMLESS)


def test_faulty_images_are_left_out_and_told(write_tar):
    bad = {"b": b"<html>", "c": picture(1)[:-60]}
    members = [(f"{key}.jpg", bad.get(key, picture(0))) for key in "abcd"]
    members += [(f"{key}.txt", key.encode()) for key in "abcd"]
    source = open_shards([str(write_tar("0.tar", members))])
    found = source.read([3, 2, 1, 0], [VIEW, OTHER])
    assert found.indices.tolist() == [3, 0]
    assert found.texts == ["d", "a"]
    assert all(len(pixels) == 2 for pixels in found.images.values())
    assert fault_names(found) == {"0.tar/c": "image_truncated", "0.tar/b": "image_unreadable"}
    assert all(fault.key in fault.detail for fault in found.faults)


WHOLE = tar_bytes(pairs(6))


@pytest.mark.parametrize(
    ("content", "name", "words", "whole"),
    [
        (WHOLE[: len(WHOLE) // 2], "tar_truncated", "cut", 4),
        (WHOLE + tar_bytes(pairs(3, start=6)), "tar_data_after_end", "end", 9),
        (b"", "tar_empty_file", "empty", 0),
        (b"<html>" + bytes(600), "tar_not_a_tar", "web page", 0),
        (b"\x1f\x8b" + bytes(600), "tar_not_a_tar", "unpack", 0),
    ],
)
def test_a_damaged_tar_stops_the_run_or_is_used_as_far_as_it_is_whole(tmp_path, write_tar, content, name, words, whole):
    write_tar("d/0.tar", pairs(2, start=50))
    (tmp_path / "d" / "1.tar").write_bytes(content)
    with pytest.raises(AcedError) as caught:
        open_shards([str(tmp_path / "d")])
    for part in (
        str(tmp_path / "d" / "1.tar"),
        words,
        'data.bad_tars = "skip"',
        f" {whole} " if whole else "1.tar",
    ):
        assert part in str(caught.value)
    source = open_shards([str(tmp_path / "d")], bad_tars="skip")
    assert len(source) == 2 + whole
    assert fault_names(source)["1.tar"] == name
    assert len(source.read(range(len(source)), [VIEW])) == 2 + whole


def test_a_sample_cut_in_two_is_told(tmp_path: Path):
    end = next(m for m in list_tar_of(tmp_path, WHOLE).members if m.name == "00004.txt").offset - 512
    (tmp_path / "0.tar").write_bytes(WHOLE[:end])
    source = open_shards([str(tmp_path)], bad_tars="skip")
    assert len(source) == 4
    assert fault_names(source) == {"0.tar": "tar_truncated", "0.tar/00004": "no_caption"}


def list_tar_of(tmp_path: Path, content: bytes):
    (tmp_path / "0.tar").write_bytes(content)
    return list_tar(tmp_path / "0.tar")


def test_tars_without_pairs_are_refused(tmp_path: Path, write_tar):
    path = write_tar("d/0.tar", [("a.jpg", picture(0)), ("a.cls", b"3")])
    with pytest.raises(AcedError, match=r"0\.tar.*\(txt\).*cls, jpg"):
        open_shards([str(path)])
    with pytest.raises(AcedError, match=r"1 tars.*pair"):
        open_shards([str(path)], bad_tars="skip")
    with pytest.raises(AcedError, match="folder"):
        open_shards([str(tmp_path / "x" / "*" / "a.tar").replace("*", "y")])
    with pytest.raises(AcedError, match="bad_tars"):
        open_shards([str(path)], bad_tars="ignore")


def test_a_tar_that_changes_while_it_is_used_ends_the_run(write_tar):
    path = write_tar("0.tar", pairs(3))
    source = open_shards([str(path)])
    content = path.read_bytes()
    path.write_bytes(content[:2000])
    os.utime(path, ns=(1, 1))
    with pytest.raises(AcedError, match=r"0\.tar.*changed"):
        source.read([2], [VIEW])
    path.unlink()
    with pytest.raises(AcedError, match=r"0\.tar.*No such file"):
        pickle.loads(pickle.dumps(source)).read([0], [VIEW])


def test_a_short_read_ends_the_run(write_tar, monkeypatch):
    source = open_shards([str(write_tar("0.tar", pairs(3)))])
    real = os.pread
    monkeypatch.setattr(tarfiles.os, "pread", lambda fd, size, at: real(fd, min(size, 100), at))
    assert len(source.read([0, 1, 2], [VIEW])) == 3  # the system may give less at a time
    monkeypatch.setattr(tarfiles.os, "pread", lambda *_: b"")
    with pytest.raises(AcedError, match="changed"):
        source.read([0], [VIEW])


def test_the_index_is_kept_checked_and_made_again(tmp_path: Path, write_tar, monkeypatch):
    path = write_tar("d/0.tar", [*pairs(3), ("a.jpg", b""), ("x", b"")])
    plain = open_shards([str(path)])
    cache = tmp_path / "cache"
    first = open_shards([str(path)], index_dir=cache)
    walks = []
    monkeypatch.setattr(tarindex, "list_tar", lambda path: walks.append(path) or list_tar(path))
    for source in (first, open_shards([str(path)], index_dir=cache)):
        assert list(source.keys) == list(plain.keys)
        assert source.faults == plain.faults
        assert (source.fingerprint, source.parts) == (plain.fingerprint, plain.parts)
        assert source.read([2], [VIEW]).texts == ["caption 2"]
    assert not walks
    kept = indexes_in(cache)
    assert len(kept) == 1
    kept[0].write_bytes(kept[0].read_bytes()[:-20])
    damaged = open_shards([str(path)], index_dir=cache)
    assert not walks  # until it is read
    for _ in range(2):
        assert list(damaged.keys) == list(plain.keys)
    assert len(walks) == 1
    write_tar("d/0.tar", pairs(4))
    assert len(open_shards([str(path)], index_dir=cache)) == 4
    assert len(walks) == 2
    assert [file.name for file in path.parent.iterdir()] == ["0.tar"]


@pytest.fixture
def pool(tmp_path: Path, write_tar) -> Path:
    for number in range(3):
        write_tar(f"d/{number}.tar", pairs(3, start=3 * number))
    return tmp_path / "d"


def indexes_in(index_dir: Path) -> list[Path]:
    """The indexes of single tars."""
    return sorted(path for path in index_dir.glob("*.npz") if not path.name.startswith("pool-"))


def without_manifest(index_dir: Path) -> None:
    """What knows the tars without their indexes is gone."""
    for path in index_dir.glob("pool-*"):
        path.unlink()


def spoil(index_dir: Path, how: str) -> None:
    """Do to a folder of three indexes what happens to folders."""
    without_manifest(index_dir)
    kept = indexes_in(index_dir)
    if how == "damaged":
        kept[0].write_bytes(b"no index")
        kept[1].write_bytes(b"")
    elif how == "stale":
        for cache in kept:
            cache.write_bytes(kept[0].read_bytes())  # of a tar with another time
    else:  # root may write wherever a folder is, so that there must be none
        for cache in kept:
            cache.unlink()
        index_dir.rmdir()
        index_dir.write_bytes(b"")


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(("how", "count"), [("damaged", 2), ("stale", 2), ("cannot be kept", 3)])
def test_an_index_folder_that_is_of_no_use_is_told_once_and_done_without(
    pool: Path, tmp_path: Path, how: str, count: int, workers: int, monkeypatch
):
    monkeypatch.setattr(indexing, "_PARALLEL", 2)
    for number, tar in enumerate(sorted(pool.iterdir())):
        os.utime(tar, ns=(number, number))
    cache = tmp_path / "index"
    told: list[str] = []
    whole = open_shards([str(pool)], index_dir=cache, tell=told.append)
    assert not told
    spoil(cache, how)
    for _ in range(2):
        if how != "cannot be kept":
            without_manifest(cache)
        source = open_shards([str(pool)], index_dir=cache, tell=told.append, workers=workers)
        assert source.read(range(9), [VIEW]).texts == whole.read(range(9), [VIEW]).texts
        assert (source.fingerprint, source.faults) == (whole.fingerprint, whole.faults)
    assert len(told) == (2 if how == "cannot be kept" else 1)  # the others are whole again
    assert re.search({"damaged": "damaged", "stale": "out of date", "cannot be kept": "stored|state"}[how], told[0])
    assert f": {count} (" in told[0]
    assert str(cache) in told[0]


def test_a_full_index_folder_is_told_and_keeps_nothing_half_written(pool: Path, tmp_path: Path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    told: list[str] = []
    resource.setrlimit(resource.RLIMIT_FSIZE, (600, limits[1]))
    try:
        source = open_shards([str(pool)], index_dir=tmp_path / "index", tell=told.append)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert len(source) == 9
    assert len(told) == 1
    assert ": 3 (Disk full" in told[0]
    assert list((tmp_path / "index").iterdir()) == []


def test_no_flipped_byte_of_a_kept_index_is_used_or_stops_anything(pool: Path, tmp_path: Path):
    """A byte in a hundred, each flipped alone: found by the checksums of the file, or without meaning."""
    tar, cache = pool / "1.tar", tmp_path / "index"
    right = open_shards([str(tar)], index_dir=cache)
    (kept,) = indexes_in(cache)
    whole = kept.read_bytes()
    told: list[str] = []
    for place in range(0, len(whole), 29):
        without_manifest(cache)
        kept.write_bytes(whole[:place] + bytes([whole[place] ^ 0x41]) + whole[place + 1 :])
        source = open_shards([str(tar)], index_dir=cache, tell=told.append)
        assert list(source.keys) == list(right.keys)
        assert source.parts == right.parts
        assert source.fingerprint == right.fingerprint
    assert len(told) > len(whole) / 29 / 2


def test_many_tars_are_indexed_by_several_processes(tmp_path: Path, write_tar):
    for number in range(17):
        write_tar(f"d/{number:02d}.tar", pairs(2, start=2 * number))
    alone, helped = (open_shards([str(tmp_path / "d")], workers=count) for count in (0, 2))
    assert list(helped.keys) == list(alone.keys)
    assert helped.fingerprint == alone.fingerprint
    write_tar("d/03.tar", [("a.jpg", b"")])
    (tmp_path / "d" / "05.tar").write_bytes(b"")
    for count in (0, 2):
        with pytest.raises(AcedError, match=r"03\.tar.*pair"):
            open_shards([str(tmp_path / "d")], workers=count)
        assert fault_names(open_shards([str(tmp_path / "d")], workers=count, bad_tars="skip")) == {
            "03.tar/a": "no_caption",
            "05.tar": "tar_empty_file",
        }


def test_fingerprints_tell_data_apart(tmp_path: Path, write_tar):
    path = write_tar("0.tar", pairs(3))
    os.utime(path, ns=(5, 5))
    first = open_shards([str(path)])
    assert open_shards([str(path)]).fingerprint == first.fingerprint
    by_json = open_shards([str(path)], caption="json:caption")
    assert by_json.fingerprint != first.fingerprint
    assert by_json.parts != first.parts
    os.utime(path, ns=(6, 6))
    touched = open_shards([str(path)])
    assert touched.fingerprint != first.fingerprint
    assert touched.parts == first.parts
    write_tar("0.tar", pairs(3, start=1))
    os.utime(path, ns=(5, 5))
    assert open_shards([str(path)]).parts != first.parts


def test_equal_tar_names_in_two_folders_stay_apart(tmp_path: Path, write_tar):
    write_tar("a/0.tar", pairs(1))
    write_tar("b/0.tar", pairs(1, start=1))
    source = open_shards([str(tmp_path / "a"), str(tmp_path / "b")])
    assert list(source.keys) == ["a/0.tar/00000", "b/0.tar/00001"]


def test_kinds_come_from_json_and_are_none_without(write_tar):
    members = [*pairs(3), ("x.jpg", picture(0)), ("x.txt", b"x")]
    path = str(write_tar("0.tar", members))
    assert open_shards([path], kind_field="kind").kinds == ["junk", "clean", "junk", "unknown"]
    assert open_shards([path]).kinds is None
    assert open_shards([path], kind_field="caption").kinds == [*(f"json caption {n}" for n in range(3)), "unknown"]
    bare = [member for member in pairs(3) if not member[0].endswith("json")]
    assert open_shards([str(write_tar("1.tar", bare))], kind_field="kind").kinds is None
    odd = [*bare, *[(f"{n:05d}.json", content) for n, content in enumerate([b"[]", b"{", b'{"kind": "x"}'])]]
    assert open_shards([str(write_tar("2.tar", odd))], kind_field="kind").kinds is None


def test_more_tars_than_may_stay_open(write_tar, monkeypatch):
    monkeypatch.setattr(tarfiles, "most_tars", lambda: 2)
    for number in range(5):
        path = write_tar(f"d/{number}.tar", pairs(2, start=2 * number))
    source = open_shards([str(path.parent)])
    before = len(os.listdir("/proc/self/fd"))
    wanted = [0, 9, 3, 5, 7, 1, 8, 2, 6, 4] * 2
    assert source.read(wanted, [VIEW]).texts == [f"caption {number}" for number in wanted]
    assert len(os.listdir("/proc/self/fd")) <= before + 2


def test_each_tar_is_opened_once_for_a_read_whatever_the_order_asked(write_tar, monkeypatch):
    for number in range(3):
        spoilt = [(f"{number}9.jpg", b"no image"), (f"{number}9.txt", b"x")]
        path = write_tar(f"d/{number}.tar", pairs(4, start=10 * number) + spoilt)
    source = open_shards([str(path.parent)])
    monkeypatch.setattr(tarfiles, "most_tars", lambda: 1)
    opened = Counter()
    real = tarfiles.TarFiles._opened
    monkeypatch.setattr(
        tarfiles.TarFiles, "_opened", lambda self, tar, others: opened.update([tar]) or real(self, tar, others)
    )
    order = [10, 0, 5, 14, 1, 11, 4, 9, 12, 6]
    found = source.read(order, [VIEW])
    assert set(opened.values()) == {1}
    assert found.indices.tolist() == [10, 0, 5, 1, 11, 12, 6]
    assert [fault.key for fault in found.faults] == [source.keys[index] for index in (14, 4, 9)]
    one_by_one = [source.read([index], [VIEW]) for index in found.indices.tolist()]
    assert list(found.texts) == [text for one in one_by_one for text in one.texts]
    assert torch.equal(found.images[VIEW], torch.cat([one.images[VIEW] for one in one_by_one]))


def read_some(source: Shards) -> list[str]:
    return source.read([3, 1], [VIEW]).texts


def test_reading_in_threads_and_processes(write_tar):
    source = open_shards([str(write_tar("0.tar", pairs(4)))])
    expected = read_some(source)
    copy = pickle.loads(pickle.dumps(source))
    assert (list(copy.keys), copy.fingerprint, read_some(copy)) == (list(source.keys), source.fingerprint, expected)
    found: list[list[str]] = []
    threads = [threading.Thread(target=lambda: found.append(read_some(source))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected] * 8
    with get_context("fork").Pool(2) as pool:
        assert pool.map(read_some, [source] * 3) == [expected] * 3


def test_real_photos(shared_data: Path):
    done: list[tuple[int, int]] = []
    source = open_shards(
        [str(shared_data / "webmix" / "{00009..00010}.tar")],
        kind_field="kind",
        progress=lambda *counts: done.append(counts),
    )
    assert done == [(1, 2), (2, 2)]
    assert len(source) == 3750
    assert source.faults == ()
    assert source.kinds is not None
    assert set(Counter(source.kinds)) == {"clean", "shuffled", "partial", "junk", "duplicate"}
    found = source.read(range(0, 3750, 25), [View(32)])
    assert found.images[View(32)].shape == (150, 3, 32, 32)
    assert all(found.texts)
    by_json = open_shards([str(shared_data / "webmix" / "00009.tar")], caption="json:caption")
    assert by_json.read(range(50), [VIEW]).texts == source.read(range(50), [VIEW]).texts


def test_image_and_caption_are_read_at_once_where_they_are_neighbours(tmp_path: Path, monkeypatch):
    near, far = pairs(2), pairs(2, start=2)
    far = [*far[:2], ("pad.bin", bytes(200_000)), *far[2:]]  # between the image and the caption of sample 2
    (tmp_path / "a.tar").write_bytes(tar_bytes([*near, *far]))
    source = open_shards([str(tmp_path)])
    expected = [source.read([row], [VIEW]) for row in range(4)]
    reads: list[int] = []
    real = os.pread
    monkeypatch.setattr(tarfiles.os, "pread", lambda file, size, at: (reads.append(size), real(file, size, at))[1])
    for row, count in enumerate([1, 1, 2, 1]):
        reads.clear()
        found = source.read([row], [VIEW])
        assert len(reads) == count
        assert sum(reads) < 10_000  # and not what lies between those that are apart
        assert found.texts == expected[row].texts == [f"caption {row}"]
        assert torch.equal(found.images[VIEW], expected[row].images[VIEW])
