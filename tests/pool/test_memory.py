import pytest
import torch
from data_fakes import ListSource, pairs, picture

from aced.errors import AcedError
from aced.pool import inmemory as memory
from aced.pool.inmemory import InMemory
from aced.pool.loader.reading import chunk_size, read_all
from aced.pool.shards import Shards, open_shards
from aced.pool.source import Candidates
from aced.pool.views import View
from wording import tells

SMALL, LARGE = View(16), View(24, "squash")


@pytest.fixture
def shards(write_tar) -> Shards:
    members = [*pairs(30), ("x.jpg", b"<html>"), ("x.txt", b"x"), *pairs(5, start=30), ("y.txt", b"alone")]
    return open_shards([str(write_tar("0.tar", members))])


def same(a: Candidates, b: Candidates) -> bool:
    return (
        torch.equal(a.indices, b.indices)
        and a.texts == b.texts
        and a.faults == b.faults
        and a.images.keys() == b.images.keys()
        and all(torch.equal(a.images[view], b.images[view]) for view in a.images)
    )


@pytest.mark.parametrize("workers", [0, 1])
def test_memory_answers_as_the_source_does(shards: Shards, monkeypatch, workers: int):
    monkeypatch.setattr(memory, "chunk_size", lambda views: 8)
    done: list[tuple[int, int]] = []
    held = InMemory(shards, [SMALL, LARGE], lambda *counts: done.append(counts), workers=workers)
    assert done == [(8, 36), (16, 36), (24, 36), (32, 36), (36, 36)]
    for wanted in ([5, 30, 0, 35, 30, 5], range(36), []):
        for views in ([SMALL, LARGE], [LARGE]):
            assert same(held.read(wanted, views), shards.read(wanted, views))
    assert [fault.name for fault in held.read([30], [SMALL]).faults] == ["image_unreadable"]
    assert (held.name, len(held), held.fingerprint) == (shards.name, 36, shards.fingerprint)
    assert list(held.keys) == list(shards.keys)
    assert held.kinds == shards.kinds
    assert (held.parts, held.faults) == (shards.parts, shards.faults)


def test_reading_does_not_change_what_is_held(shards: Shards):
    held = InMemory(shards, [SMALL])
    held.read([0, 1], [SMALL]).images[SMALL].zero_()
    assert same(held.read([0, 1], [SMALL]), shards.read([0, 1], [SMALL]))


def test_a_view_that_is_not_held_comes_from_the_source_and_the_impossible_is_refused(shards: Shards):
    held = InMemory(shards, [SMALL])
    assert same(held.read([5, 30, 2], [SMALL, LARGE]), shards.read([5, 30, 2], [SMALL, LARGE]))
    for wrong in (36, -1):
        with pytest.raises(IndexError):
            held.read([0, wrong], [SMALL])
    with pytest.raises(AcedError, match=" GB "):
        InMemory(ListSource(["a"]), [View(2_000_000)])


def test_a_sample_left_out_without_a_reason_is_still_told():
    class Silent(ListSource):
        def read(self, indices, views):
            found = super().read(indices, views)
            return Candidates(found.indices, found.texts, found.images)

    held = InMemory(Silent(["a", "bad", "c"]), [SMALL])
    found = held.read([0, 1, 2], [SMALL])
    assert found.texts == ["a", "c"]
    assert [(fault.key, fault.name) for fault in found.faults] == [("bad", "left_out")]


@pytest.mark.parametrize("workers", [0, 1])
def test_errors_stay_one_sentence(write_tar, workers: int):
    path = write_tar("0.tar", [("a.jpg", picture(0)), ("a.txt", b"a")])
    shards = open_shards([str(path)])
    path.write_bytes(path.read_bytes() + bytes(512))
    with pytest.raises(AcedError) as caught:
        InMemory(shards, [SMALL], workers=workers)
    assert tells(str(caught.value), f"{path} … changed")
    assert "\n" not in str(caught.value)


def test_reading_all_leaves_the_global_generator_alone():
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    parts = list(read_all(ListSource([str(i) for i in range(10)]), [SMALL], chunk=4))
    assert torch.equal(torch.rand(1), expected)
    assert [done for done, _ in parts] == [4, 8, 10]
    assert [text for _, part in parts for text in part.texts] == [str(i) for i in range(10)]


def test_chunks_are_bounded_by_bytes_and_whole_micro_batches():
    assert chunk_size([View(32)]) == 1024
    assert chunk_size([View(224)]) == (1 << 25) // (3 * 224 * 224)
    assert chunk_size([View(224)], 64) == 192
    assert chunk_size([View(32)], 3000) == 3000
    assert chunk_size([]) == 1024
