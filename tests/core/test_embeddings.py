from __future__ import annotations

import pytest
import torch

from aced.core.embeddings import Embeddings


def pairs(count: int = 6, width: int = 3, **options: object) -> Embeddings:
    values = torch.arange(2 * count * width, dtype=torch.float32).reshape(2, count, width)
    return Embeddings(values[0], values[1], **options)


def test_length_and_device() -> None:
    e = pairs(6)
    assert len(e) == 6
    assert e.device == torch.device("cpu")
    assert (e.scale, e.bias) == (1.0, 0.0)


@pytest.mark.parametrize("index", [[4, 1, 1], torch.tensor([4, 1, 1]), (4, 1, 1)], ids=["list", "tensor", "tuple"])
def test_a_subset_keeps_pairs_together(index: list[int] | torch.Tensor) -> None:
    e = pairs(scale=2.0, bias=-3.0)
    part = e[index]
    assert part.image.tolist() == [e.image[i].tolist() for i in (4, 1, 1)]
    assert part.text.tolist() == [e.text[i].tolist() for i in (4, 1, 1)]
    assert (part.scale, part.bias) == (2.0, -3.0)


def test_slices_masks_and_nothing() -> None:
    e = pairs()
    assert torch.equal(e[1:3].text, e.text[1:3])
    assert torch.equal(e[torch.tensor([True, False, False, True, False, False])].image, e.image[[0, 3]])
    assert torch.equal(e[[True, False, False, True, False, False]].image, e.image[[0, 3]])
    assert len(e[[]]) == 0


def test_a_subset_is_differentiable() -> None:
    image = torch.ones(4, 2, requires_grad=True)
    Embeddings(image, torch.ones(4, 2))[[1, 3]].image.sum().backward()
    assert image.grad is not None
    assert image.grad.sum(1).tolist() == [0, 2, 0, 2]


def test_detach_cuts_everything() -> None:
    leaf = torch.ones(4, 2, requires_grad=True)
    scale = torch.tensor(2.0, requires_grad=True)
    e = Embeddings(leaf * 2, leaf * 3, scale.exp(), scale * 1).detach()
    assert not any(t.requires_grad for t in (e.image, e.text, e.scale, e.bias))
    assert torch.equal(e.text, leaf * 3)
    plain = pairs(scale=3.0, bias=1.0).detach()
    assert (plain.scale, plain.bias) == (3.0, 1.0)


def test_to_moves_everything() -> None:
    e = pairs(scale=torch.tensor(2.0), bias=1.5).to("meta")
    assert e.device.type == e.text.device.type == e.scale.device.type == "meta"
    assert e.bias == 1.5


def test_a_model_without_a_bias_has_zero() -> None:
    """CLIP models of open_clip say None."""
    e = pairs(bias=None)
    assert e.bias == e[:3].bias == e.detach().bias == e.to("meta").bias == 0.0


def test_cat_joins_micro_batches() -> None:
    e = pairs(6, scale=2.0, bias=-1.0)
    joined = Embeddings.cat([e[:1], e[1:4], e[4:]])
    assert torch.equal(joined.image, e.image)
    assert torch.equal(joined.text, e.text)
    assert (joined.scale, joined.bias) == (2.0, -1.0)


@pytest.mark.parametrize(
    ("image", "text", "message"),
    [
        (torch.ones(3, 2), torch.ones(4, 2), r"\[B, d\].*image \[3, 2\].*text \[4, 2\]"),
        (torch.ones(3, 2), torch.ones(3, 4), r"image \[3, 2\].*text \[3, 4\]"),
        (torch.ones(3), torch.ones(3), r"image \[3\].*text \[3\]"),
        (torch.ones(3, 2, dtype=torch.int64), torch.ones(3, 2), "torch.int64"),
        (torch.ones(3, 2), torch.ones(3, 2, dtype=torch.uint8), r"torch\.float32.*torch\.uint8"),
        (torch.ones(3, 2), torch.ones(3, 2, device="meta"), "image.*cpu.*text.*meta"),
    ],
)
def test_errors_say_what_is_wrong(image: torch.Tensor, text: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Embeddings(image, text)
