import re
from pathlib import Path

import pytest

from aced.errors import AcedError
from aced.files.patterns import distinct_names, expand_tars
from aced.pool.tars.located import group_tars


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
        with pytest.raises(AcedError, match="matches"):
            expand_tars([str(folder / pattern)])
    else:
        assert expand_tars([str(folder / pattern)]) == [folder / name for name in found]


@pytest.fixture
def deep(tmp_path: Path) -> Path:
    """A tree with tars at several depths, and what systems leave in folders."""
    tars = ["pool/a.tar", "pool/x/b.tar", "pool/x/y/c.tar", "pool_a/0.tar", "pool_b/0.tar", "pool_c/z/0.tar"]
    hidden = ["pool/.h.tar", "pool/._a.tar", "pool/.git/h.tar", "pool/__MACOSX/._a.tar", "pool/x/.b.tar"]
    other = ["pool/a.json", "pool_d/notes.txt", "cap/A.TAR", "cap/B.Tar", "cap/C.TAR.GZ", "cap/D.TGZ", "cap/a.tar"]
    odd = ["data[1]/0.tar", "data1/0.tar", "in{1}/0.tar", "a b, c/0.tar"]
    for name in tars + hidden + other + odd:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "linked").symlink_to(tmp_path / "pool")
    (tmp_path / "pool/x/loop").symlink_to(tmp_path / "pool")
    return tmp_path


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("pool/**/*.tar", ["pool/a.tar", "pool/x/b.tar", "pool/x/y/c.tar"]),
        ("pool/**", ["pool/a.tar", "pool/x/b.tar", "pool/x/y/c.tar"]),
        ("pool/**/", ["pool/a.tar", "pool/x/b.tar", "pool/x/y/c.tar"]),
        ("**/b.tar", ["linked/x/b.tar"]),  # one file, by the first of its names
        ("pool/x/**/*.tar", ["pool/x/b.tar", "pool/x/y/c.tar", "pool/x/loop/a.tar"]),
        ("pool", ["pool/a.tar"]),
        ("pool/", ["pool/a.tar"]),
        ("pool/*/", ["pool/x/b.tar"]),
        ("linked", ["linked/a.tar"]),
        ("pool_*", ["pool_a/0.tar", "pool_b/0.tar"]),
        ("pool_{a,b}", ["pool_a/0.tar", "pool_b/0.tar"]),
        ("pool_[ab]", ["pool_a/0.tar", "pool_b/0.tar"]),
        ("cap", ["cap/A.TAR", "cap/B.Tar", "cap/C.TAR.GZ", "cap/D.TGZ", "cap/a.tar"]),
        ("data[1]", ["data[1]/0.tar"]),
        ("data[1]/*.tar", ["data[1]/0.tar"]),
        ("data[1]/{0,0}.tar", ["data[1]/0.tar"]),
        ("in{1}/*.tar", ["in{1}/0.tar"]),
        ("a b, c", ["a b, c/0.tar"]),
        ("a b, c/*", ["a b, c/0.tar"]),
    ],
)
def test_what_lies_deep_or_has_an_odd_name(deep: Path, pattern: str, found: list[str]):
    tars = expand_tars([str(deep / pattern) + "/" * pattern.endswith("/")])
    assert sorted(tars) == sorted(deep / name for name in found)


@pytest.mark.parametrize(
    ("pattern", "missed"),
    [
        ("pool", r"pool/x/b\.tar.*'.*/pool/\*\*/\*\.tar'"),
        ("pool/", r"pool/x/b\.tar.*'.*/pool/\*\*/\*\.tar'"),
        ("pool*", r"pool/x/b\.tar"),
        ("{pool,pool_a}", r"pool/x/b\.tar"),
        ("pool_*", r"pool_c/z/0\.tar"),
        ("pool_a", None),
        ("pool/**", None),
        ("pool/*.tar", None),
        ("pool_a/{0..0}.tar", None),
    ],
)
def test_tars_further_down_are_told(deep: Path, pattern: str, missed: str | None):
    told: list[str] = []
    group_tars([str(deep / pattern)], None, tell=told.append)
    assert len(told) == (missed is not None)
    if missed:
        assert re.search(missed, told[0])


def test_tars_named_twice_are_told(deep: Path):
    told: list[str] = []
    named = [str(deep / name) for name in ("pool_a", "pool_*", "pool_b/0.tar")]
    groups = group_tars(named, None, tell=told.append).groups
    assert [len(group) for group in groups] == [1, 1, 0]
    assert told[-1].startswith("2 tars ")


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("pool_c", r"pool_c/z/0\.tar.*'.*pool_c/\*\*/\*\.tar'"),
        ("pool_[cd]", "2 folders"),
        ("pool_a/0.tar pool_b/0.tar", r"'\[\"pool_a/0.tar\", \"pool_b/0.tar\"\]'.*'pool_a/0.tar::pool_b/0.tar'"),
        ("pool_a,pool_b", r"\[\"pool_a\", \"pool_b\"\]"),
        ("pool_a, typo", r"\[\"pool_a\", \"typo\"\]"),
        ("pool_*/*.tar pool/*.tar", r"\[\"pool_\*/\*\.tar\", \"pool/\*\.tar\"\]"),
        ("my typo/x.tar", r"my typo.*x\.tar"),
        ("pool\\a.tar", "pool/a.tar"),
        ("pool_{}", "range"),
        ("", "empty"),
        (" ", "empty"),
    ],
)
def test_what_was_meant_is_said(deep: Path, pattern: str, words: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(deep)
    with pytest.raises(AcedError, match=words):
        expand_tars([pattern])


def test_order_is_kept_and_each_tar_comes_once(folder: Path):
    (folder / "link.tar").symlink_to(folder / "a" / "00009.tar")
    patterns = [str(folder / "a" / "00009.tar"), str(folder / "a"), str(folder / "link.tar")]
    assert [path.name for path in expand_tars(patterns)] == ["00009.tar", "00008.tar", "00010.tar"]


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("nowhere/x.tar", "nowhere"),
        ("a/7.tar", "a/7.tar"),
        ("a/{00008..00011}.tar", r"a/00011.tar.*00008\.\.00011"),
        ("a/*.gz", "matches"),
        ("empty", r"x\.tar\.zst.*unpack"),
        ("a/{3..1}.tar", "backwards"),
        ("a/{x}.tar", "range"),
        ("dead.tar", "link"),
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
        with pytest.raises(AcedError, match="path"):
            expand_tars([address])
    with pytest.raises(AcedError, match="data"):
        expand_tars([])


def test_equal_file_names_take_their_folders():
    paths = [Path(name) for name in ("/x/a/0.tar", "/x/b/0.tar", "/x/b/1.tar", "/y/b/0.tar")]
    assert distinct_names(paths) == ["a/0.tar", "x/b/0.tar", "1.tar", "y/b/0.tar"]
