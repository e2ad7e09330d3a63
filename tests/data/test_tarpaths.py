from pathlib import Path

import pytest

from aced.data.tarpaths import distinct_names, expand_tars
from aced.errors import AcedError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a/00008.tar", "a/00009.tar", "a/00010.tar", "b/00009.tar", "b/x{1}.tar", "b/notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("a", ["a/00008.tar", "a/00009.tar", "a/00010.tar"]),
        ("a/*9.tar", ["a/00009.tar"]),
        ("*/00009.tar", ["a/00009.tar", "b/00009.tar"]),
        ("a/{00008..00010}.tar", ["a/00008.tar", "a/00009.tar", "a/00010.tar"]),
        ("a/000{08..10}.tar", ["a/00008.tar", "a/00009.tar", "a/00010.tar"]),
        ("a/0000{8..9}.tar", ["a/00008.tar", "a/00009.tar"]),
        ("{b,a}/00009.tar", ["b/00009.tar", "a/00009.tar"]),
        ("{a,b}/{00009,0000[8]}.tar", None),
        ("b/x{1}.tar", ["b/x{1}.tar"]),
        ("b/notes.txt", ["b/notes.txt"]),
    ],
)
def test_patterns(folder: Path, pattern: str, found: list[str] | None):
    if found is None:
        with pytest.raises(AcedError, match="No file matches"):
            expand_tars([str(folder / pattern)])
    else:
        assert expand_tars([str(folder / pattern)]) == [folder / name for name in found]


def test_order_is_kept_and_each_tar_comes_once(folder: Path):
    (folder / "link.tar").symlink_to(folder / "a" / "00009.tar")
    patterns = [str(folder / "a" / "00009.tar"), str(folder / "a"), str(folder / "link.tar")]
    assert [path.name for path in expand_tars(patterns)] == ["00009.tar", "00008.tar", "00010.tar"]


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("nowhere/x.tar", "no folder .*nowhere"),
        ("a/7.tar", "no file or folder .*a/7.tar"),
        ("a/{00008..00011}.tar", r"no file or folder .*a/00011.tar \(from .*00008\.\.00011"),
        ("a/*.gz", "No file matches"),
        ("empty", r"holds no \.tar files; x\.tar\.zst must be unpacked"),
        ("a/{3..1}.tar", "runs backwards"),
        ("a/{x}.tar", "neither a range"),
        ("dead.tar", "link to a file that does not exist"),
    ],
)
def test_what_is_not_there_is_named(folder: Path, pattern: str, words: str):
    (folder / "empty").mkdir()
    (folder / "empty" / "x.tar.zst").touch()
    (folder / "dead.tar").symlink_to(folder / "gone.tar")
    with pytest.raises(AcedError, match=words):
        expand_tars([str(folder / pattern)])


def test_gzip_is_found_too_unless_it_lies_unpacked_beside(folder: Path):
    for name in ("00009.tar.gz", "00011.tgz", "00012.tar.gz"):
        (folder / "a" / name).touch()
    found = [path.name for path in expand_tars([str(folder / "a")])]
    assert found == ["00008.tar", "00009.tar", "00010.tar", "00011.tgz", "00012.tar.gz"]
    assert expand_tars([f"file://{folder}/a/00008.tar"]) == [folder / "a/00008.tar"]


def test_addresses_and_nothing_are_refused():
    for address in ("s3://bucket/{0..3}.tar", "https://x.org/a.tar", "pipe:cat a.tar"):
        with pytest.raises(AcedError, match="is not a path: download"):
            expand_tars([address])
    with pytest.raises(AcedError, match="No data are named"):
        expand_tars([])


def test_equal_file_names_take_their_folders():
    paths = [Path(name) for name in ("/x/a/0.tar", "/x/b/0.tar", "/x/b/1.tar", "/y/b/0.tar")]
    assert distinct_names(paths) == ["a/0.tar", "x/b/0.tar", "1.tar", "y/b/0.tar"]
