"""FLOPs: the formula against torch's counter, and the counter against a hand count."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from tower_fakes import candidates, images, write_config

from aced.models import Tower, load_tower
from aced.models import flops as flops_module
from aced.models.flops import count, countable, transformer_flops

VARIANTS = [
    # image size, patch, layers, width, mlp ratio; text length, width, layers, mlp ratio
    (64, 32, 2, 64, 4.0, 77, 64, 2, 4.0),
    (32, 8, 3, 96, 2.0, 16, 32, 3, 3.0),
    (48, 16, 1, 32, 2.5, 24, 48, 1, 2.0),
]


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("custom", [False, True])
def test_the_formula_is_the_counter_to_the_digit(tmp_path: Path, variant: tuple[float, ...], custom: bool) -> None:
    size, patch, layers, width, ratio, context, text_width, text_layers, text_ratio = variant
    config = {
        "embed_dim": 40,
        "custom_text": custom,
        "vision_cfg": {
            "image_size": size,
            "patch_size": patch,
            "layers": layers,
            "width": width,
            "head_width": 16,
            "mlp_ratio": ratio,
        },
        "text_cfg": {
            "context_length": context,
            "vocab_size": 49408,
            "width": text_width,
            "heads": 2,
            "layers": text_layers,
            "mlp_ratio": text_ratio,
            "proj_bias": custom,
        },
    }
    tower = load_tower(write_config(tmp_path / "c.json", config))
    batch = images(3, size)
    assert tower.flops(context).image == count(tower, lambda: tower.embed_image(batch)) // 3
    for text in ("a", "a photo of a zebra with a hat"):
        length = tower.tokens([text]).shape[1]
        counted = count(tower, lambda text=text: tower.embed_text([text] * 3)) // 3
        assert tower.flops(length).text == counted
    padded = tower.tokenizer(["a"])
    assert tower.flops(context).text == count(tower, lambda: tower.model.encode_text(padded))


def test_the_formula_of_stack_notes() -> None:
    # ViT-S-32 of open_clip: 2.285 and 3.380 GFLOP for an image of 224 pixels and 77 tokens.
    image = transformer_flops(50, 384, 12, 1536) + 2 * 49 * 3 * 32**2 * 384 + 2 * 384 * 384
    text = transformer_flops(77, 384, 12, 1536) + 2 * 384 * 384
    assert (round(image / 1e9, 3), round(text / 1e9, 3)) == (2.285, 3.380)


def _by_hand(width: int, layers: int, embed: int, tokens: int) -> int:
    stem = 2 * tokens * (4 * 48 * 48 + 4 * 48 * width)
    return stem + transformer_flops(tokens, width, layers, 2 * width) + 2 * width * embed


@pytest.mark.parametrize(("name", "width", "layers"), [("s", 64, 3), ("m", 96, 4), ("l", 128, 5)])
def test_the_counter_gives_the_hand_count_of_the_demo_family(name: str, width: int, layers: int) -> None:
    tower = load_tower(f"aced-demo-{name}")
    assert tower.flops(12).image == _by_hand(width, layers, width, 16)
    assert tower.flops(12, image_size=16).image == _by_hand(width, layers, width, 4)
    assert tower.flops(12, image_size=64).image == _by_hand(width, layers, width, 64)


def test_a_backward_pass_costs_two_forward_passes(towers: dict[str, Tower]) -> None:
    for name in ("plain", "demo"):
        tower = towers[name]
        pairs = candidates([tower], ["a red circle"] * 4)
        length = tower.tokens(pairs.texts).shape[1]
        with countable(), FlopCounterMode(display=False) as counter:
            found = tower.embed(pairs)
            (found.image * found.text).sum().backward()
        tower.zero_grad()
        train = counter.get_total_flops() / 4
        assert 0.93 < train / (3 * tower.flops(length).total) < 1.02


def test_trimmed_lengths_and_the_memory(towers: dict[str, Tower], monkeypatch: pytest.MonkeyPatch) -> None:
    demo, whole = towers["demo"], towers["tiny-siglip"]
    assert demo.flops(5).text < demo.flops(20).text < demo.flops(32).text == demo.flops(99).text
    assert whole.flops(5) == whole.flops(24)
    assert demo.flops(5).total == demo.flops(5).image + demo.flops(5).text
    for part in ("count", "count_image", "count_text"):
        monkeypatch.setattr(flops_module, part, lambda *_: pytest.fail("counted again"))
    assert demo.flops(5).text < demo.flops(20).text


def test_a_batch_costs_what_its_texts_cost_padding_included(towers: dict[str, Tower]) -> None:
    demo, whole = towers["demo"], towers["tiny-siglip"]
    texts = ["a", "a red circle on a dark background", "a red circle"]
    assert demo.forward_flops(texts[1:2]) == demo.flops(8).total
    assert demo.forward_flops(texts[:1]) == demo.flops(2).total
    # The two short ones go together, padded to four tokens, and the long one alone.
    together = demo.flops(8).image + (2 * demo.flops(4).text + demo.flops(8).text) / 3
    assert demo.forward_flops(texts) == pytest.approx(together, rel=1e-12)
    pairs = candidates([demo], texts)
    assert 3 * demo.forward_flops(texts) == pytest.approx(count(demo, lambda: demo.embed(pairs)), rel=1e-12)
    assert whole.forward_flops(texts) == whole.flops(24).total


def test_other_architectures_are_counted(tmp_path: Path, towers: dict[str, Tower]) -> None:
    config = {
        "embed_dim": 32,
        "vision_cfg": {"image_size": 32, "timm_model_name": "resnet10t"},
        "text_cfg": {**towers["plain"].config["text_cfg"], "qk_norm": True},
    }
    tower = load_tower(write_config(tmp_path / "other.json", config)).train()
    before = torch.backends.mha.get_fastpath_enabled()
    found = tower.flops(10)
    assert found.image > 1_000_000
    assert found.text == towers["plain"].flops(10).text
    assert torch.backends.mha.get_fastpath_enabled() == before
    assert tower.training


def test_a_parameter_that_a_module_is_given_is_no_hindrance() -> None:
    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.latent, self.inner = nn.Parameter(torch.randn(1, 1, 4)), nn.Linear(4, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.inner(self.latent.expand(len(x), -1, -1))

    model = Pooled()
    model.inner.bias.requires_grad_(False)
    assert count(model, lambda: model(torch.zeros(2, 4))) == 2 * 2 * 4 * 8
    assert [value.requires_grad for value in model.parameters()] == [True, True, False]
