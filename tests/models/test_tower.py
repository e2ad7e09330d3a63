"""`Tower`: preprocessing, tokens, embeddings, scoring, fingerprint."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from PIL import Image
from tower_fakes import TEXTS, candidates, images

from aced.errors import AcedError
from aced.models import Tower, WordTokenizer, ids, import_open_clip, text
from aced.pool.views import View

ALL = ("plain", "custom", "tiny-siglip", "coca", "demo")
SHAPES = [(37, 61), (61, 37), (32, 32), (33, 32), (5, 90), (90, 7), (1, 1), (200, 131), (32, 31), (64, 64)]


def _view(tower: Tower, view: View) -> Tower:
    """The same model with another preprocessing."""
    preprocess = {
        **tower.preprocess,
        "size": view.size,
        "resize_mode": view.mode,
        "interpolation": view.interpolation,
    }
    return Tower(tower.name, tower.model, tower.config, preprocess, tower.tokenizer, tower.context_length).train(
        tower.training
    )


# -- preprocessing -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("mode", ["shortest", "squash"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_view_and_pixels_are_open_clips_transform(
    towers: dict[str, Tower], shape: tuple[int, int], mode: str, interpolation: str
) -> None:
    open_clip = import_open_clip()
    tower = _view(towers["plain"], View(32, mode, interpolation))
    config = open_clip.transform.PreprocessCfg(size=32, resize_mode=mode, interpolation=interpolation)
    theirs = open_clip.transform.image_transform_v2(config, is_train=False)
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    mine = tower.pixels(torch.from_numpy(tower.view.apply(image))[None])[0]
    assert (mine - theirs(Image.fromarray(image))).abs().max() < 1e-6


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_pixels_leave_their_input_alone(towers: dict[str, Tower], dtype: torch.dtype) -> None:
    batch = images(2, 32).to(dtype)
    before = batch.clone()
    towers["demo"].pixels(batch)
    assert torch.equal(batch, before)


def test_unsupported_preprocessing_is_refused(towers: dict[str, Tower]) -> None:
    tower = towers["plain"]
    for change, words in (
        ({"size": [32, 48]}, "square"),
        ({"resize_mode": "longest"}, "longest"),
        ({"std": [0.5, 0.0, 0.5]}, "zero"),
    ):
        with pytest.raises(AcedError, match=words):
            Tower("x", tower.model, tower.config, {**tower.preprocess, **change}, tower.tokenizer, 24)


# -- tokens --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["plain", "custom", "demo"])
def test_trimming_changes_no_embedding(towers: dict[str, Tower], name: str) -> None:
    tower = towers[name]
    full = tower.tokenizer(list(TEXTS))
    assert tower.tokens(TEXTS[:1]).shape[1] < full.shape[1]
    with torch.no_grad():
        theirs = tower.model.encode_text(full, normalize=True)
        together = tower.embed_text(TEXTS)
        alone = torch.cat([tower.embed_text([t]) for t in TEXTS])
    assert (together - theirs).abs().max() < 1e-6
    assert (alone - theirs).abs().max() < 1e-6


def test_trimming_changes_no_gradient(towers: dict[str, Tower]) -> None:
    tower = towers["custom"]
    weights = [p for n, p in tower.model.text.named_parameters()]
    weigh = torch.randn(len(TEXTS), tower.width, generator=torch.Generator().manual_seed(0))
    mine = torch.autograd.grad((tower.embed_text(TEXTS) * weigh).sum(), weights)
    full = tower.model.encode_text(tower.tokenizer(list(TEXTS)), normalize=True)
    theirs = torch.autograd.grad((full * weigh).sum(), weights)
    assert all(torch.allclose(a, b, rtol=1e-4, atol=2e-5) for a, b in zip(mine, theirs, strict=True))


def test_short_and_long_texts_are_embedded_apart() -> None:
    def by_length(lengths: list[int]) -> list[list[int]]:
        return [part.tolist() for part in text.by_length(torch.tensor(lengths, dtype=torch.int64))]

    assert by_length([]) == [[]]
    assert by_length([7]) == [[0]]
    assert by_length([5, 5, 5]) == [[0, 1, 2]]
    assert by_length([9, 9, 9, 10]) == [[0, 1, 2, 3]]  # spares less than a tenth
    assert by_length([4, 20, 3, 5]) == [[2, 0, 3], [1]]
    lengths = torch.randint(2, 30, (50,), generator=torch.Generator().manual_seed(0)).tolist()

    def tokens(parts: list[list[int]]) -> int:
        return sum(len(part) * max(lengths[i] for i in part) for part in parts)

    order = sorted(range(50), key=lengths.__getitem__)
    assert tokens(by_length(lengths)) == min(tokens([order[:cut], order[cut:]]) for cut in range(1, 50))


@pytest.mark.parametrize("name", ["tiny-siglip", "coca"])
def test_towers_that_look_behind_the_end_are_not_trimmed(towers: dict[str, Tower], name: str) -> None:
    tower = towers[name]
    assert tower.tokens(["a"]).shape == (1, 24)
    with torch.no_grad():
        theirs = tower.model.encode_text(tower.tokenizer(list(TEXTS)), normalize=True)
        assert (tower.embed_text(TEXTS) - theirs).abs().max() < 1e-6


def test_eos_pooling_is_trimmed_behind_the_eos(towers: dict[str, Tower], monkeypatch) -> None:
    tower = towers["custom"]
    monkeypatch.setattr(tower.model.text, "pool_type", "eos")
    monkeypatch.setattr(tower.model.text, "eos_id", 49407)
    tower = Tower(tower.name, tower.model, tower.config, tower.preprocess, tower.tokenizer, 24)
    full = tower.tokenizer(list(TEXTS))
    assert tower.tokens(TEXTS).shape[1] < full.shape[1]
    with torch.no_grad():
        theirs = tower.model.encode_text(full, normalize=True)
        assert (tower.embed_text(TEXTS) - theirs).abs().max() < 1e-6


def test_tokens_are_remembered_and_the_memory_is_bounded(demo: Tower, monkeypatch) -> None:
    calls: list[str] = []
    encode = WordTokenizer.encode

    def counting(self: WordTokenizer, text: str, context_length: int | None = None) -> list[int]:
        calls.append(text)
        return encode(self, text, context_length)

    monkeypatch.setattr(WordTokenizer, "encode", counting)
    monkeypatch.setattr(ids, "_REMEMBERED", 3)
    demo = Tower(demo.name, demo.model, demo.config, demo.preprocess, demo.tokenizer, demo.context_length)
    first = demo.tokens(["a red circle", "a", "a"])
    assert calls == ["a red circle", "a"]
    assert torch.equal(demo.tokens(["a red circle", "a", "a"]), first)
    assert len(calls) == 2
    demo.tokens(["x", "y", "a"])
    assert len(demo.ids) <= 3
    assert torch.equal(demo.tokens(["a red circle", "a", "a"]), first)


def test_long_captions_are_cut_before_they_are_tokenised(towers: dict[str, Tower]) -> None:
    tower = towers["plain"]
    long = "zebra " * 200_000
    assert torch.equal(tower.tokens([long]), tower.tokenizer([long[:2000]]))


def test_no_texts_and_no_images(towers: dict[str, Tower]) -> None:
    assert towers["demo"].tokens([]).shape[0] == 0
    empty = candidates([towers["demo"]])[torch.tensor([], dtype=torch.int64)]
    scored = towers["demo"].score(empty, 8)
    assert scored.image.shape == scored.text.shape == (0, 64)


# -- embeddings ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
def test_embeddings_are_open_clips(towers: dict[str, Tower], name: str) -> None:
    tower = towers[name]
    pairs = candidates([tower])
    found = tower.embed(pairs)
    scale_and_bias = found.detach()
    with torch.no_grad():
        image = tower.model.encode_image(tower.pixels(pairs.images[tower.view]), normalize=True)
    assert (found.image - image).abs().max() < 1e-6
    assert found.image.shape == found.text.shape == (len(TEXTS), tower.width)
    assert (found.image.norm(dim=1) - 1).abs().max() < 1e-5
    assert (found.text.norm(dim=1) - 1).abs().max() < 1e-5
    assert found.image.requires_grad
    assert found.text.requires_grad
    bias = 0.0 if name in ("plain", "coca") else -10.0
    scale = 10.0 if name == "demo" else 1 / 0.07
    assert math.isclose(float(scale_and_bias.scale), scale, rel_tol=1e-5)
    assert float(scale_and_bias.bias) == bias


def test_every_parameter_of_the_demo_gets_a_gradient(demo: Tower) -> None:
    found = demo(candidates([demo]))
    (found.scale * (found.image * found.text).sum() + found.bias).backward()
    without = [name for name, p in demo.named_parameters() if p.grad is None]
    assert without == []


def test_towers_see_their_own_inputs_from_the_same_candidates(towers: dict[str, Tower]) -> None:
    small, large = towers["demo"], towers["custom"]
    assert small.view.size != large.view.size
    pairs = candidates([small, large])
    for tower in (small, large):
        alone = tower.score(candidates([tower]), 64)
        together = tower.score(pairs, 64)
        assert torch.equal(alone.image, together.image)
        assert torch.equal(alone.text, together.text)


def test_candidates_in_another_view_are_refused(towers: dict[str, Tower]) -> None:
    with pytest.raises(AcedError, match=r"size=32.*read in View\(size=48"):
        towers["demo"].embed(candidates([towers["custom"]]))


def test_plain_pictures_embed_where_the_model_takes_any_size(towers: dict[str, Tower]) -> None:
    assert towers["demo"].embed_image(images(2, 16)).shape == (2, 64)


# -- scoring -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("micro_batch", [1, 2, 5, 64])
def test_scores_do_not_depend_on_the_micro_batch(towers: dict[str, Tower], name: str, micro_batch: int) -> None:
    tower = towers[name]
    whole, parts = tower.embed(candidates([tower])), tower.score(candidates([tower]), micro_batch)
    assert (whole.image - parts.image).abs().max() < 1e-6
    assert (whole.text - parts.text).abs().max() < 1e-6
    assert not parts.image.requires_grad
    assert not parts.scale.requires_grad


def test_scoring_restores_modes_and_gradients(demo: Tower) -> None:
    demo.train()
    demo.model.visual.trunk.blocks[1].eval()
    before = {name: module.training for name, module in demo.named_modules()}
    seen: list[tuple[bool, bool]] = []
    hook = demo.model.visual.register_forward_pre_hook(
        lambda module, _: seen.append((module.training, torch.is_grad_enabled()))
    )
    demo.score(candidates([demo]), 2)
    assert len(seen) >= 3
    assert set(seen) == {(False, False)}
    assert {name: module.training for name, module in demo.named_modules()} == before
    assert torch.is_grad_enabled()

    hook.remove()
    demo.model.visual.register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        demo.score(candidates([demo]), 2)
    assert {name: module.training for name, module in demo.named_modules()} == before
    assert torch.is_grad_enabled()


def test_micro_batches_below_one_are_refused(towers: dict[str, Tower]) -> None:
    with pytest.raises(ValueError, match="micro_batch"):
        towers["demo"].score(candidates([towers["demo"]]), 0)


# -- fingerprint ---------------------------------------------------------------------------------------------


def test_the_fingerprint_changes_with_any_weight(demo: Tower) -> None:
    first = demo.fingerprint()
    assert len(first) == 16
    assert demo.fingerprint() == first
    for name, parameter in demo.model.named_parameters():
        with torch.no_grad():
            old = parameter.view(-1)[-1].item()
            parameter.view(-1)[-1] = old + 1e-3
            assert demo.fingerprint() != first, name
            parameter.view(-1)[-1] = old
    assert demo.fingerprint() == first


def test_the_fingerprint_changes_with_preprocessing_and_tokens(demo: Tower) -> None:
    def changed(**options: object) -> str:
        keys = ("model", "config", "preprocess", "tokenizer", "context_length")
        parts = {"name": "other", **{key: getattr(demo, key) for key in keys}}
        return Tower(**{**parts, **options}).fingerprint()

    words = demo.tokenizer.words
    assert changed() == demo.fingerprint()
    prints = {
        demo.fingerprint(),
        changed(preprocess={**demo.preprocess, "mean": [0.5, 0.5, 0.5]}),
        changed(preprocess={**demo.preprocess, "std": [0.5, 0.5, 0.5]}),
        changed(preprocess={**demo.preprocess, "resize_mode": "squash"}),
        changed(preprocess={**demo.preprocess, "interpolation": "bilinear"}),
        changed(preprocess={**demo.preprocess, "size": 40}),
        changed(tokenizer=WordTokenizer((words[1], words[0], *words[2:]), 32)),
        changed(tokenizer=import_open_clip().SimpleTokenizer()),
        changed(context_length=16),
    }
    assert len(prints) == 9


def test_bfloat16_towers_have_fingerprints_too(demo: Tower) -> None:
    first = demo.fingerprint()
    assert demo.to(torch.bfloat16).fingerprint() != first


def test_views_are_hashable_keys() -> None:
    assert dataclasses.replace(View(32), size=32) in {View(32): 1}
