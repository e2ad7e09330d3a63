"""Token ids as a column of a batch: with them a tower embeds and counts as it does with captions."""

from __future__ import annotations

import copy
import pickle
from dataclasses import replace

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from tower_fakes import TEXTS, candidates

from aced.models import Tower
from aced.models.ids import lengths_of, padded
from aced.pool.source import Candidates

NAMES = ["plain", "custom", "tiny-siglip", "coca", "demo"]


def with_ids(tower: Tower) -> Candidates:
    """Pairs as a loader gives them: with ids, and with captions that nobody may read."""
    pairs = candidates([tower])
    return replace(pairs, texts=["?"] * len(pairs), columns={tower.ids.name: tower.ids.load(pairs)})


@pytest.mark.parametrize("name", NAMES)
def test_ids_are_the_tokenizers_up_to_the_end(towers: dict[str, Tower], name: str) -> None:
    tower = towers[name]
    ids, full = tower.ids.of(TEXTS), tower.tokenizer(list(TEXTS))
    assert (ids.dtype, tuple(ids.shape)) == (tower.ids.dtype, (len(TEXTS), *tower.ids.shape))
    for row, theirs, length in zip(padded(ids), full, lengths_of(ids), strict=True):
        assert torch.equal(row[:length], theirs[:length])
        assert not row[length:].any()


@pytest.mark.parametrize("name", NAMES)
def test_a_loaded_column_gives_the_embeddings_and_flops_of_the_captions(towers: dict[str, Tower], name: str) -> None:
    tower = towers[name]
    plain, loaded = candidates([tower]), with_ids(tower)
    one, other = tower.score(plain, 4), tower.score(loaded, 4)
    assert torch.equal(one.text, other.text)
    assert tower.batch_flops(loaded) == tower.forward_flops(TEXTS)
    rows = torch.tensor([2, 0])
    assert tower.batch_flops(loaded[rows]) == tower.forward_flops([TEXTS[2], TEXTS[0]])


def test_towers_share_a_column_only_where_it_is_the_same(towers: dict[str, Tower]) -> None:
    plain = towers["plain"]
    same = Tower("again", plain.model, plain.config, plain.preprocess, copy.deepcopy(plain.tokenizer), 24)
    names = [tower.ids.name for tower in towers.values()]
    assert same.ids.name == plain.ids.name
    assert towers["tiny-siglip"].ids.name != plain.ids.name  # it wants its padding
    assert towers["demo"].ids.name not in [name for name in names if name != towers["demo"].ids.name]


@pytest.mark.parametrize("name", NAMES)
def test_a_column_is_the_same_in_another_process_without_its_memory(towers: dict[str, Tower], name: str) -> None:
    ids = towers[name].ids
    ids.of(TEXTS)
    there = pickle.loads(pickle.dumps(ids))
    assert (there.name, len(there)) == (ids.name, 0)
    assert torch.equal(there.of(TEXTS), ids.of(TEXTS))


def test_a_device_gets_the_longest_text_rounded_up(towers: dict[str, Tower]) -> None:
    ids = towers["demo"].ids
    for text in ("a", "a red circle", " ".join(["red"] * 9), " ".join(["red"] * 100)):
        values = ids.of(["a", text])
        width, longest = ids.sent(values).shape[1], int(lengths_of(values).max())
        assert longest <= width < longest + 8
        assert width % 8 == 0
        assert torch.equal(values[:, :width], ids.sent(values))
        assert (values[:, width:] == -1).all()
    assert ids.sent(ids.of([])).shape[0] == 0
    whole = towers["tiny-siglip"].ids
    assert whole.sent(whole.of(["a"])).shape[1] == 24


@pytest.mark.parametrize("name", ["plain", "custom", "demo"])
def test_rounding_up_changes_no_embedding(towers: dict[str, Tower], name: str) -> None:
    """What a device computes, on a CPU: all texts at one width."""
    from aced.models import text

    tower = towers[name]
    ids = tower.ids.sent(tower.ids.of(TEXTS))
    with torch.no_grad():
        whole = torch.nn.functional.normalize(text.encode(tower.model, padded(ids), tower._ending), dim=-1)
        assert (whole - tower.embed_text(TEXTS)).abs().max() < 1e-6


def test_rows_of_a_device_are_chosen_and_counted_without_waiting(towers: dict[str, Tower]) -> None:
    """A fake device: to read a value back raises."""
    demo = towers["demo"]
    batch = with_ids(demo)
    batch = replace(batch, columns={demo.ids.name: demo.ids.sent(batch.columns[demo.ids.name])})
    with FakeTensorMode():
        sent = batch.each(lambda values: torch.empty(values.shape, dtype=values.dtype, device="cuda"))
        rows = torch.empty(2, dtype=torch.int64, device="cuda")
        chosen = sent[rows]
        assert len(chosen) == len(chosen.texts) == 2
        ids = chosen.columns[demo.ids.name]
        assert (padded(ids).device.type, padded(ids).dtype) == ("cuda", torch.int64)
        assert demo.batch_flops(chosen) == demo.flops(ids.shape[1]).total
        with pytest.raises((DataDependentOutputException, RuntimeError)):
            list(chosen.texts)  # whoever wants captions waits for the rows
