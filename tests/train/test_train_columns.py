"""Columns of a source of one's own: loaded with its pairs, and seen behind each step."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import aced
from aced.lab.scenes import make_pool
from aced.lab.scenes.scene_pool import Scenes

PAGE = Path(__file__).parents[2] / "docs/python.md"
POOL, BATCH, STEPS = 200, 16, 2


class Lengths(aced.Column):
    """The number of letters of each caption, and the pair's position."""

    def __init__(self) -> None:
        super().__init__("lengths", torch.int64, (2,))

    def load(self, candidates: aced.Candidates) -> Tensor:
        return torch.stack([torch.tensor([len(text) for text in candidates.texts]), candidates.indices], 1)


@dataclass(frozen=True, eq=False)
class Measured(Scenes):
    columns = (Lengths(),)  # no annotation, so that it is no field


def keys(out: Path, method: str = "iid", **sections: Any) -> dict[str, Any]:
    """The config of a tiny run."""
    return {
        "run": {"out": str(out), "threads": 1},
        "method": {"name": method, "chunks": 4},
        "train": {"batch": BATCH, "steps": STEPS},
        **sections,
    }


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("method", ["iid", "hard-student"])
def test_a_step_shows_the_columns_of_the_pairs_that_it_trained_on(method: str, workers: int, tmp_path: Path) -> None:
    pool = make_pool(POOL, 1)
    source = Measured(**{name: getattr(pool, name) for name in Scenes.__dataclass_fields__})
    seen: list[tuple[Tensor, Tensor]] = []
    aced.train(
        keys(tmp_path / "run", method, data={"workers": workers}),
        source=source,
        tasks=[],
        show=False,
        on_step=lambda step: seen.append((step.indices, step.columns["lengths"])),
    )
    assert len(seen) == STEPS
    for indices, values in seen:
        assert len(indices) == BATCH
        assert torch.equal(values[:, 1], indices)
        assert values[:, 0].tolist() == [len(pool.captions[index]) for index in indices.tolist()]


def test_the_column_of_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    train, given = aced.train, dict[str, Any]()
    monkeypatch.setattr(aced, "train", lambda config, **words: given.update(words))
    names: dict[str, Any] = {}
    for word in ("(aced.Source)", "(aced.Column)"):
        exec(next(block for block in blocks if word in block), names)
    train(keys(tmp_path / "run", data={"max_bad_share": 0.1}), tasks=[], show=False, **given)
    lengths = [float(number) for number in re.findall(r"tensor\(([\d.]+)\)", capsys.readouterr().out)]
    assert len(lengths) == STEPS
    assert all(len("grey number 0") <= length <= len("grey number 255") for length in lengths)
