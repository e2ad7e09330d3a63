import io
import tarfile
from pathlib import Path

import pytest
from data_fakes import pairs, tar_bytes
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aced.pool.tars import tars
from aced.pool.tars.tars import TarListing, list_tar, split_key
from wording import tells

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


def listing(tmp_path: Path, content: bytes) -> TarListing:
    path = tmp_path / "a.tar"
    path.write_bytes(content)
    return list_tar(path)


def names(found: TarListing) -> list[str]:
    return [member.name for member in found.members]


@pytest.mark.parametrize("form", FORMATS)
def test_members_are_those_of_tarfile(tmp_path: Path, form: str):
    members = [("a.jpg", b"x" * 513), ("d.1/b.txt", b""), ("m" * 60 + "/" + "n" * 90 + ".txt", b"long")]
    if form != "ustar":
        members += [("l" * 300 + ".txt", b"longer"), ("grüße/ключ.txt", b"\xc3\xa4" * 256), ("z.txt", b"end")]
    content = tar_bytes(members, FORMATS[form])
    found = listing(tmp_path, content)
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        expected = [(info.name, info.offset_data, info.size) for info in tar]
    assert [(member.name, member.offset, member.size) for member in found.members] == expected
    assert [content[m.offset : m.offset + m.size] for m in found.members] == [data for _, data in members]
    assert found.fault is None
    assert found.size == len(content)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(st.text("abcdé./ 日", min_size=1, max_size=150), st.binary(max_size=1100)),
        min_size=1,
        max_size=6,
    ),
    st.sampled_from(["gnu", "pax"]),
)
def test_any_names_and_sizes(tmp_path: Path, members, form):
    members = [(name.strip("/") + "x", data) for name, data in members]
    found = listing(tmp_path, tar_bytes(members, FORMATS[form]))
    assert found.fault is None
    content = (tmp_path / "a.tar").read_bytes()
    assert [(m.name, content[m.offset : m.offset + m.size]) for m in found.members] == members


def with_header(content: bytes, change: dict[int, bytes], offset: int = 0) -> bytes:
    """Change bytes of a header and make its checksum fit again."""
    header = bytearray(content[offset : offset + 512])
    for place, field in change.items():
        header[place : place + len(field)] = field
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return content[:offset] + bytes(header) + content[offset + 512 :]


def test_base_256_sizes_and_signed_checksums(tmp_path: Path):
    content = tar_bytes([("a.jpg", b"x" * 700), ("b.txt", b"y")])
    big = with_header(content, {124: b"\x80" + (700).to_bytes(11, "big")})
    assert [m.size for m in listing(tmp_path, big).members] == [700, 1]
    odd = bytearray(with_header(content, {0: "é.jpg".encode()}))
    unsigned = int(odd[148:154], 8)
    odd[148:156] = b"%06o\0 " % (unsigned - 512)
    assert names(listing(tmp_path, bytes(odd))) == ["é.jpg", "b.txt"]


def test_a_pax_size_wins_over_the_header(tmp_path: Path):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        info = tarfile.TarInfo("a.jpg")
        info.size, info.pax_headers = 700, {"size": "700"}
        tar.addfile(info, io.BytesIO(b"x" * 700))
    content = with_header(out.getvalue(), {124: b"00000000000\0"}, offset=1024)
    found = listing(tmp_path, content)
    assert [(m.size, m.offset) for m in found.members] == [(700, 1536)]
    assert found.fault is None


def test_links_and_folders_are_not_members(tmp_path: Path):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, kind in [("d", tarfile.DIRTYPE), ("s.jpg", tarfile.SYMTYPE), ("h.jpg", tarfile.LNKTYPE)]:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "a.jpg"
            tar.addfile(info)
        info = tarfile.TarInfo("a.jpg")
        info.size = 3
        tar.addfile(info, io.BytesIO(b"abc"))
    found = listing(tmp_path, out.getvalue())
    assert (names(found), found.others, found.folders) == (["a.jpg"], ["s.jpg", "h.jpg"], ["d/"])
    assert found.fault is None


WHOLE = tar_bytes(pairs(4))


def offsets(content: bytes) -> list[int]:
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        return [info.offset for info in tar]


def cut_at(where: int) -> bytes:
    return WHOLE[:where]


def zeroed(start: int, end: int) -> bytes:
    return WHOLE[:start] + bytes(end - start) + WHOLE[end:]


SEVENTH, LAST = offsets(WHOLE)[6], offsets(WHOLE)[11]
FAULTS = {
    "cut in a header": (cut_at(SEVENTH + 100), "truncated", 6),
    "cut between members": (cut_at(SEVENTH), "truncated", 6),
    "cut in a member": (cut_at(SEVENTH + 600), "truncated", 6),
    "cut in the padding after a member": (cut_at(offsets(WHOLE)[8] + 512 + 9), "truncated", 9),
    "cut in the first header": (cut_at(100), "not_a_tar", 0),
    "cut in the end mark": (cut_at(LAST + 1536), "truncated", 12),
    "a header of zeros": (zeroed(SEVENTH, SEVENTH + 512), "data_after_end", 11),
    "a tail of zeros": (zeroed(SEVENTH, len(WHOLE)) + bytes(12_000), "zero_tail", 6),
    "a flipped bit in a header": (
        WHOLE[: SEVENTH + 2] + bytes([WHOLE[SEVENTH + 2] ^ 4]) + WHOLE[SEVENTH + 3 :],
        "bad_header",
        11,
    ),
    "a flipped bit in the first header": (bytes([WHOLE[0] ^ 4]) + WHOLE[1:], "bad_header", 11),
    "two tars joined": (WHOLE + WHOLE, "data_after_end", 24),
    "an impossible size": (with_header(WHOLE, {124: b"zzzzzzzzzzz\0"}, SEVENTH), "bad_header", 11),
    "a negative size": (with_header(WHOLE, {124: b"\xff" * 12}, SEVENTH), "bad_header", 11),
    "a size beyond the end": (with_header(WHOLE, {124: b"00007777777\0"}, SEVENTH), "truncated", 11),
    "a cut tar before a whole one": (cut_at(SEVENTH + 600) + WHOLE, "bad_header", 18),
    "a text that zeros cut": (zeroed(LAST + 515, len(WHOLE)) + bytes(12_000), "zero_tail", 11),
    "empty": (b"", "empty_file", 0),
    "zeros only": (bytes(10240), "empty_file", 0),
    "a web page": (b"<!DOCTYPE html><html>" + b"x" * 3000, "not_a_tar", 0),
    "gzip": (b"\x1f\x8b\x08" + bytes(1000), "not_a_tar", 0),
}


@pytest.mark.parametrize("case", FAULTS)
def test_each_fault_has_its_name_and_keeps_what_is_whole(tmp_path: Path, case: str):
    content, fault, whole = FAULTS[case]
    found = listing(tmp_path, content)
    assert found.fault is not None
    assert (found.fault.name, len(found.members)) == (fault, whole)


def test_the_walk_goes_on_behind_many_faults(tmp_path: Path):
    """Every second image's header damaged, one member shortened so that nothing lies at a multiple of 512 any more."""
    content = bytearray(WHOLE + WHOLE)
    starts = offsets(WHOLE)
    for number in (0, 6):
        content[starts[number] + 5] ^= 1
    del content[starts[4] + 520 : starts[4] + 530]
    found = listing(tmp_path, bytes(content))
    whole = set(range(12)) - {0, 6}
    assert [fault.name for fault in found.faults].count("bad_header") >= 3
    assert "data_after_end" in [fault.name for fault in found.faults]
    assert len(found.members) in (21, 22)  # the shortened one is left out where the next header lies in its data
    for member, number in zip(found.members[-12:], range(12), strict=True):
        data = starts[number] + 512
        assert content[member.offset : member.offset + member.size] == WHOLE[data : data + member.size]
    assert len(whole) == 10


def test_folders_and_the_late_check_agree_with_the_careful_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tars, "_LATE", 3)
    assert [names(listing(tmp_path, content)) for content in (WHOLE, cut_at(SEVENTH))] == [
        [f"{n:05d}.{suffix}" for n in range(count) for suffix in ("jpg", "json", "txt")] for count in (4, 2)
    ]


def test_a_fault_says_what_to_do_where_something_can_be_done(tmp_path: Path):
    told = {case: listing(tmp_path, FAULTS[case][0]).fault.detail for case in ("gzip", "a web page")}
    assert tells(told["gzip"], "unpack … data.spool_dir")
    assert "web page" in told["a web page"]


@pytest.mark.parametrize("at", range(0, len(WHOLE) - 512, 512))
def test_no_cut_is_silent(tmp_path: Path, at: int):
    """Cut at any block before the end mark: a fault, and only whole members."""
    found = listing(tmp_path, cut_at(at))
    end = max(offsets(WHOLE)) + 1024
    assert (found.fault is None) == (at >= end + 1024)
    assert all(member.offset + member.size <= at for member in found.members)


def test_damaged_extended_headers(tmp_path: Path):
    content = tar_bytes([("é.jpg", b"x"), ("b.txt", b"y")], tarfile.PAX_FORMAT)
    assert names(listing(tmp_path, content)) == ["é.jpg", "b.txt"]
    for record in (b"99 path=x\n", b"0 path=x\n", b"x path=x\n", b"12 path", b"12 size=-1\n"):
        broken = content[:512] + record + bytes(512 - len(record)) + content[1024:]
        assert listing(tmp_path, broken).fault.name == "bad_header", record
    long = io.BytesIO()
    with tarfile.open(fileobj=long, mode="w", format=tarfile.PAX_FORMAT) as tar:
        info = tarfile.TarInfo("a.jpg")
        info.pax_headers = {"size": "9" * 5000}
        tar.addfile(info)
    assert listing(tmp_path, long.getvalue()).fault.name == "bad_header"
    assert listing(tmp_path, long.getvalue().replace(b" size=", b"9" * 6)).fault.name == "bad_header"
    huge = with_header(content, {124: b"77777777777\0"})
    assert listing(tmp_path, huge).fault.name == "bad_header"
    assert listing(tmp_path, content[:700]).fault.name == "truncated"


def test_random_bytes_never_crash(tmp_path: Path):
    import random

    draw = random.Random(0)
    for _ in range(300):
        content = bytearray(tar_bytes([("é.jpg", b"x" * 30), ("l" * 200 + ".txt", b"y")], tarfile.PAX_FORMAT))
        for _ in range(3):
            content[draw.randrange(2048)] = draw.randrange(256)
        found = listing(tmp_path, bytes(content))
        assert all(m.size >= 0 and m.offset + m.size <= len(content) for m in found.members)


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("a.jpg", ("a", "jpg")),
        ("a.JPG", ("a", "jpg")),
        ("A.txt", ("A", "txt")),
        ("a.b.jpg", ("a", "b.jpg")),
        ("d.1/e.jpg", ("d.1/e", "jpg")),
        ("./z.jpg", ("./z", "jpg")),
        ("../x.jpg", ("../x", "jpg")),
        (".hidden.jpg", None),
        ("dir/.jpg", None),
        ("noext", None),
        ("a.", None),
    ],
)
def test_keys_end_at_the_first_dot_as_in_webdataset(name: str, split: tuple[str, str] | None):
    assert split_key(name) == split


def test_real_tars_are_read_as_tarfile_reads_them(shared_data: Path):
    for path in (shared_data / "webmix" / "00000.tar", shared_data / "eval" / "wds_gtsrb" / "test" / "0.tar"):
        found = list_tar(path)
        with tarfile.open(path) as tar:
            assert [(m.name, m.offset, m.size) for m in found.members] == [
                (info.name, info.offset_data, info.size) for info in tar
            ]
        assert found.fault is None
