"""Every fault that tars, samples, images and captions can have: built, named, counted, and nothing else lost.

The ids are the faults. Each case is read in full with `bad_tars="skip"`, and everything that is told must be what is
expected, with its count, beside the number of samples that are still given. In the middle of each tar with a damaged
structure there are six good samples, so that what is lost shows.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import re
import struct
import tarfile
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from data_fakes import Members, pairs, picture, tar_bytes
from PIL import Image, features

from aced.errors import AcedError
from aced.pool.faults import HARMLESS, LEFT_OUT, FaultList
from aced.pool.fetch.spool import Spool
from aced.pool.shards import open_shards
from aced.pool.source import Fault
from aced.pool.tars.losttars import LOST
from aced.pool.views import View
from wording import tells

VIEW = View(16)
WHOLE = tar_bytes(pairs(6))
ROOT = Path(__file__).parents[2]


def _offsets() -> list[int]:
    with tarfile.open(fileobj=io.BytesIO(WHOLE)) as tar:
        return [info.offset for info in tar]


AT = _offsets()
"""Headers of WHOLE: jpg, json, txt of sample 0, of sample 1, ..."""


@dataclass(frozen=True)
class Case:
    """Files by name, what must be told of them, and how many samples they give.

    Attributes:
        files: the content of each file.
        told: name of the fault to count.
        given: samples that can be read.
        stops: words of the sentence with which `bad_tars="stop"` refuses them, if it does.
        caption: where captions are.
    """

    files: dict[str, bytes]
    told: dict[str, int]
    given: int
    stops: str = ""
    caption: str = "txt"


def tar_case(content: bytes, told: dict[str, int], given: int, stops: str) -> Case:
    """One tar with damage in it."""
    return Case({"0.tar": content}, told, given, stops)


def sample_case(members: Members, told: dict[str, int], given: int, caption: str = "txt") -> Case:
    """One sound tar with odd members, after one good sample."""
    return Case({"0.tar": tar_bytes([*pairs(1, start=900), *members])}, told, given + 1, caption=caption)


def zeroed(start: int, end: int) -> bytes:
    return WHOLE[:start] + bytes(end - start) + WHOLE[end:]


def flipped(place: int) -> bytes:
    return WHOLE[:place] + bytes([WHOLE[place] ^ 4]) + WHOLE[place + 1 :]


def links() -> bytes:
    """A folder, a symbolic and a hard link, each with a caption, and one good sample."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, kind in [("d", tarfile.DIRTYPE), ("s.jpg", tarfile.SYMTYPE), ("h.jpg", tarfile.LNKTYPE)]:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "00000.jpg"
            tar.addfile(info)
        for name, content in [*pairs(1), ("s.txt", b"linked"), ("h.txt", b"linked too")]:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


LONG = "n" * 120
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 605219813\n"
TARS = {
    "cut inside a header": tar_case(WHOLE[: AT[6] + 100], {"tar_truncated": 1}, 2, "cut off after"),
    "cut exactly at a member boundary": tar_case(WHOLE[: AT[6]], {"tar_truncated": 1}, 2, "cut off after"),
    "cut between the members of a sample": tar_case(
        WHOLE[: AT[7]], {"tar_truncated": 1, "no_caption": 1}, 2, "cut off after"
    ),
    "cut inside a member's data": tar_case(
        WHOLE[: AT[8] + 515], {"tar_truncated": 1, "no_caption": 1}, 2, r"inside 00002\.txt"
    ),
    "zero-filled tail": tar_case(
        zeroed(AT[6], len(WHOLE)) + bytes(12_000), {"tar_zero_tail": 1}, 2, "filled with zeros"
    ),
    "zero-filled tail inside an image": tar_case(
        zeroed(AT[6] + 700, len(WHOLE)) + bytes(12_000), {"tar_zero_tail": 1}, 2, "filled with zeros"
    ),
    "zero-filled tail inside a caption": tar_case(
        zeroed(AT[5] + 515, len(WHOLE)), {"tar_zero_tail": 1, "no_caption": 1}, 1, "zeros"
    ),
    "short zero-filled tail inside a caption": tar_case(
        zeroed(AT[17] + 515, len(WHOLE)), {"caption_cleaned": 1}, 6, ""
    ),
    "one header zeroed in the middle": tar_case(
        zeroed(AT[6], AT[6] + 512), {"tar_data_after_end": 1, "no_image": 1}, 5, "zeros"
    ),
    "a whole sample zeroed in the middle": tar_case(zeroed(AT[6], AT[9]), {"tar_data_after_end": 1}, 5, "end"),
    "bit flip in a header": tar_case(flipped(AT[6] + 2), {"tar_bad_header": 1, "no_image": 1}, 5, "damaged"),
    "bit flip in the first header": tar_case(flipped(2), {"tar_bad_header": 1, "no_image": 1}, 5, "byte 0 .*damaged"),
    "bytes lost in an image": tar_case(
        WHOLE[: AT[6] + 600] + WHOLE[AT[7] - 3 :], {"tar_bad_header": 1, "no_image": 1}, 5, "damaged"
    ),
    "two tars concatenated": tar_case(WHOLE + tar_bytes(pairs(4, start=6)), {"tar_data_after_end": 1}, 10, "joined"),
    "two tars with the same keys concatenated": tar_case(
        WHOLE + WHOLE, {"tar_data_after_end": 1, "duplicate_key": 6}, 12, "joined"
    ),
    "empty file": tar_case(b"", {"tar_empty_file": 1}, 0, "empty"),
    "zeros only": tar_case(bytes(10240), {"tar_empty_file": 1}, 0, "members"),
    "git-lfs pointer as .tar": tar_case(LFS, {"tar_not_a_tar": 1}, 0, "git lfs pull"),
    "git-annex pointer as .tar": tar_case(
        b"/annex/objects/SHA256E-s10--01.tar\n", {"tar_not_a_tar": 1}, 0, "annex get"
    ),
    "error message as .tar": tar_case(
        b"<?xml?><Error><Code>AccessDenied</Code>", {"tar_not_a_tar": 1}, 0, "AccessDenied"
    ),
    "parquet as .tar": tar_case(b"PAR1" + bytes(900), {"tar_not_a_tar": 1}, 0, "parquet"),
    "JPEG as .tar": tar_case(picture(0), {"tar_not_a_tar": 1}, 0, "JPEG"),
    "HTML page as .tar": tar_case(b"<!DOCTYPE html>" + bytes(900), {"tar_not_a_tar": 1}, 0, "web page"),
    "another file as .tar": tar_case(b"PK\3\4" + bytes(range(200)) * 20, {"tar_not_a_tar": 1}, 0, "not a tar"),
    ".tar.gz": Case({"0.tar.gz": gzip.compress(WHOLE)}, {}, 6),
    "gzip under the name .tar": Case({"0.tar": gzip.compress(WHOLE)}, {}, 6),
    "cut gzip": Case(
        {"0.tar.gz": gzip.compress(WHOLE, 0)[: AT[6] + 300]},
        {"tar_gzip_damaged": 1, "tar_truncated": 1},
        2,
        "gzip.*damaged",
    ),
    "gzip with a wrong check sum": Case(
        {"0.tar.gz": gzip.compress(WHOLE)[:-8] + bytes(8)}, {"tar_gzip_damaged": 1}, 6, "gzip.*damaged"
    ),
    "PAX headers": Case({"0.tar": tar_bytes([(f"{LONG}{k}", v) for k, v in pairs(3)], tarfile.PAX_FORMAT)}, {}, 3),
    "GNU long names": Case({"0.tar": tar_bytes([(f"{LONG}{k}", v) for k, v in pairs(3)], tarfile.GNU_FORMAT)}, {}, 3),
    "UTF-8 names": Case({"0.tar": tar_bytes([(f"grüße-日{k}", v) for k, v in pairs(3)], tarfile.PAX_FORMAT)}, {}, 3),
    "directory, symlink, hard link": Case({"0.tar": links()}, {"folder": 1, "not_regular": 2, "no_image": 2}, 1),
    "duplicate key in another tar": Case({"0.tar": WHOLE, "1.tar": WHOLE}, {"key_in_two_tars": 6}, 12),
}

JPG, PNG = picture(1), picture(2, "PNG")
SAMPLES = {
    "zero-byte image": sample_case([("a.jpg", b""), ("a.txt", b"x")], {"empty_member": 1}, 0),
    "zero-byte caption": sample_case([("a.jpg", JPG), ("a.txt", b"")], {"empty_member": 1}, 0),
    ".txt missing": sample_case([("a.jpg", JPG), ("b.jpg", JPG)], {"no_caption": 2}, 0),
    "image missing": sample_case([("a.txt", b"x"), ("a.json", b"{}")], {"no_image": 1}, 0),
    "jpg and png for one key": sample_case([("a.png", PNG), ("a.jpg", JPG), ("a.txt", b"x")], {"two_images": 1}, 1),
    "members of a key not adjacent": sample_case(
        [("a.jpg", JPG), ("b.jpg", JPG), ("b.txt", b"b"), ("a.txt", b"a")], {}, 2
    ),
    "duplicate name, adjacent": sample_case(
        [("a.jpg", JPG), ("a.jpg", PNG), ("a.txt", b"x")], {"duplicate_member": 1}, 1
    ),
    "duplicate key apart": sample_case(
        [("a.jpg", JPG), ("a.txt", b"1"), ("b.jpg", JPG), ("b.txt", b"2"), ("a.jpg", JPG), ("a.txt", b"3")],
        {"duplicate_key": 1},
        3,
    ),
    "a.b.jpg, a.c.jpg": sample_case(
        [("a.b.jpg", JPG), ("a.b.txt", b"x"), ("a.c.jpg", JPG), ("a.c.txt", b"y")], {"dotted_key": 2}, 0
    ),
    ".hidden.jpg, noext": sample_case(
        [(".hidden.jpg", JPG), ("noext", b"x"), ("dir/.jpg", JPG), ("d.1/e.jpg", JPG), ("d.1/e.txt", b"x")],
        {"no_key": 3},
        1,
    ),
    "A.JPG": sample_case([("A.JPG", JPG), ("A.TXT", b"x")], {}, 1),
    "a.jpg + A.txt": sample_case([("a.jpg", JPG), ("A.txt", b"x")], {"no_caption": 1, "no_image": 1}, 0),
    "../x.jpg, /abs/y.jpg, ./z.jpg": sample_case(
        [(f"{key}.{end}", part) for key in ("../x", "/abs/y", "./z") for end, part in (("jpg", JPG), ("txt", b"x"))],
        {},
        3,
    ),
    "caption not UTF-8": sample_case([("a.jpg", JPG), ("a.txt", b"caf\xe9")], {"caption_not_utf8": 1}, 1),
    "caption empty": sample_case([("a.jpg", JPG), ("a.txt", b" \r\n")], {"caption_empty": 1}, 0),
    "caption with NUL": sample_case([("a.jpg", JPG), ("a.txt", b"a\0b\0")], {"caption_cleaned": 1}, 1),
    "caption with BOM and CRLF": sample_case(
        [("a.jpg", JPG), ("a.txt", b"\xef\xbb\xbfa\r\n")], {"caption_cleaned": 1}, 1
    ),
    "caption of 1 MB": sample_case([("a.jpg", JPG), ("a.txt", b"word " * 200_000)], {"caption_long": 1}, 1),
    "json with a list": sample_case(
        [("a.jpg", JPG), ("a.json", b'{"caption": ["a cat", "y"]}')], {}, 1, "json:caption"
    ),
    "broken json": sample_case([("a.jpg", JPG), ("a.json", b'{"caption"')], {"caption_bad_json": 1}, 0, "json:caption"),
    "json without the field": sample_case(
        [("a.jpg", JPG), ("a.json", b'{"alt": "x"}')], {"caption_no_field": 1}, 0, "json:caption"
    ),
    "null for a caption": sample_case(
        [("a.jpg", JPG), ("a.json", b'{"caption": null}')], {"caption_no_text": 1}, 0, "json:caption"
    ),
    "NaN for a caption": sample_case(
        [("a.jpg", JPG), ("a.json", b'{"caption": NaN}')], {"caption_no_text": 1}, 0, "json:caption"
    ),
    "json with a list of synonyms": sample_case(
        [("a.jpg", JPG), ("a.json", b'{"caption": ["cat", "kitten"]}')], {"caption_words": 1}, 1, "json:caption"
    ),
    "nan in the .txt": sample_case([("a.jpg", JPG), ("a.txt", b"nan\n")], {"caption_placeholder": 1}, 1),
    "git-lfs pointers in a tar": sample_case(
        [("a.jpg", LFS), ("a.txt", b"x"), ("b.jpg", JPG), ("b.txt", LFS)],
        {"image_unreadable": 1, "caption_no_text": 1},
        0,
    ),
    "a printed list in the .txt": sample_case([("a.jpg", JPG), ("a.txt", b"['a cat']")], {"caption_printed": 1}, 1),
}


def encoded(mode: str = "RGB", form: str = "PNG", size: tuple[int, int] = (40, 30), **options: object) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(out, form, **options)
    return out.getvalue()


def png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(10)))


def grey16() -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.linspace(0, 65535, 24, dtype=np.uint16).reshape(4, 6)).save(out, "PNG")
    return out.getvalue()


def animated(form: str) -> bytes:
    out = io.BytesIO()
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("red", "blue", "green")]
    frames[0].save(out, form, save_all=True, append_images=frames[1:])
    return out.getvalue()


def turned(form: str) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded("RGB", form, exif=exif)


PHOTO = encoded("RGB", "JPEG", (80, 60))
PROGRESSIVE = encoded("RGB", "JPEG", (80, 60), progressive=True)
CMYK = encoded("CMYK", "JPEG", (80, 60))
HALF = len(PHOTO) // 2
IMAGES: dict[str, tuple[bytes, str]] = {
    "HTML": (b"<html>404</html>", "image_unreadable"),
    "SVG": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "image_unreadable"),
    "JPEG cut in half": (PHOTO[:HALF], "image_truncated"),
    "JPEG without its last 2 bytes": (PHOTO[:-2], "image_truncated"),
    "JPEG cut in the header": (PHOTO[:30], "image_truncated"),
    "early FFD9": (PHOTO[:HALF] + b"\xff\xd9", "image_truncated"),
    "zeros instead of the tail": (PHOTO[:HALF] + bytes(HALF), "image_truncated"),
    "progressive, zeros instead of the tail": (PROGRESSIVE[:HALF] + bytes(HALF), "image_truncated"),
    "CMYK, zeros instead of the tail": (CMYK[: len(CMYK) // 2] + bytes(len(CMYK) // 2), "image_truncated"),
    "PNG 30000x30000": (png_header(30_000, 30_000), "image_too_large"),
    "PNG of 90 Mpx": (png_header(10_000, 9_000), "image_too_large"),
    "CMYK": (CMYK, ""),
    "L": (encoded("L"), ""),
    "P": (encoded("P"), ""),
    "LA": (encoded("LA"), "image_alpha"),
    "1-bit": (encoded("1"), ""),
    "WebP": (encoded("RGB", "WEBP"), ""),
    "AVIF": (encoded("RGB", "AVIF") if features.check("avif") else PHOTO, ""),
    "16-bit grey PNG": (grey16(), "image_16_bit"),
    "alpha": (encoded("RGBA"), "image_alpha"),
    "P + transparency": (encoded("P", transparency=0), "image_alpha"),
    "animated GIF": (animated("GIF"), "image_animated"),
    "animated WebP": (animated("WEBP"), "image_animated"),
    "EXIF orientation": (turned("JPEG"), "image_turned"),
    "EXIF orientation in a PNG": (turned("PNG"), "image_turned"),
    "1x1": (encoded(size=(1, 1)), ""),
    "10000x1": (encoded(size=(10_000, 1)), "image_aspect"),
}


def image_case(content: bytes, name: str) -> Case:
    lost = name in LEFT_OUT
    return sample_case([("a.png", content), ("a.txt", b"x")], {name: 1} if name else {}, 0 if lost else 1)


CASES = TARS | SAMPLES | {name: image_case(*case) for name, case in IMAGES.items()}


@dataclass
class Read:
    """Everything that a source told and gave."""

    told: Counter[str] = field(default_factory=Counter)
    given: int = 0
    faults: list[Fault] = field(default_factory=list)


Lay = Callable[[Case], Path]


@pytest.fixture
def lay(tmp_path: Path) -> Lay:
    """Writes the files of a case into a folder."""

    def write(case: Case) -> Path:
        folder = tmp_path / "data"
        folder.mkdir()
        for name, content in case.files.items():
            (folder / name).write_bytes(content)
        return folder

    return write


def read_all(folder: Path, caption: str, spool: Spool) -> Read:
    """Read everything there is."""
    found = Read()
    try:
        source = open_shards([str(folder)], caption=caption, bad_tars="skip", spool=spool)
    except AcedError as error:
        # The sentence names the reasons, which is all there is to count.
        found.told.update(re.findall(r"\b([a-z]+_[a-z_]+): ", str(error)))
        return found
    got = source.read(range(len(source)), [VIEW])
    found.given = len(got)
    found.faults = [*source.faults, *got.faults, *got.notes]
    for fault in found.faults:
        found.told[fault.name] += fault.count
    return found


@pytest.mark.parametrize("name", CASES)
def test_each_fault_is_named_and_counted(name: str, lay: Lay, tmp_path: Path) -> None:
    case = CASES[name]
    found = read_all(lay(case), case.caption, Spool(tmp_path / "spool", 10**9))
    assert dict(found.told) == case.told
    assert found.given == case.given
    assert set(found.told) <= LEFT_OUT.keys() | HARMLESS.keys()
    assert all(fault.detail.endswith(".") and fault.key.split("/")[0] in fault.detail for fault in found.faults)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.stops])
def test_a_damaged_tar_stops_a_run_that_does_not_skip(name: str, lay: Lay, tmp_path: Path) -> None:
    folder = lay(CASES[name])
    with pytest.raises(AcedError, match=f"^{folder}/0.tar.*{CASES[name].stops}") as caught:
        open_shards([str(folder)], spool=Spool(tmp_path / "spool", 10**9))
    given = CASES[name].given
    assert tells(str(caught.value), f'data.bad_tars = "skip" … {given}' if given else 'data.bad_tars = "skip"')


ON_PURPOSE = {"image_truncated", "image_aspect", "caption_empty", "caption_no_text", "tar_zero_tail"}
"""Left out though Pillow or webdataset makes something of it: a grey half, a smear, no words, a text cut by zeros."""


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if not case.told.keys() & ON_PURPOSE])
def test_never_fewer_samples_than_webdataset(name: str, lay: Lay, tmp_path: Path) -> None:
    """Whole pairs whose image Pillow can decode, in what webdataset gives where it is told to go on at any fault."""
    webdataset = pytest.importorskip("webdataset")
    case = CASES[name]
    folder = lay(case)
    urls = sorted(str(path) for path in folder.iterdir())
    text = "json" if case.caption.startswith("json") else "txt"
    theirs = 0
    for sample in webdataset.WebDataset(urls, handler=webdataset.ignore_and_continue, shardshuffle=False):
        image = next((sample[end] for end in ("jpg", "jpeg", "png", "webp") if end in sample), None)
        if not image or not sample.get(text):
            continue
        if text == "json":
            try:
                json.loads(sample["json"])["caption"]
            except (ValueError, KeyError):
                continue
        try:
            Image.open(io.BytesIO(image)).convert("RGB")
            theirs += 1
        except Exception:
            continue
    ours = read_all(folder, case.caption, Spool(tmp_path / "spool", 10**9)).given
    assert ours >= theirs


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(AcedError, match="folder"):
        open_shards([str(tmp_path / "0.tar")])


def test_a_tar_that_cannot_be_read_is_counted(tmp_path: Path) -> None:
    (tmp_path / "0.tar").write_bytes(WHOLE)
    (tmp_path / "1.tar").mkdir()
    source = open_shards([str(tmp_path)], bad_tars="skip")
    assert [(fault.key, fault.name) for fault in source.faults] == [("1.tar", "tar_unreadable")]
    assert len(source) == 6


def test_a_tar_that_changes_after_indexing(tmp_path: Path) -> None:
    path = tmp_path / "0.tar"
    path.write_bytes(WHOLE)
    source = open_shards([str(path)])
    os.utime(path, ns=(4, 4))
    assert source.read([0], [VIEW]).indices.tolist() == [0]
    path.write_bytes(flipped(AT[6] + 3))  # of the same length, with another name in a header
    os.utime(path, ns=(5, 5))
    with pytest.raises(AcedError, match="changed"):
        source.read([0], [VIEW])


def test_every_known_fault_is_built_here_and_told_on_the_page() -> None:
    built = {name for case in CASES.values() for name in case.told} | {"tar_unreadable"}
    heard = {"count_wrong", "count_more"}  # tests/data/test_hearsay.py
    # The index finds an empty image before, and tars are lost behind it: tests/train/test_lost_tars.py.
    assert LEFT_OUT.keys() | HARMLESS.keys() == built | {"image_empty"} | LOST | heard
    page = (ROOT / "docs/data.md").read_text(encoding="utf-8")
    for name, meaning in (LEFT_OUT | HARMLESS).items():
        assert f"| `{name}` | {meaning} |" in page


def test_many_faults_take_little_memory_and_none_is_lost() -> None:
    faults = FaultList(3)
    for number in range(10):
        faults.add(Fault(f"a{number}", "a", "an a."))
        faults.add(Fault(f"b{number}", "b", "a b.", count=2))
    kept = list(faults)
    assert [fault.key for fault in kept] == ["a0", "b0", "a1", "b1", "a2", "b2"]
    assert Counter({name: sum(f.count for f in kept if f.name == name) for name in "ab"}) == {"a": 10, "b": 20}


def test_the_order_of_image_suffixes_is_fixed(tmp_path: Path) -> None:
    members = [(f"a.{end}", picture(0, form)) for end, form in (("webp", "WEBP"), ("png", "PNG"), ("jpeg", "JPEG"))]
    (tmp_path / "0.tar").write_bytes(tar_bytes([*members, ("a.txt", b"x")]))
    source = open_shards([str(tmp_path)])
    assert tells(source.faults[0].detail, "0.tar/a: … jpeg … png … webp … jpeg")
