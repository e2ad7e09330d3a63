"""Pools of scenes: what is in them, and that it is what they say."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from aced.errors import AcedError
from aced.lab.scenes import (
    DEFAULT_MIX,
    IMAGE_SIZE,
    REDUNDANT_MIX,
    Mix,
    Scenes,
    make_curated,
    make_pool,
    vocabulary,
)
from aced.pool.source import SOUND_KINDS, Source
from aced.pool.views import View

# Written down here a second time, by hand, so that captions are read by other rules than they are written by.
SHAPES = [
    {"circle", "disc"},
    {"square", "box"},
    {"triangle", "wedge"},
    {"diamond", "rhombus"},
    {"ring", "hoop"},
    {"cross", "plus"},
    {"star", "starlet"},
    {"crescent", "moon"},
]
COLOURS = [
    {c}
    for c in "red orange yellow green cyan blue purple magenta pink white".split()  # noqa: SIM905
]
SIZES = [{"small", "tiny", "little"}, {"medium", "middling"}, {"large", "big", "huge"}]
TEXTURES = [
    {"plain", "solid", "without"},
    {"striped", "banded", "stripes"},
    {"dotted", "spotted", "dots"},
    {"checked", "chequered", "checks"},
]
POSITIONS = [{"left"}, {"right"}, {"top", "upper"}, {"bottom", "lower"}, {"centre", "middle"}]
GROUNDS = [{c} for c in ("black", "navy", "maroon", "forest", "plum", "slate")]
HELD_OUT = {(1, 0), (4, 1), (7, 2), (0, 3), (3, 4), (6, 5), (9, 6), (2, 7)}


@pytest.fixture(scope="module")
def pool() -> Scenes:
    return make_pool(3000, seed=5)


@pytest.fixture(scope="module")
def curated() -> Scenes:
    return make_curated(1500, seed=6)


def rows_of(scenes: Scenes, kind: str) -> list[int]:
    assert scenes.kinds is not None
    return [i for i, own in enumerate(scenes.kinds) if own == kind]


def split(caption: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", caption)


def told(caption: str, table: list[set[str]]) -> set[int]:
    """Which values of an attribute a caption names."""
    return {i for i, synonyms in enumerate(table) if synonyms & set(split(caption))}


def wrong_words(caption: str, params: list[int]) -> int:
    """How many attributes a caption of a one-object scene gets wrong."""
    tables = (GROUNDS, None, SHAPES, COLOURS, SIZES, TEXTURES, POSITIONS)
    return sum(len(told(caption, table) - {value}) for table, value in zip(tables, params[:7], strict=True) if table)


def test_it_is_a_source(pool: Scenes) -> None:
    source: Source = pool
    assert len(source) == len(source.keys) == len(pool.captions) == 3000
    assert source.keys[123] == f"scenes-pool-5-{source.fingerprint[:8]}/000123"
    assert len(set(source.keys)) == 3000
    assert pool.pixels.shape == (3000, 3, IMAGE_SIZE, IMAGE_SIZE)
    assert pool.pixels.dtype == torch.uint8


def test_same_seed_same_pool_and_another_seed_another(pool: Scenes) -> None:
    again, other = make_pool(3000, seed=5), make_pool(3000, seed=7)
    assert torch.equal(again.pixels, pool.pixels)
    assert again.captions == pool.captions
    assert again.kinds == pool.kinds
    assert again.fingerprint == pool.fingerprint
    assert not torch.equal(other.pixels, pool.pixels)
    assert other.captions != pool.captions
    assert other.kinds != pool.kinds


def test_global_random_state_is_neither_read_nor_moved() -> None:
    torch.manual_seed(1)
    state = torch.random.get_rng_state()
    first = make_pool(64, seed=3)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(2)
    assert torch.equal(make_pool(64, seed=3).pixels, first.pixels)


def test_what_a_seed_gives_is_frozen_until_the_version_is_raised() -> None:
    pool = make_pool(200, seed=1)  # Not the pixels: their last bits belong to the processor.
    assert pool.kinds is not None
    text = "\n".join([*pool.captions, *pool.kinds, str(pool.params.tolist())])
    assert hashlib.sha256(text.encode()).hexdigest()[:12] == "9d26c7159941"


def test_fingerprints_tell_everything_apart() -> None:
    made = [
        make_pool(40, seed=1),
        make_pool(40, seed=2),
        make_pool(41, seed=1),
        make_pool(40, seed=1, mix=REDUNDANT_MIX),
        make_pool(40, seed=1, mix=replace(DEFAULT_MIX, bases=3)),
        make_curated(40, seed=1),
    ]
    assert len({scenes.fingerprint for scenes in made}) == len(made)


@pytest.mark.parametrize("mix", [DEFAULT_MIX, REDUNDANT_MIX])
def test_shares_are_exact(mix: Mix) -> None:
    kinds = make_pool(2000, seed=1, mix=mix).kinds
    assert kinds is not None
    assert Counter(kinds) == {kind: round(2000 * share) for kind, share in mix.shares().items()}
    assert set(kinds) > SOUND_KINDS


@given(st.integers(0, 5000))
def test_counts_add_up_and_are_off_by_less_than_one(n: int) -> None:
    counts = DEFAULT_MIX.counts(n)
    assert sum(counts.values()) == n
    assert all(abs(counts[kind] - share * n) < 1 for kind, share in DEFAULT_MIX.shares().items())


@pytest.mark.parametrize("n", [0, 1, 3, 17])
def test_tiny_pools_work(n: int) -> None:
    assert len(make_pool(n, seed=1)) == len(make_curated(n, seed=1)) == n


@pytest.mark.parametrize("bad", [{"clean": 0.3}, {"clean": -0.1, "duplicate": 0.63}, {"bases": 0}])
def test_a_mix_that_cannot_be_is_refused(bad: dict[str, float]) -> None:
    with pytest.raises(AcedError, match="1"):
        replace(DEFAULT_MIX, **bad)


def test_kinds_are_spread_over_the_pool(pool: Scenes) -> None:
    assert pool.kinds is not None
    first_half = Counter(pool.kinds[:1500])
    assert all(first_half[kind] >= 0.3 * count for kind, count in Counter(pool.kinds).items())


def test_held_out_pairs_are_in_no_picture_and_no_caption(pool: Scenes, curated: Scenes) -> None:
    for scenes in (pool, curated):
        for block in (2, 7):
            pairs = {(colour, shape) for shape, colour in scenes.params[:, block : block + 2].tolist()}
            assert not pairs & HELD_OUT
        for caption in scenes.captions:
            found = split(caption)
            for colour, shape in pairwise(found):
                assert not any({colour} == COLOURS[c] and shape in SHAPES[s] for c, s in HELD_OUT), caption


def test_all_72_other_pairs_are_shown(pool: Scenes) -> None:
    assert len({tuple(pair) for pair in pool.params[:, 2:4].tolist()}) == 72


def test_two_objects_differ_and_are_about_a_seventh(curated: Scenes) -> None:
    two = curated.params[curated.params[:, 1] == 2]
    assert 0.10 < len(two) / len(curated) < 0.20
    assert (two[:, 2] != two[:, 7]).all()
    assert (two[:, 3] != two[:, 8]).all()
    assert (curated.params[curated.params[:, 1] == 1][:, 7:] == -1).all()


def test_captions_of_sound_pairs_are_true(pool: Scenes, curated: Scenes) -> None:
    for scenes in (pool, curated):
        for kind in (*SOUND_KINDS, "noisy"):
            for i in rows_of(scenes, kind):
                if scenes.params[i, 1] == 1:
                    assert wrong_words(scenes.captions[i], scenes.params[i].tolist()) == 0


def test_partial_captions_have_one_word_wrong(pool: Scenes) -> None:
    rows = [i for i in rows_of(pool, "partial") if pool.params[i, 1] == 1]
    assert len(rows) > 20
    for i in rows:
        assert wrong_words(pool.captions[i], pool.params[i].tolist()) == 1, pool.captions[i]


def test_shuffled_captions_are_mostly_wrong(pool: Scenes) -> None:
    rows = [i for i in rows_of(pool, "shuffled") if pool.params[i, 1] == 1]
    wrong = [wrong_words(pool.captions[i], pool.params[i].tolist()) > 0 for i in rows]
    assert sum(wrong) > 0.95 * len(wrong)


def test_relations_of_two_objects_are_true(curated: Scenes) -> None:
    pattern = r"(.*) (left of|right of|above|over|higher than|below|under|beneath) (.*)"
    sides = {"left of": 0, "right of": 1, "above": 2, "over": 2, "higher than": 2}
    checked = 0
    for caption, row in zip(curated.captions, curated.params.tolist(), strict=True):
        match = re.fullmatch(pattern, caption)
        if row[1] == 2 and match:
            before, relation, _ = match.groups()
            (colour,) = told(before, COLOURS)
            block = 2 if row[3] == colour else 7
            assert row[block + 4] == sides.get(relation, 3), caption
            checked += 1
    assert checked > 50


def test_duplicates_are_near_and_have_two_captions(pool: Scenes) -> None:
    groups: dict[tuple[int, ...], list[int]] = {}
    for i in rows_of(pool, "duplicate"):
        groups.setdefault(tuple(pool.params[i].tolist()), []).append(i)
    assert 46 <= len(groups) <= 48  # Two bases may happen to have the same attributes.
    within, pixels, per_base = [], pool.pixels.float(), -(-len(rows_of(pool, "duplicate")) // 48)
    for rows in groups.values():
        if len(rows) <= per_base:
            assert len({pool.captions[i] for i in rows}) <= 2
        assert not torch.equal(pixels[rows[0]], pixels[rows[1]])
        within.append((pixels[rows[0]] - pixels[rows[1]]).abs().mean().item())
    clean = rows_of(pool, "clean")
    between = (pixels[clean[1:]] - pixels[clean[:-1]]).abs().mean().item()
    assert sum(within) / len(within) < 0.25 * between


def test_noisy_pictures_are_spoilt(pool: Scenes) -> None:
    """A spoilt picture is far from what its parameters say: nearly flat, half covered, or full of noise."""
    step = (pool.pixels[:, :, 1:].float() - pool.pixels[:, :, :-1].float()).abs().mean((1, 2, 3))
    usual = step[rows_of(pool, "clean")]
    odd = step[rows_of(pool, "noisy")]
    assert ((odd < usual.quantile(0.02)) | (odd > usual.quantile(0.98))).float().mean() > 0.5


def test_the_vocabulary_is_small_and_complete(pool: Scenes, curated: Scenes) -> None:
    known = vocabulary()
    assert known == sorted(set(known))
    assert len(known) < 400
    used = {word for scenes in (pool, curated) for caption in scenes.captions for word in split(caption)}
    assert used <= set(known)
    assert all(caption == caption.lower().strip() for caption in pool.captions)


def test_captions_vary(curated: Scenes) -> None:
    assert len(set(curated.captions)) > 0.9 * len(curated)
    openings = {" ".join(split(caption)[:2]) for caption in curated.captions}
    assert len(openings) > 30


def test_read_gives_rows_in_order_and_in_every_view(pool: Scenes) -> None:
    native, small, squash = View(IMAGE_SIZE), View(24), View(48, "squash", "bilinear")
    batch = pool.read([7, 3, 7, 2999], [native, small, squash])
    assert batch.indices.tolist() == [7, 3, 7, 2999]
    assert batch.texts == [pool.captions[i] for i in (7, 3, 7, 2999)]
    assert not batch.faults
    for view in (native, small, squash):
        assert batch.images[view].shape == (4, 3, view.size, view.size)
        for row, i in enumerate((7, 3, 7, 2999)):
            expected = view.apply(pool.pixels[i].permute(1, 2, 0).numpy())
            assert torch.equal(batch.images[view][row], torch.from_numpy(expected))
    assert pool.read([], [native, small]).images[small].shape == (0, 3, 24, 24)


def test_what_was_read_may_be_written_to(pool: Scenes) -> None:
    before = pool.pixels[:4].clone()
    pool.read([0, 1, 2, 3], [View(IMAGE_SIZE)]).images[View(IMAGE_SIZE)].zero_()
    assert torch.equal(pool.pixels[:4], before)


def test_progress_reaches_the_end() -> None:
    calls: list[tuple[int, int]] = []
    make_pool(600, seed=1, progress=lambda done, total: calls.append((done, total)))
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)
    assert calls[-1] == (600, 600)
