"""Precision: what `auto` means on a device, autocast, and a switch of torch that is left as it was found."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from aced.models import load_tower
from aced.runtime.precision import autocast, find_precision, find_tf32, tensor_float

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
MATMUL = torch.backends.cuda.matmul


@pytest.mark.parametrize(
    ("asked", "device", "capability", "hip", "found"),
    [
        ("auto", CPU, None, None, "fp32"),
        ("auto", GPU, (9, 0), None, "bf16"),
        ("auto", GPU, (8, 0), None, "bf16"),
        ("auto", GPU, (7, 5), None, "fp32"),  # torch emulates bf16 there
        ("auto", GPU, None, "6.2", "bf16"),
        ("fp32", GPU, (9, 0), None, "fp32"),
        ("bf16", CPU, None, None, "bf16"),
        ("fp16", GPU, (7, 5), None, "fp16"),
    ],
)
def test_auto_is_what_the_device_multiplies_in_hardware(
    asked: Any, device: torch.device, capability: Any, hip: Any, found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.version, "hip", hip)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda asked_of: capability if asked_of == GPU else None)
    assert find_precision(asked, device) == found


@pytest.mark.parametrize(
    ("asked", "precision", "on_gpu"),
    [
        ("auto", "fp32", False),
        ("auto", "bf16", True),
        ("auto", "fp16", True),
        (True, "fp32", True),
        (False, "bf16", False),
    ],
)
def test_tf32_leaves_fp32_runs_as_they_were_unless_it_is_asked_for(asked: Any, precision: Any, on_gpu: bool) -> None:
    assert find_tf32(asked, precision, GPU) is on_gpu
    assert find_tf32(asked, precision, CPU) is False


def switches() -> tuple[Any, ...]:
    """All of torch's switches of float32 products that can be read without a GPU."""
    found: list[Any] = []
    for read in (torch.get_float32_matmul_precision, lambda: MATMUL.allow_tf32):
        try:
            found.append(read())
        except RuntimeError:  # both sets of switches were used
            found.append("mixed")
    backends = (torch.backends, MATMUL, torch.backends.mkldnn.matmul, torch.backends.cudnn.conv)
    return (*found, *(getattr(backend, "fp32_precision", None) for backend in backends))


def by_the_newer_switch() -> None:
    if not hasattr(MATMUL, "fp32_precision"):
        pytest.skip("this torch has one set of switches")
    MATMUL.fp32_precision = "tf32"


@pytest.fixture
def restored() -> Iterator[None]:
    newer = getattr(MATMUL, "fp32_precision", None)
    yield
    torch.set_float32_matmul_precision("highest")
    if newer is not None:
        for backend in (MATMUL, torch.backends.mkldnn.matmul):
            backend.fp32_precision = newer


@pytest.mark.usefixtures("restored")
@pytest.mark.parametrize(
    "before",
    [
        lambda: None,
        lambda: torch.set_float32_matmul_precision("high"),
        lambda: torch.set_float32_matmul_precision("medium"),
        by_the_newer_switch,
    ],
    ids=["untouched", "high", "medium", "newer"],
)
@pytest.mark.parametrize("allowed", [True, False])
def test_the_switch_holds_inside_and_is_as_before_afterwards(allowed: bool, before: Callable[[], None]) -> None:
    before()
    found = switches()
    with tensor_float(allowed, GPU):
        assert MATMUL.allow_tf32 is allowed
        assert switches()[4:] == found[4:]  # products on a CPU and convolutions have their own
    assert switches() == found
    with pytest.raises(KeyError), tensor_float(allowed, GPU):
        raise KeyError
    assert switches() == found
    with tensor_float(allowed, CPU):
        assert switches() == found


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_towers_embeddings_are_of_unit_length_in_float32_whatever_it_runs_in(precision: Any) -> None:
    tower = load_tower("aced-demo-s", seed=0).eval()
    images = torch.randint(0, 256, (6, 3, tower.view.size, tower.view.size), dtype=torch.uint8)
    texts = ["a red dog", "a cat", "a small tree beside the house", "sky", "a", "two"]
    with torch.no_grad():
        exact = tower.embed_image(images), tower.embed_text(texts)
        with autocast(CPU, precision):
            low = tower.embed_image(images), tower.embed_text(texts)
    for full, other in zip(exact, low, strict=True):
        assert other.dtype == torch.float32
        assert not torch.equal(full, other)
        assert (other.double().norm(dim=1) - 1).abs().max() < 1e-6
        assert (full * other).sum(1).min() > 0.999
