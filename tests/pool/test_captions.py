import json

import pytest
from data_fakes import picture

from aced.errors import AcedError
from aced.pool.captions import CaptionFault, Captions
from aced.pool.shards import open_shards
from aced.pool.views import View

LINES = b"one\r\n\n two \nthree\n"
LIST = json.dumps({"alt": ["one", "", None, "two", "three"]}).encode()


@pytest.mark.parametrize(("content", "where"), [(LINES, "txt"), (LIST, "json:alt")])
def test_one_of_several(content: bytes, where: str):
    assert Captions.parse(where, "first").read(content, "k", 0, []) == "one"
    random = Captions.parse(where, "random", seed=3)
    drawn = [random.read(content, "k", epoch, []) for epoch in range(300)]
    assert {text: drawn.count(text) > 60 for text in drawn} == dict.fromkeys(["one", "two", "three"], True)
    assert [random.read(content, "k", epoch, []) for epoch in range(300)] == drawn
    other_key = [random.read(content, "l", epoch, []) for epoch in range(300)]
    other_seed = [Captions.parse(where, "random", seed=4).read(content, "k", epoch, []) for epoch in range(300)]
    assert drawn != other_key
    assert drawn != other_seed


def test_whole_takes_the_text_as_it_is():
    assert Captions.parse("txt").read(LINES, "k", 7, []) == "one\n\n two \nthree"
    assert Captions.parse("json:alt").read(LIST, "k", 7, []) == "one"
    assert Captions.parse("json:alt").read(b'{"alt": "a\\nb"}', "k", 0, []) == "a\nb"


def test_without_captions_there_is_a_fault_with_a_reason():
    for choice in ("whole", "first", "random"):
        with pytest.raises(CaptionFault, match="empty"):
            Captions.parse("txt", choice).read(b" \n \r\n", "k", 0, [])
    with pytest.raises(CaptionFault, match=r"\bx \(.*alt\)"):
        Captions.parse("json:x").read(LIST, "k", 0, [])
    with pytest.raises(AcedError, match=r'"whole", "first".*"random".*"all"'):
        Captions.parse("txt", "all")


def read(value: object, choice: str = "whole") -> tuple[str, list[str]]:
    """The caption in a json's field, and the names of what is odd about it."""
    notes: list[tuple[str, str]] = []
    text = Captions.parse("json:alt", choice).read(json.dumps({"alt": value}).encode(), "k", 0, notes)
    return text, [name for name, _ in notes]


@pytest.mark.parametrize("choice", ["whole", "first", "random"])
@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "null"),
        (float("nan"), "NaN"),
        (float("inf"), r"number \(inf\)"),
        (7, r"number \(7\)"),
        (0, r"number \(0\)"),
        (1.5, r"number \(1.5\)"),
        (True, "true"),
        (False, "false"),
        ({}, r"dict\b(?! \()"),
        ({"en": "a cat"}, r"dict \(.*\ben\)"),
        ([{"caption": "a cat", "id": 1}], r"list .*dict \(.*caption, id\)"),
        ([["alt", "a red square"], ["title", "x"]], "list .*list"),
        (["a cat", 3], r"list .*number \(3\)"),
        (["a cat", float("nan")], "list .*NaN"),
        ([True], "list .*true"),
        (["author", ":", "a", "life"], r"words \(author, :, a, life\)"),
        (["red", "square", "."], "words"),
        (["the", "red", "square", "on", "white", "ground"], "words"),
        (["a", "кот"], "words"),
    ],
)
def test_what_is_no_text_is_no_caption(value: object, shown: str, choice: str):
    with pytest.raises(CaptionFault, match=rf"\balt .*{shown}") as e:
        read(value, choice)
    assert e.value.name == "caption_no_text"
    assert "{'" not in str(e.value)


@pytest.mark.parametrize(
    ("value", "text", "odd"),
    [
        ("a cat", "a cat", []),
        (["a cat", None, "b"], "a cat", []),
        ([None, "", "a red cat"], "a red cat", []),
        (["cat"], "cat", []),
        (["a"], "a", []),
        (["cat", "kitten"], "cat", ["caption_words"]),
        (["cat", "a small cat"], "cat", []),
        (["一只红猫", "猫"], "一只红猫", []),
        (["猫", "红", "大", "小", "一", "二", "三"], "猫", []),
        ("nan", "nan", ["caption_placeholder"]),
        (" None ", "None", ["caption_placeholder"]),
        ("none of them", "none of them", []),
        ("['a cat', 'b']", "['a cat', 'b']", ["caption_printed"]),
        ("{'en': 'a cat'}", "{'en': 'a cat'}", ["caption_printed"]),
        ("[]", "[]", ["caption_printed"]),
        ("[a cat] on a mat", "[a cat] on a mat", []),
        ("[a cat]", "[a cat]", []),
        ("a \ud83d cat", "a \ufffd cat", ["caption_not_utf8"]),
        ("a \U0001f408", "a \U0001f408", []),
    ],
)
def test_what_is_text_is_read_and_what_is_odd_about_it_told(value: object, text: str, odd: list[str]):
    assert read(value) == (text, odd)


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (b'["alt"]', "caption_no_field"),
        (b'"alt"', "caption_no_field"),
        (b"7", "caption_no_field"),
        (b"null", "caption_no_field"),
        (b"{}", "caption_no_field"),
        (b'{"alt": []}', "caption_empty"),
        (b'{"alt": [null]}', "caption_empty"),
        (b'{"alt": ""}', "caption_empty"),
        (b"", "caption_bad_json"),
        (b"nan", "caption_bad_json"),
        (b"[" * 100_000, "caption_bad_json"),
        (b'{"alt": ' + b"1" * 5000 + b"}", "caption_bad_json"),
        (b'{"alt": "x"}{"alt": "y"}', "caption_bad_json"),
    ],
)
def test_odd_jsons_have_their_own_names(content: bytes, name: str):
    with pytest.raises(CaptionFault) as caught:
        Captions.parse("json:alt").read(content, "k", 0, [])
    assert caught.value.name == name


@pytest.mark.parametrize("mark", ["utf-16", "utf-16-le", "utf-16-be", "utf-8-sig", "utf-8"])
@pytest.mark.parametrize("where", ["txt", "json:alt"])
def test_encodings_that_say_what_they_are_are_read(mark: str, where: str):
    text = "grün 红 \U0001f408"
    content = json.dumps({"alt": text}, ensure_ascii=False) if where != "txt" else text
    begin = {"utf-16-le": b"\xff\xfe", "utf-16-be": b"\xfe\xff"}.get(mark, b"")
    notes: list[tuple[str, str]] = []
    assert Captions.parse(where).read(begin + content.encode(mark), "k", 0, notes) == text
    assert bool(notes) == (mark.startswith("utf-16") or (mark == "utf-8-sig" and where == "txt"))


def test_a_source_reads_the_caption_of_each_samples_epoch(write_tar):
    members = [(f"{n}.jpg", picture(n)) for n in range(8)]
    members += [(f"{n}.txt", b"\n".join(b"%d-%d" % (n, line) for line in range(5))) for n in range(8)]
    path = write_tar("0.tar", members)
    source = open_shards([str(path)], caption_choice="random", seed=1)
    assert source.captions_vary
    view = View(8)
    epochs = [source.read(range(8), [view], [epoch] * 8).texts for epoch in range(6)]
    assert len({tuple(texts) for texts in epochs}) == 6
    mixed = source.read([3, 3, 5], [view], [0, 4, 2]).texts
    assert mixed == [epochs[0][3], epochs[4][3], epochs[2][5]]
    assert source.read(range(8), [view]).texts == epochs[0]
    first = open_shards([str(path)], caption_choice="first")
    assert not first.captions_vary
    assert first.read(range(8), [view], [5] * 8).texts == [f"{n}-0" for n in range(8)]
    whole = open_shards([str(path)])
    marks = {tuple(one.parts.values()) for one in (source, first, whole)}
    assert len(marks) == len({one.fingerprint for one in (source, first, whole)}) == 3
