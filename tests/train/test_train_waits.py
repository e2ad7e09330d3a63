"""No step of any method waits for the GPU, nor mixes tensors of two devices; on a GPU that is only claimed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from aced.methods import METHODS

pytestmark = pytest.mark.slow

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"

WAYS = {
    "fp32": [],
    "bf16, gradients in parts": ["train.precision=bf16", "train.grad_cache=5"],
    "fp16, activations anew": ["train.precision=fp16", "train.activation_checkpointing=true"],
    "live reference, softmax": ["--live", "method.loss=softmax"],
}


def python(*words: object) -> None:
    """In a process of its own: to claim a GPU changes torch for good."""
    path = os.pathsep.join([str(BENCHMARKS), *sys.path])
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *map(str, words)], env=environment, capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stderr[-3000:]
    assert "Traceback" not in done.stderr, done.stderr[-3000:]


@pytest.mark.parametrize("words", WAYS.values(), ids=WAYS)
def test_no_step_waits_for_the_gpu(words: list[str], tmp_path: Path) -> None:
    python(BENCHMARKS / "waits.py", "--json", tmp_path / "waits.json", *words)
    found = json.loads((tmp_path / "waits.json").read_text())
    assert set(found) == set(METHODS)
    waits = {name: [one["where"].partition(":")[0] for one in noted if one["waits"]] for name, noted in found.items()}
    # CABS chooses on the CPU, by concepts that came with the batch.
    assert waits == {name: ["train/scoring/concept_choice.py"] * bool(METHODS[name].concepts) for name in METHODS}
    # What the step sends to the host, it reads one step later.
    assert all(any(one["what"] == "numbers sent to the host" for one in noted) for noted in found.values())


def test_a_choice_by_earlier_scores_waits_no_more_than_recording_them(tmp_path: Path) -> None:
    """The step above belongs to the warm-up, and here to what follows it."""
    python(BENCHMARKS / "waits.py", "--json", tmp_path / "waits.json", "--only", "dissect", "method.until=0.3")
    found = json.loads((tmp_path / "waits.json").read_text())["dissect"]
    assert found
    assert not [one["where"] for one in found if one["waits"]]


POSITIONS = {"train/scoring/student_embeddings.py"}
CHEAP: dict[str, tuple[list[str], set[str]]] = {
    "early": (["scoring.cascade=0.5", "scoring.early=true"], set()),
    "reduced": (["scoring.cascade=0.5", "scoring.resolution=16"], set()),
    "coarse": (["scoring.coarse_share=0.5", "scoring.resolution=16"], set()),
    "reuse": (["scoring.cascade=0.5", "scoring.reuse=4"], POSITIONS),
    "predict": (["scoring.reuse=4", "scoring.unseen=predict"], POSITIONS),
}


@pytest.mark.parametrize(("words", "waiting"), CHEAP.values(), ids=CHEAP)
def test_who_waits_in_cheap_scoring(words: list[str], waiting: set[str], tmp_path: Path) -> None:
    """Which pairs are remembered is known on the host."""
    python(BENCHMARKS / "waits.py", "--json", tmp_path / "waits.json", "--only", "h-acid", *words)
    found = json.loads((tmp_path / "waits.json").read_text())["h-acid"]
    assert {one["where"].split(":")[0] for one in found if one["waits"]} == waiting


PLANTED = {
    "item": "x.sum().item()",
    "bool": "bool((x > 0).any())",
    "tolist": "x.tolist()",
    "cpu": "x.cpu()",
    "nonzero": "(x > 0).nonzero()",
    "mask": "x[x > 0]",
    "mask set": "x[x > 0] = 1",
    "unique": "x.unique()",
    "equal": "torch.equal(x, x)",
    "pageable copy": "torch.ones(5).to('cuda', non_blocking=True)",
    "blocking copy": "torch.ones(5).pin_memory().to('cuda')",
    "from a list": "torch.tensor([1, 2], device='cuda')",
    "host's index": "x[torch.tensor([1, 2])]",
    "synchronisation": "torch.cuda.current_stream().synchronize()",
    "unknown length": "x.long().repeat_interleave(x.long())",
    "backward": "Backward.apply(w * x).sum().backward()",
    "factorisation": "torch.linalg.cholesky(x[:, None] * x)",
}
QUIET = {
    "pinned copy": "torch.ones(5).pin_memory().to('cuda', non_blocking=True)",
    "products": "(w * x).sum().backward()",
    "own index": "x[torch.arange(2, device='cuda')]",
    "known length": "x.long().repeat_interleave(x.long(), output_size=9)",
    "of the host": "torch.arange(3)[torch.arange(3) > 1].tolist()",
    "unchecked": "torch.linalg.cholesky_ex(x[:, None] * x)",
    "lists of the host": "x[[slice(0, 2), slice(1, 3)][0]]",
}
PROBE = """
import contextlib, json, sys
from pathlib import Path
import torch
from torch._subclasses.fake_tensor import DynamicOutputShapeException
from claimed_gpu import claim

class Backward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 2
    @staticmethod
    def backward(ctx, gradient):
        gradient.sum().item()
        return gradient * 2

with claim(Path("/")) as gpu:
    found = {}
    for name, code in json.loads(sys.argv[1]).items():
        x, w = torch.rand(5, device="cuda"), torch.rand(5, device="cuda", requires_grad=True)
        gpu.noted.clear()
        with contextlib.suppress(DynamicOutputShapeException):  # noted, and then nothing plausible can be made up
            exec(code)
        found[name] = [one.what for one in gpu.noted if one.waits]
    try:
        x + torch.ones(5)
    except Exception as error:
        found["two devices"] = [type(error).__name__]
Path(sys.argv[2]).write_text(json.dumps(found))
"""


def test_the_claimed_gpu_notices_what_waits_and_nothing_else(tmp_path: Path) -> None:
    python("-c", PROBE, json.dumps(PLANTED | QUIET), tmp_path / "found.json")
    found = json.loads((tmp_path / "found.json").read_text())
    assert [name for name in PLANTED if not found[name]] == []
    assert {name: found[name] for name in QUIET if found[name]} == {}
    assert "two devices" in found
