"""1, 2 and 4 processes choose, lose and learn what one process does."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from launch import torchrun
from ranks_job import CHEAP, LOCKS, METHODS, cheap_steps, hole_steps, locked_steps, method_steps
from safetensors.torch import load_file
from torch import Tensor

from aced.lab.scenes import make_pool
from aced.train.distributed import World
from run_fakes import BATCH, POOL, SUPER

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Found:
    """What a job wrote."""

    facts: dict[str, Any]
    tensors: dict[str, Tensor]

    def gradients(self, name: str) -> dict[str, Tensor]:
        return {k.partition("/")[2]: v for k, v in self.tensors.items() if k.startswith(f"{name}/")}


@pytest.fixture(scope="module")
def one(trained: dict[str, Path]) -> dict[str, Any]:
    """The same steps in this process."""
    pool, reference, alone = make_pool(POOL, 1), trained["large"], World()
    steps = method_steps(alone, pool, reference) | hole_steps(alone, pool, reference)
    return steps | cheap_steps(alone, reference) | locked_steps(alone, pool, reference)


@pytest.fixture(scope="module")
def jobs(trained: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[int, Found]:
    found = {}
    for ranks in (1, 2, 4):
        out = tmp_path_factory.mktemp(f"ranks{ranks}")
        job = torchrun("ranks_job.py", ranks, out, trained["large"])
        assert job.status == 0, job.output[-3000:]
        found[ranks] = Found(json.loads((out / "results.json").read_text()), load_file(out / "tensors.safetensors"))
    return found


STAGES = 8
"""Sums over the batch, one behind the other, from a pair's pixels to a gradient: logits, loss, and layers back."""
U = 2.0**-24
"""The unit roundoff of float32."""
ROUNDING = 4 * math.sqrt(2 * BATCH * STAGES) * U
"""How far two right results may lie apart, relative to the largest element of all: 3.8e-6.

Ranks, parts of a batch and processors differ in the order in which they sum, and in nothing else. A sum of n float32
numbers is off by about sqrt(n) U of their size where roundings are independent, by at most n U (Higham, Accuracy and
Stability of Numerical Algorithms, 2nd ed., ch. 3-4); two such sums differ by sqrt(2) times that, and of a hundred
thousand elements some lie four standard deviations out.
"""


def same_tensors(got: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Equal but for rounding, element by element."""
    assert got.keys() == expected.keys()
    largest = max(1.0, *(float(tensor.abs().max()) for tensor in expected.values()))
    for key, tensor in expected.items():
        difference = float((got[key] - tensor).abs().max())
        assert difference <= ROUNDING * largest, f"{key}: {difference:.2g} of {largest:.2g}"


NAMES = [f"{name} {cache}" for name in METHODS for cache in (0, 3)] + ["holes aced", "holes iid"]
CHEAP_NAMES = [f"cheap {name}" for name in CHEAP]


@pytest.mark.parametrize("ranks", [1, 2, 4])
@pytest.mark.parametrize("name", NAMES + CHEAP_NAMES)
def test_ranks_choose_and_lose_as_one_process(
    name: str, ranks: int, one: dict[str, Any], jobs: dict[int, Found]
) -> None:
    facts, expected = jobs[ranks].facts[name], one[name][0]
    assert facts["everywhere"], "the ranks differ among themselves"
    for key in ("candidates", "batches", "counts", "faults"):
        assert facts[key] == expected[key], key
    assert facts["losses"][0] == pytest.approx(expected["losses"][0], rel=1e-6, abs=1e-6)
    assert facts["cached"] == pytest.approx(expected["cached"], rel=1e-12)
    assert facts.get("held") == expected.get("held"), "what is remembered, and of which steps"
    # Later steps begin from weights that differ in the last bits.
    for got, wanted in zip(facts["losses"], expected["losses"], strict=True):
        assert got == pytest.approx(wanted, rel=1e-4)
    for phase, flops in expected["flops"].items():
        if phase == "selection" and ranks > 1:
            continue  # one process draws from so few candidates on the matrix of all pairs, several never
        # Each rank pads its texts to the longest of its own.
        assert facts["flops"][phase] == pytest.approx(flops, rel=0.15), phase


@pytest.mark.parametrize("name", NAMES + CHEAP_NAMES)
def test_ranks_count_the_same_selection(name: str, one: dict[str, Any], jobs: dict[int, Found]) -> None:
    """In FLOPs; one process draws small batches by learnability in another way, on the matrix of all pairs."""
    two, four = (jobs[ranks].facts[name]["flops"]["selection"] for ranks in (2, 4))
    assert two == pytest.approx(four, rel=1e-12)
    if name in ("h-acid 0", "i-aced 0", "cheap early", "cheap independent"):
        assert two == pytest.approx(one[name][0]["flops"]["selection"], rel=1e-12)
        assert two > 0


@pytest.mark.parametrize("ranks", [1, 2, 4])
@pytest.mark.parametrize("name", NAMES + CHEAP_NAMES)
def test_gradients_are_those_of_one_process(name: str, ranks: int, one: dict[str, Any], jobs: dict[int, Found]) -> None:
    """For every parameter: scales, biases and projections too."""
    got, expected = jobs[ranks].gradients(name), one[name][1]
    assert got.keys() == expected.keys()
    assert any("logit_scale" in key for key in got)
    same_tensors(got, expected)


@pytest.mark.parametrize("name", METHODS)
def test_cached_gradients_are_the_plain_steps(name: str, one: dict[str, Any]) -> None:
    """In one process; with scale, bias, and what distillation learns by itself."""
    (facts, plain), (cached_facts, cached) = one[f"{name} 0"], one[f"{name} 3"]
    assert cached_facts["losses"][0] == pytest.approx(facts["losses"][0], rel=1e-6)
    same_tensors(cached, plain)
    for key, gradient in plain.items():
        if name != "drrho":  # whose scale is constant
            assert "logit" not in key or float(gradient.abs().max()) > 0 or "bias" in key


@pytest.mark.parametrize("ranks", [1, 2, 4])
@pytest.mark.parametrize("name", ["aced", "aced cached", "fm-kd"])
def test_a_rank_without_pairs_takes_part(name: str, ranks: int, jobs: dict[int, Found]) -> None:
    """Its loss and gradients are those of the batch that the others have."""
    lonely, alone = (jobs[ranks].facts[f"lonely {key}"] for key in (name, f"{name}, alone"))
    assert lonely["everywhere"]
    assert len(lonely["batches"][0]) == (BATCH if ranks == 1 else BATCH // ranks * (ranks - 1))
    assert lonely["losses"][0] == pytest.approx(alone["losses"][0], rel=1e-6, abs=1e-6)
    same_tensors(*(jobs[ranks].gradients(f"lonely {key}") for key in (name, f"{name}, alone")))


@pytest.mark.parametrize("ranks", [1, 2, 4])
@pytest.mark.parametrize("scope", ["quota", "local"])
@pytest.mark.parametrize("name", ["aced", "aced-iidistill"])
def test_scopes_take_equal_shares(name: str, scope: str, ranks: int, jobs: dict[int, Found]) -> None:
    facts = jobs[ranks].facts[f"{scope} {name}"]
    assert all(shares == [BATCH // ranks] * ranks for shares in facts["shares"])
    assert facts["counts"] == [3 * SUPER, 3 * BATCH * (1 + (name == "aced-iidistill"))]


@pytest.mark.parametrize("ranks", [1, 2, 4])
@pytest.mark.parametrize("scope", ["quota", "local"])
def test_scopes_go_with_a_cascade_before_and_after_loading(scope: str, ranks: int, jobs: dict[int, Found]) -> None:
    late, early = (jobs[ranks].facts[f"{scope} aced {when}"] for when in ("late", "early"))
    assert late["shares"] == early["shares"] == [[BATCH // ranks] * ranks] * 3
    assert late["batches"] == early["batches"]
    assert [late["flops"][phase] for phase in late["flops"]] == pytest.approx(
        [early["flops"][phase] for phase in late["flops"]], rel=1e-12
    )
    assert late["cached"] == pytest.approx(early["cached"], rel=1e-12)
    assert early["counts"] == [3 * 2 * BATCH, 3 * BATCH]


def test_scopes_differ(jobs: dict[int, Found]) -> None:
    batches = [jobs[4].facts[name]["batches"] for name in ("aced 0", "quota aced", "local aced")]
    assert batches[0] != batches[1] != batches[2] != batches[0]


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_a_draw_exchanges_what_not_everyone_knows(ranks: int, jobs: dict[int, Found]) -> None:
    """Of four chunks: globally two exchanges each but for the last, with a quota one, and one or two beside them."""
    draws = jobs[ranks].facts["draws"]
    assert draws["global"][1]
    most = {"global": 2 * 4 - 1 + 1, "quota": 4 - 1 + 2, "local": 2}
    assert {scope: made for scope, (made, _) in draws.items()} == (
        most if ranks > 1 else {"global": 1, "quota": 1, "local": 1}
    )


def test_inputs_travel_to_who_trains_on_them(jobs: dict[int, Found]) -> None:
    assert all(found.facts["inputs"] for found in jobs.values())


@pytest.mark.parametrize("name", ["fsdp 0", "fsdp 5"])
def test_sharded_training_is_ddps(name: str, jobs: dict[int, Found]) -> None:
    """Gradients of the first step and weights after three; also with gradient caching."""
    facts, wanted = jobs[2].facts[name], jobs[2].facts["ddp 0"]
    assert facts["batches"] == wanted["batches"]
    assert facts["norms"] == pytest.approx(wanted["norms"], rel=1e-5)
    same_tensors(jobs[2].gradients(name), jobs[2].gradients("ddp 0"))


@pytest.mark.parametrize("how", ["ddp 0", "fsdp 0", "fsdp 5"])
@pytest.mark.parametrize("name", LOCKS)
def test_locked_parts_are_what_one_process_makes_of_them(
    name: str, how: str, one: dict[str, Any], jobs: dict[int, Found]
) -> None:
    wanted, tensors = one[f"locked {name} ddp 0"]
    found = jobs[2].facts[f"locked {name} {how}"]
    assert found["batches"] == wanted["batches"]
    assert found["everywhere"]
    same_tensors(jobs[2].gradients(f"locked {name} {how}"), tensors)


@pytest.mark.parametrize("after", ["ddp", "fsdp"])
@pytest.mark.parametrize("before", ["ddp", "fsdp"])
def test_a_checkpoint_is_whole_however_it_was_trained(before: str, after: str, jobs: dict[int, Found]) -> None:
    same_tensors(jobs[2].gradients(f"{before} then {after}"), jobs[2].gradients("ddp then ddp"))


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_cheap_scoring_goes_on_from_a_checkpoint_to_the_bit(parallel: str, jobs: dict[int, Found]) -> None:
    """With a memory, which every rank has."""
    names = [f"{name} {parallel}" for name in ("straight", "resumed")]
    straight, resumed = (jobs[2].gradients(name) for name in names)
    assert jobs[2].facts[names[0]] == jobs[2].facts[names[1]]
    assert straight.keys() == resumed.keys()
    assert {"memory.sample", "memory.image"} <= straight.keys()
    assert all(torch.equal(tensor, resumed[key]) for key, tensor in straight.items())


def test_sharded_cheap_scoring_is_ddps(jobs: dict[int, Found]) -> None:
    assert jobs[2].facts["straight fsdp"]["batches"] == jobs[2].facts["straight ddp"]["batches"]
    weights = (
        {k: v for k, v in jobs[2].gradients(f"straight {parallel}").items() if k.startswith("weights")}
        for parallel in ("fsdp", "ddp")
    )
    same_tensors(*weights)
