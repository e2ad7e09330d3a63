"""Architectures without weights: their FLOPs are those of the model, and those of the paper's students."""

from __future__ import annotations

import pytest
import torch

from aced.errors import AcedError
from aced.models import import_open_clip, load_tower, outline
from aced.models.locking import lock

# arXiv 2411.18674, the table of the final models: multiply-adds of image and text in 10^9.
PUBLISHED = {"aced-f0": 3.30, "aced-f1": 7.14, "aced-f2": 10.29}
TOKENS = 64


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_derived_students_cost_what_the_paper_says(name: str) -> None:
    tower = outline(name)
    assert tower.context_length == TOKENS
    assert tower.flops(TOKENS).total / 2e9 == pytest.approx(PUBLISHED[name], rel=0.02)


def test_the_derived_students_share_one_text_tower() -> None:
    texts = {name: outline(name).model.text for name in PUBLISHED}  # type: ignore[union-attr]
    for text in texts.values():
        assert (text.width, len(text.transformer.resblocks)) == (384, 12)
    images = [outline(name).flops(TOKENS).image for name in PUBLISHED]
    assert images == sorted(images)


# A transformer by the formula, others by torch's counter: own blocks, attention pooling, convolutions.
@pytest.mark.parametrize("name", ["aced-demo-s", "ViT-S-32-alt", "MobileCLIP-S1", "RN50"])
def test_an_outline_has_the_flops_of_the_model(name: str) -> None:
    drawn, built = outline(name), load_tower(name, seed=0)
    assert drawn.device.type == "meta"
    assert (drawn.width, drawn.view, drawn.context_length) == (built.width, built.view, built.context_length)
    for length in (7, built.context_length):
        assert drawn.flops(length) == built.flops(length)


def test_an_outline_that_is_locked_in_part_has_the_models_backward_pass() -> None:
    parts = ["image", "!visual.head", "text", "!text.transformer.resblocks.1"]
    drawn, built = outline("aced-demo-s"), load_tower("aced-demo-s", seed=0)
    for tower in (drawn, built):
        lock(tower, parts)
    assert 0 < drawn.behind[0] < drawn.behind[1] < 1
    assert drawn.behind == built.behind


def test_an_outline_of_a_large_model_takes_no_memory() -> None:
    tower = outline("ViT-gopt-16-SigLIP2-256")  # 1.9 billion weights
    assert sum(p.numel() for p in tower.parameters()) > 1.8e9
    assert all(p.device.type == "meta" for p in tower.parameters())
    assert torch.is_tensor(tower.mean)
    assert tower.flops(TOKENS).image > 50 * outline("ViT-B-32").flops(77).image


def test_an_outline_fetches_nothing_and_reads_no_texts() -> None:
    with pytest.raises(AcedError, match="hf-hub:timm/ViT-B-16-SigLIP"):
        outline("hf-hub:timm/ViT-B-16-SigLIP")
    with pytest.raises(AcedError, match="xlm-roberta-base"):
        outline("xlm-roberta-base-ViT-B-32")
    with pytest.raises(AcedError, match="aced-f3"):
        outline("aced-f3")
    with pytest.raises(AcedError, match="ViT-B-32"):
        outline("ViT-B-32").tokens(["a"])


def test_open_clip_builds_the_derived_students() -> None:
    open_clip = import_open_clip()
    with torch.device("meta"):
        model = open_clip.create_model("aced-f0", pretrained=None, device="meta")
    assert model.visual.image_size in (288, (288, 288))
    assert type(model.visual).__module__.startswith("open_clip.")  # also where aced is not installed
