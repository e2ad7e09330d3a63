"""One precision for a whole run: frozen models, caches and evaluation too; and what a resumed run makes of it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch.utils._python_dispatch import _get_current_dispatch_mode

from aced.cache.sidecar import open_sidecar
from aced.config import Config, make_config
from aced.lab.scenes import Scenes, make_pool, make_tasks
from aced.models import load_tower
from aced.runs.ledger import Ledger
from aced.train.providers import Live
from aced.train.run import automatic, resuming
from aced.train.run.fit import fit
from aced.train.run.inputs import Inputs
from aced.train.run.resuming import Earlier
from aced.train.run.student import make_student
from cli_fakes import Cli
from run_fakes import provider_of, quiet, run_config, write_pairs


@pytest.fixture(scope="module")
def pool() -> Scenes:
    return make_pool(400, 1)


@pytest.fixture
def types() -> Iterator[Counter[torch.dtype]]:
    """How often a linear layer gave what type; runs by which FLOPs are counted are no part of a run."""
    seen: Counter[torch.dtype] = Counter()

    def note(module: torch.nn.Module, _: Any, output: Any) -> None:
        if isinstance(module, torch.nn.Linear) and _get_current_dispatch_mode() is None:
            seen[output.dtype] += 1

    handle = torch.nn.modules.module.register_module_forward_hook(note)
    yield seen
    handle.remove()


@pytest.mark.parametrize(("precision", "kind"), [("auto", torch.float32), ("bf16", torch.bfloat16)])
@pytest.mark.parametrize("cached", [False, True])
def test_every_model_of_a_run_runs_in_its_precision(
    precision: str, kind: torch.dtype, cached: bool, pool: Scenes, trained: dict[str, Path], tmp_path: Path, types: Any
) -> None:
    keys = {"train__precision": precision, "train__steps": 2, "eval__every": 1}
    config = run_config(tmp_path / "run", "aced", trained, **keys)
    student = make_student(config)
    if cached:
        provider = provider_of(config, pool, tmp_path / "cache")
    else:
        tower = load_tower(config.reference.model).eval()
        provider = Live(tower, 64, automatic.precision_of(config))
    inputs = Inputs(pool, make_tasks("validation")[:1], provider, [provider])
    fit(config, inputs, student, quiet())
    assert set(types) == {kind}, types
    last = json.loads((tmp_path / "run/checkpoints/step-00000002/train.json").read_text())
    assert last["precision"] == {"auto": "fp32"}.get(precision, precision)
    assert last["config"]["train"]["precision"] == precision
    if cached:
        (file,) = (tmp_path / "cache").rglob("*.safetensors")
        assert open_sidecar(file).info.precision == last["precision"]


def test_a_live_model_in_bf16_gives_float32_of_unit_length_near_those_of_fp32(
    pool: Scenes, trained: dict[str, Path]
) -> None:
    tower = load_tower(trained["large"]).eval()
    candidates = pool.read(range(50), [tower.view])
    full, low = (Live(tower, 16, p).embed(candidates, Ledger(), "reference") for p in ("fp32", "bf16"))
    for one, other in ((full.image, low.image), (full.text, low.text)):
        assert other.dtype == torch.float32
        assert not torch.equal(one, other)
        assert (other.norm(dim=1) - 1).abs().max() < 1e-6
        assert (one * other).sum(1).min() > 0.999


# -- side-cars ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def tars(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for number in range(2):
        write_pairs(tmp_path / f"pool/{number}.tar", range(20 * number, 20 * number + 20))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def header(file: Path) -> dict[str, str]:
    with safe_open(file, "pt") as opened:
        return dict(opened.metadata())


def test_a_cache_of_mixed_precision_is_one_cache(tars: Path, trained: dict[str, Path], cli: Cli) -> None:
    model = trained["large"]
    assert cli("embed", model, "pool/0.tar", "--out", "cache").status == 0
    assert cli("embed", model, "pool", "--out", "cache", "--precision", "bf16").status == 0
    files = sorted((tars / "cache").rglob("*.safetensors"))
    assert [open_sidecar(file).info.precision for file in files] == ["fp32", "bf16"]
    # What older versions look at is as they left it: their readers refuse any other field.
    assert all("precision" not in json.loads(header(file)["info"]) for file in files)
    words = [
        "method.name=i-acid",
        "data.shards=pool",
        "data.workers=0",
        "train.batch=4",
        "train.steps=2",
        "run.threads=1",
    ]
    words += [f"reference.model={model}", "reference.cache=cache", "reference.cache_missing=refuse", "run.out=run"]
    assert cli("train", "scenes", *words).status == 0


def test_a_side_car_without_a_precision_is_of_fp32(tars: Path, trained: dict[str, Path], cli: Cli) -> None:
    from aced.files.tensorfile import RowFileWriter

    finish = RowFileWriter.finish
    with pytest.MonkeyPatch.context() as patch:  # as an older version writes it
        patch.setattr(
            RowFileWriter, "finish", lambda self, m: finish(self, {k: v for k, v in m.items() if k != "precision"})
        )
        assert cli("embed", trained["large"], "pool", "--out", "cache").status == 0
    files = sorted((tars / "cache").rglob("*.safetensors"))
    assert all("precision" not in header(file) for file in files)
    assert {open_sidecar(file).info.precision for file in files} == {"fp32"}
    again = cli("embed", trained["large"], "pool", "--out", "cache", "--precision", "bf16")
    assert again.status == 0
    assert "0 to go" in " ".join(again.out.split())


# -- resuming ----------------------------------------------------------------------------------------------------------


def saved_run(asked: str, **facts: Any) -> Earlier:
    config = make_config({"method": {"name": "iid"}, "train": {"precision": asked}})
    return Earlier(Path("there"), config.model_dump(mode="json"), {}, {"step": 2, **facts})


def asking(precision: str) -> Config:
    return make_config({"method": {"name": "iid"}, "train": {"precision": precision}})


@pytest.mark.parametrize(
    ("earlier", "asked", "here", "allowed"),
    [
        (saved_run("fp32"), "auto", "fp32", True),  # by a version whose default was fp32
        (saved_run("fp32"), "auto", "bf16", False),
        (saved_run("auto", precision="bf16"), "bf16", "bf16", True),
        (saved_run("auto", precision="bf16"), "fp32", "fp32", False),
        (saved_run("auto", precision="bf16"), "auto", "fp32", True),  # another device: said, see below
        (saved_run("bf16", precision="bf16"), "auto", "bf16", True),
    ],
)
def test_a_precision_that_comes_to_the_same_is_no_change(
    earlier: Earlier, asked: str, here: str, allowed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resuming, "precision_of", lambda config: here)
    if allowed:
        assert earlier.allowed(asking(asked)) == []
    else:
        with pytest.raises(Exception, match=rf"train\.precision .*'{asked}'"):
            earlier.allowed(asking(asked))


def test_a_run_that_comes_to_another_precision_says_so_once_and_notes_the_new_one(tars: Path, cli: Cli) -> None:
    words = ["method.name=iid", "data.shards=pool", "train.batch=4", "train.steps=4", "run.threads=1", "run.out=run"]
    words += ["run.checkpoint_every=2"]
    assert cli("train", "scenes", *words).status == 0
    for name in ("model/model.safetensors", "results.json", "checkpoints/step-00000004/train.json"):
        (tars / "run" / name).unlink()
    for file in sorted((tars / "run/checkpoints/step-00000004").rglob("*"), reverse=True):
        file.rmdir() if file.is_dir() else file.unlink()
    (tars / "run/checkpoints/step-00000004").rmdir()
    path = tars / "run/checkpoints/step-00000002/train.json"
    facts = json.loads(path.read_text())
    assert (facts["precision"], facts["tf32"]) == ("fp32", False)
    path.write_text(json.dumps(facts | {"precision": "bf16", "tf32": True, "device": "cuda"}))
    ended = cli("train", "scenes", *words, "--resume")
    assert ended.status == 0, ended.err
    said = [line for line in ended.out.splitlines() if "bf16" in line]
    assert len(said) == 1
    assert "TF32" in said[0]
    assert "fp32" in said[0]
    assert json.loads((tars / "run/checkpoints/step-00000004/train.json").read_text())["precision"] == "fp32"
    environment = json.loads((tars / "run/results.json").read_text())["environment"]
    assert (environment["precision"], environment["tf32"]) == ("fp32", False)
