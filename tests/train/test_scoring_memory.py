"""The memory of the student's embeddings against a plain dictionary."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from aced.core.embeddings import Embeddings
from aced.runtime.devices import Readout
from aced.train.scoring import memory as memory_module
from aced.train.scoring.memory import Memory

AGE, WIDTH, SAMPLES = 3, 4, 20_000
"""More samples than the memory has places at first, so that it grows, forgets and gives places anew."""
Known = dict[int, tuple[int, float]]
"""By sample: the step whose weights made it, and what every number of its image is; its text is the negative."""


def put(memory: Memory, known: Known, step: int, generator: torch.Generator) -> None:
    """Some samples at random, into both."""
    count = int(torch.randint(1, 900, (), generator=generator))
    samples = torch.randperm(SAMPLES, generator=generator)[:count]
    values = torch.rand(count, generator=generator)
    image = values[:, None].expand(-1, WIDTH)
    memory.put(samples, image, -image, step)
    known |= {i: (step, float(value)) for i, value in zip(samples.tolist(), values, strict=True)}


def same(memory: Memory, known: Known, step: int) -> None:
    """Whether it knows at a step what the dictionary has that is young enough."""
    everything = torch.arange(SAMPLES)
    young = {i: made for i, made in known.items() if step - made[0] <= AGE}
    made = torch.full((SAMPLES,), -1)
    held = torch.tensor(sorted(young))
    made[held] = torch.tensor([young[i][0] for i in held.tolist()])
    assert torch.equal(memory.made(everything, step), made)
    assert torch.equal(memory.missing(everything, step), everything[made < 0])
    image, text = memory.get(held)
    expected = torch.tensor([young[i][1] for i in held.tolist()])[:, None].expand(-1, WIDTH)
    assert torch.equal(image, expected)
    assert torch.equal(text, -expected)


@pytest.mark.parametrize("seed", range(3))
def test_it_knows_what_a_dictionary_knows(seed: int) -> None:
    generator, memory = torch.Generator().manual_seed(seed), Memory(AGE)
    known: Known = {}
    for step in range(30):
        for _ in range(2):
            put(memory, known, step, generator)
        same(memory, known, step)
    assert len(memory) < len(known) / 1.5  # places of what is too old are given anew


def test_what_is_too_old_and_comes_again_beside_what_is_new_is_known() -> None:
    """Making room for the new ones once forgot the others, which then had the embedding of whatever lay last."""
    memory = Memory(AGE)
    first = torch.arange(1000)
    memory.put(first, torch.zeros(1000, WIDTH), torch.zeros(1000, WIDTH), 0)
    again = torch.cat([first[:100], torch.arange(2000, 2100)])
    image = torch.rand(200, WIDTH)
    memory.put(again, image, -image, AGE + 1)
    assert torch.equal(memory.made(again, AGE + 1), torch.full((200,), AGE + 1))
    assert torch.equal(memory.get(again)[0], image)


def test_it_grows_with_what_was_seen_lately_and_not_with_the_data() -> None:
    """Positions of a pool of 10^12 pairs, a hundred steps of 500."""
    generator, memory = torch.Generator().manual_seed(0), Memory(AGE)
    for step in range(100):
        samples = torch.randint(10**12, (500,), generator=generator)
        image = torch.rand(500, WIDTH, generator=generator)
        memory.put(samples, image, -image, step)
        assert torch.equal(memory.get(samples)[0], image)
        assert len(memory) <= 2 * 500 * (AGE + 2)
    assert len(memory.tensors()["memory.sample"]) == 500 * (AGE + 1)


@pytest.mark.parametrize("seed", range(3))
def test_it_goes_back_to_where_it_was_kept(seed: int) -> None:
    """Also where the failed step has replaced what was there, more than once."""
    generator, memory = torch.Generator().manual_seed(seed), Memory(AGE)
    known: Known = {}
    for step in range(12):
        memory.keep()
        before = copy.deepcopy(known)
        for _ in range(3):
            put(memory, known, step, generator)
        if step % 2:
            memory.back()
            known = before
            same(memory, known, step)


class Late(Readout):
    """Of a GPU: what training was given is known a step later."""

    def __init__(self, values: Tensor) -> None:
        super().__init__(values)
        self.late = True


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("reader", [Readout, Late])
@pytest.mark.parametrize("seed", range(3))
def test_it_goes_back_two_steps_whenever_training_is_known(
    seed: int, reader: Any, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory_module, "Readout", reader)
    generator, memory = torch.Generator().manual_seed(seed), Memory(AGE)
    known: Known = {}
    states = []
    for step in range(9):
        memory.keep()
        states.append(copy.deepcopy(known))
        put(memory, known, step, generator)
        if step == 8:
            break  # this step fails before it trains
        samples = torch.randperm(SAMPLES, generator=generator)[:500]
        values = torch.rand(500, generator=generator)
        image = values[:, None].expand(-1, WIDTH)
        memory.trained(samples, Embeddings(image, -image), None, SimpleNamespace(step=step))  # type: ignore[arg-type]
        known |= {i: (step, float(value)) for i, value in zip(samples.tolist(), values, strict=True)}
        if step % 3 == 0:
            same(memory, known, step)
    for _ in range(steps):
        memory.back()
    same(memory, states[-steps], 9 - steps)


@pytest.mark.parametrize("seed", range(3))
def test_its_tensors_are_its_state_wherever_things_lie(seed: int) -> None:
    generator, memory = torch.Generator().manual_seed(seed), Memory(AGE)
    known: Known = {}
    for step in range(6):
        put(memory, known, step, generator)
    another = Memory(AGE)
    put(another, {}, 5, generator)  # is forgotten
    another.load(memory.tensors())
    same(another, known, 5)
    assert all(torch.equal(tensor, another.tensors()[name]) for name, tensor in memory.tensors().items())
    held = memory.tensors()["memory.sample"].tolist()
    assert held == sorted(i for i, made in known.items() if 5 - made[0] <= AGE)
    put(memory, known, 6, generator)
    another.load(memory.tensors())
    same(another, known, 6)
