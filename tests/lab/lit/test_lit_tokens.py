"""Patch tokens before the pooling: equal to what the tower pools; cached once, made again when damaged."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from aced.errors import AcedError
from aced.lab.lit.tokens import cached_tokens
from aced.lab.scenes import make_curated
from aced.models import Tower, load_tower
from aced.models.patch_tokens import encode_tokens

_TEXT = '"text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}'
_VISION = '"image_size": 32, "layers": 2, "width": 64, "patch_size": 8, "head_width": 32'


def build(folder: Path, vision: str, more: str = "") -> Tower:
    path = folder / "small.json"
    path.write_text(f'{{"embed_dim": 32, {more} "vision_cfg": {{{vision}}}, {_TEXT}}}', encoding="utf-8")
    return load_tower(path, seed=1).eval()


def pictures(n: int = 3, side: int = 32) -> torch.Tensor:
    return torch.randint(0, 256, (n, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_the_mean_of_the_demo_familys_tokens_is_what_its_head_projects() -> None:
    tower = load_tower("aced-demo-s", seed=3).eval()
    tokens = encode_tokens(tower, pictures())
    assert tokens.shape == (3, 16, 64)
    with torch.no_grad():
        pooled = F.normalize(tower.model.visual.head(tokens.mean(dim=1)), dim=-1)  # type: ignore[operator, union-attr]
        assert torch.allclose(pooled, tower.embed_image(pictures()), atol=1e-6)


def test_the_mean_of_open_clips_tokens_is_what_it_projects(tmp_path: Path) -> None:
    tower = build(tmp_path, _VISION + ', "pool_type": "avg"')
    tokens = encode_tokens(tower, pictures())
    assert tokens.shape == (3, 16, 64)  # without the class token
    with torch.no_grad():
        pooled = F.normalize(tokens.mean(dim=1) @ tower.model.visual.proj, dim=-1)  # type: ignore[operator, union-attr]
        assert torch.allclose(pooled, tower.embed_image(pictures()), atol=1e-6)


def test_a_plain_vit_of_timm_loses_its_class_token(tmp_path: Path) -> None:
    tower = build(
        tmp_path, '"image_size": 32, "timm_model_name": "test_vit", "timm_pool": "avg"', '"custom_text": true,'
    )
    trunk = tower.model.visual.trunk  # type: ignore[union-attr]
    tokens = encode_tokens(tower, pictures())
    assert tokens.shape == (3, (32 // 16) ** 2, trunk.num_features)


def test_a_tower_of_another_kind_is_refused(tmp_path: Path) -> None:
    tower = build(tmp_path, '"image_size": 32, "layers": [1, 1, 1, 1], "width": 16')
    with pytest.raises(AcedError, match="ModifiedResNet"):
        encode_tokens(tower, pictures())


def test_encoding_leaves_the_modes_and_takes_no_gradient() -> None:
    tower = load_tower("aced-demo-s", seed=3)
    tower.train()
    assert not encode_tokens(tower, pictures()).requires_grad
    assert all(module.training for module in tower.modules())


# -- the cache -------------------------------------------------------------------------------------------------------


def test_cached_tokens_are_the_fresh_ones_and_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tower, source = load_tower("aced-demo-s", seed=3).eval(), make_curated(50, 1)
    steps: list[tuple[int, int]] = []
    found = cached_tokens(tmp_path, tower, source, lambda done, total: steps.append((done, total)))
    assert (len(found), found.count, found.width) == (50, 16, 64)
    fresh = encode_tokens(tower, source.pixels[[4, 40]])
    assert torch.allclose(found.rows([4, 40]), fresh, atol=2e-3, rtol=1e-3)
    assert found.usable([3, 4]) == [0, 1]
    assert steps[-1] == (50, 50)
    monkeypatch.setattr("aced.lab.lit.tokens.encode_tokens", lambda *_: pytest.fail("encoded again"))
    again = cached_tokens(tmp_path, tower, source)
    assert torch.equal(again.rows(range(50)), found.rows(range(50)))


def count_encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The pictures of each call of the encoder from now on."""
    calls: list[int] = []

    def encode(tower: Tower, images: torch.Tensor) -> torch.Tensor:
        calls.append(len(images))
        return encode_tokens(tower, images)

    monkeypatch.setattr("aced.lab.lit.tokens.encode_tokens", encode)
    return calls


def test_another_tower_and_other_data_are_encoded_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tower, source = load_tower("aced-demo-s", seed=3).eval(), make_curated(20, 1)
    calls = count_encoded(monkeypatch)
    cached_tokens(tmp_path, tower, source)
    cached_tokens(tmp_path, load_tower("aced-demo-s", seed=4), source)
    cached_tokens(tmp_path, tower, make_curated(21, 2))
    assert calls == [20, 20, 21]
    cached_tokens(tmp_path, tower, source)
    assert sum(calls) == 61


def test_a_damaged_cache_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tower, source = load_tower("aced-demo-s", seed=3).eval(), make_curated(20, 1)
    fresh = cached_tokens(tmp_path, tower, source).rows(range(20))
    (path,) = (tmp_path / "tokens").rglob("*.safetensors")
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(bytes(content))
    calls = count_encoded(monkeypatch)
    assert torch.equal(cached_tokens(tmp_path, tower, source).rows(range(20)), fresh)
    assert calls == [20]


def test_tokens_that_are_not_finite_leave_nothing_behind(tmp_path: Path) -> None:
    tower = load_tower("aced-demo-s", seed=3)
    nn.init.constant_(tower.model.visual.trunk.norm.weight, float("nan"))  # type: ignore[union-attr]
    with pytest.raises(AcedError, match="finite"):
        cached_tokens(tmp_path, tower, make_curated(20, 1))
    assert not [path for path in (tmp_path / "tokens").rglob("*") if path.is_file()]
