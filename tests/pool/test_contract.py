"""The contract of a source: what the pages say of it is enough to train on, and nothing asks for what is not in it."""

from __future__ import annotations

import ast
import inspect
import pickle
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

import aced
from aced.errors import AcedError
from aced.pool.inmemory import InMemory
from aced.pool.loader.filling import Fill, FillJob
from aced.pool.manyviews import ManyViews
from aced.pool.source import Candidates, Column, Fault, Keys, Source, check_source, members_of_sources
from aced.pool.views import View
from doors_fakes import doors as doors

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "python.md"
FACTS = [name for name in members_of_sources() if not inspect.isfunction(inspect.getattr_static(Source, name))]


class Words(Source):
    """Ten words without pictures."""

    fingerprint = "words"

    def __len__(self) -> int:
        return 10

    def read(self, indices: Sequence[int], views: Sequence[View]) -> Candidates:
        images = {view: torch.zeros(len(indices), 3, view.size, view.size, dtype=torch.uint8) for view in views}
        return Candidates(torch.tensor(list(indices)), [f"word {index}" for index in indices], images)


class Told(Words):
    """The same, with something to say of every member."""

    fingerprint = "told"
    name, keys, kinds = "told", [f"w{row}" for row in range(10)], ["clean"] * 10
    faults = (Fault("w0", "image_odd", "It is odd."),)
    parts: Mapping[str, str] = {"a": "mark of a", "b": "mark of b"}
    part_sizes, mixture, lost = (4, 6), (10,), {"b": "tar_gone"}
    columns = (Column("mass", torch.float32, ()),)
    captions_vary, in_memory, places = True, True, object()  # type: ignore[assignment]

    def read_in_epochs(self, indices: Sequence[int], views: Sequence[View], epochs: Sequence[int]) -> Candidates:
        found = self.read(indices, views)
        return Candidates(
            found.indices, [f"{i} in {epoch}" for i, epoch in zip(indices, epochs, strict=True)], found.images
        )


class Around(Source):
    """A source that is made from another one and sets nothing but its name."""

    name = "around"
    __len__, read = Words.__len__, Words.read

    def __init__(self, source: Source) -> None:
        self.within = source


# --- the pages are enough ---------------------------------------------------------------------------------------------


def of_the_page() -> Any:
    """The class that the page shows."""
    code = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    block = next(code for code in code if "(aced.Source)" in code)
    names: dict[str, Any] = {"__name__": "page"}
    exec(block, names)
    return next(value for value in names.values() if isinstance(value, type) and value.__module__ == "page")


@pytest.mark.parametrize("method", ["iid", "aced"])
def test_a_source_written_from_the_page_alone_is_trained_on(
    method: str, tmp_path: Path, trained: dict[str, Path]
) -> None:
    source = of_the_page()()
    reference = {} if method == "iid" else {"reference": {"model": str(trained["large"]), "cache": str(tmp_path)}}
    config = {
        "run": {"out": str(tmp_path / "run"), "threads": 1, "log_every": 1},
        "data": {"max_bad_share": 0.1},
        "method": {"name": method, "chunks": 4},
        "train": {"batch": 16, "steps": 2},
        **reference,
    }
    done = aced.train(config, source=source, tasks=[], show=False)
    assert done.step == 2
    assert done.results["rows"][0]["budgets"]["samples_trained"] == 32
    again = aced.train(config | {"train": {"batch": 16, "steps": 2}}, source=source, tasks=[], show=False, resume=True)
    weights = [torch.cat([p.detach().flatten() for p in run.student.model.parameters()]) for run in (done, again)]
    assert torch.equal(*weights)


def test_three_members_are_enough_and_the_others_have_defaults() -> None:
    source = Words()
    assert check_source(source, "it") is source
    assert (source.name, len(source.keys), source.keys[3], source.keys[7:9]) == ("Words", 10, "3", ["7", "8"])
    assert (source.kinds, source.places, source.within) == (None, None, None)
    assert not any((source.parts, source.part_sizes, source.lost, source.mixture, source.faults, source.columns))
    assert not source.captions_vary
    assert not source.in_memory


def test_members_are_set_in_any_way() -> None:
    @dataclass(frozen=True)
    class Fields(Words):
        name: str
        keys: Sequence[str]
        in_memory: bool = True

    class Property(Words):
        @property
        def keys(self) -> Sequence[str]:
            return Keys(lambda row: f"k{row}", len(self))

    fields, own = Fields("fields", ["a", "b"]), Words()
    own.name = "set"  # type: ignore[misc]
    assert (fields.name, fields.keys, fields.in_memory, fields.mixture) == ("fields", ["a", "b"], True, ())
    assert Property().keys[-1] == "k9"
    assert own.name == pickle.loads(pickle.dumps(own)).name == "set"


# --- sources that are made from others --------------------------------------------------------------------------------


def test_what_a_source_does_not_set_is_as_in_the_one_within() -> None:
    inner, plain = Told(), Words()
    around = Around(Around(inner))
    assert len(FACTS) >= 12
    for name in FACTS:
        assert getattr(inner, name) != getattr(plain, name), f"{name} would show nothing"
        assert getattr(around, name) == ("around" if name == "name" else getattr(inner, name)), name


@pytest.mark.parametrize("made", [lambda source: InMemory(source, []), ManyViews])
def test_the_built_in_ones_keep_every_member(made: Any) -> None:
    inner = Told()
    outer = made(inner)
    assert "in_memory" in FACTS
    own = {"captions_vary", "in_memory"} if isinstance(outer, InMemory) else set()
    assert {name: getattr(outer, name) for name in FACTS if name not in own} == {
        name: getattr(inner, name) for name in FACTS if name not in own
    }
    assert outer.in_memory
    assert outer.captions_vary is isinstance(outer, ManyViews)


@pytest.mark.parametrize("around", [lambda source: source, ManyViews])
def test_captions_that_vary_are_read_in_their_epochs(around: Any) -> None:
    positions, epochs = torch.tensor([5, 1, 8]), torch.tensor([2, 0, 1])
    fill = Fill(around(Told()), [View(8)])
    found = fill(FillJob(positions=positions, epochs=epochs))  # type: ignore[call-arg]
    assert found.texts == ["5 in 2", "1 in 0", "8 in 1"]


# --- what is no source ------------------------------------------------------------------------------------------------


class Duck:
    """All the members, and no class in common."""

    name, fingerprint, keys, kinds = "duck", "d", ["0"], None

    def __len__(self) -> int:
        return 1

    def read(self, indices: Sequence[int], views: Sequence[View]) -> Candidates:
        raise AssertionError


class Nameless(Words):
    fingerprint = 3  # type: ignore[assignment]


class Short(Told):
    part_sizes = (4, 5)


class Halved(Told):
    part_sizes = (10,)  # type: ignore[assignment]


class Twice(Told):
    columns = (*Told.columns, *Told.columns)  # type: ignore[assignment]


class Unloaded(Told):
    columns = ("mass",)  # type: ignore[assignment]


class Forgetful(Source):
    __len__, read = Words.__len__, Words.read


WRONG: list[tuple[Any, list[str]]] = [
    (Duck(), ["Duck", "aced.Source", "aced.PairSource"]),
    (Words, ["Words", "aced.Source"]),
    (Nameless(), ["fingerprint", "3"]),
    (Forgetful(), ["Forgetful", "fingerprint"]),
    (Short(), ["10", "9", "part_sizes"]),
    (Halved(), ["part_sizes"]),
    (Twice(), ["aced.Column", "mass", "name"]),
    (Unloaded(), ["aced.Column", "str"]),
]


@pytest.mark.usefixtures("doors")
@pytest.mark.parametrize(("wrong", "words"), WRONG)
def test_what_is_no_source_is_refused_at_the_door(wrong: Any, words: list[str], tmp_path: Path) -> None:
    config = {"run": {"out": str(tmp_path / "run")}, "method": {"name": "iid"}, "train": {"batch": 4, "steps": 1}}
    aced.register_source("wrong")(lambda config: wrong)
    for how in ({"source": wrong}, {}):
        named = {} if how else {"data": {"source": "wrong"}}
        with pytest.raises(AcedError) as error:
            aced.train(config | named, tasks=[], show=False, **how)
        said = str(error.value)
        assert "\n" not in said
        assert all(word in said for word in words), said
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_captions_that_vary_in_a_way_that_nobody_knows_are_refused() -> None:
    class Vague(Words):
        captions_vary = True

    with pytest.raises(AcedError, match=r"Vague.*read_in_epochs"):
        Vague().read_in_epochs([0], [], [0])


# --- nobody asks for what is not in the contract ----------------------------------------------------------------------


def asked_of_sources(code: str) -> Iterator[str]:
    """Calls of getattr and hasattr whose first argument is a source, by its annotation or by what it is called."""
    tree = ast.parse(code)
    annotated = [
        (node.arg, node.annotation) for node in ast.walk(tree) if isinstance(node, ast.arg) and node.annotation
    ]
    sources = {name for name, kind in annotated if re.search(r"\b(Source|Shards|PairSource)\b", ast.unparse(kind))}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "hasattr"):
            asked = ast.unparse(node.args[0]).rpartition(".")[2].strip("_")
            if asked in sources | {"source", "pool", "within"}:
                yield ast.unparse(node)


def test_nothing_is_asked_of_sources_that_they_need_not_have() -> None:
    seen = "def f(x: Source | None, y): return getattr(x, 'a', 1), hasattr(self._source, 'b'), getattr(y, 'c')"
    assert list(asked_of_sources(seen)) == ["getattr(x, 'a', 1)", "hasattr(self._source, 'b')"]
    paths = [path for folder in ("src", "benchmarks", "examples", "docs") for path in (ROOT / folder).rglob("*.py")]
    assert len(paths) > 300
    found = {path.name: list(asked_of_sources(path.read_text(encoding="utf-8"))) for path in paths}
    assert not {name: calls for name, calls in found.items() if calls}
