import json

import pytest
from data_fakes import picture

from aced.data.captions import CaptionFault, Captions
from aced.data.shards import open_shards
from aced.data.views import View
from aced.errors import AcedError

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
        with pytest.raises(CaptionFault, match="the caption is empty"):
            Captions.parse("txt", choice).read(b" \n \r\n", "k", 0, [])
    with pytest.raises(CaptionFault, match=r"its json has no field x \(it has alt\)"):
        Captions.parse("json:x").read(LIST, "k", 0, [])
    with pytest.raises(AcedError, match='"whole", "first" or "random", not "all"'):
        Captions.parse("txt", "all")


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
