"""Methods, scores and losses of others, by name."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import torch
import typer

import aced
from aced.config import make_config
from aced.core.gains import joint_gains
from aced.core.score_models import models_of
from aced.errors import AcedError
from aced.methods import METHODS
from aced.registry import plugins
from aced.registry.objectives import DISTILLATIONS, LOSSES, check_processes
from cli_fakes import Cli
from doors_fakes import doors as doors
from doors_fakes import module
from run_fakes import even_pool, run_config, take, trainer_of

pytestmark = pytest.mark.usefixtures("doors")

MINE = """
import aced

aced.register_score("half", student=1.0, reference=-0.5, about="half as easy")

@aced.register_loss("doubled", about="twice the sigmoid loss")
def doubled(pairs):
    return 2 * aced.losses.sigmoid(pairs)

@aced.register_distillation("cosine", own_scale=False, compares=False, about="one less the cosine")
def cosine(student, teachers):
    parts = [1 - (student.image * t.image[:, : student.image.shape[1]]).sum(1) for t in teachers]
    return sum(part.mean() for part in parts)

aced.register_method(aced.Method(name="mine", title="Mine", about="my own", score="half", distill="cosine", weight=0.5))
"""


def embeddings(count: int, width: int, seed: int) -> aced.Embeddings:
    g = torch.Generator().manual_seed(seed)
    rows = torch.nn.functional.normalize(torch.randn(2, count, width, generator=g), dim=-1)
    return aced.Embeddings(rows[0], rows[1], 8.0, -4.0)


def test_a_module_is_imported_before_its_method_is_looked_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    name = module(tmp_path, "mine_a", MINE)
    config = make_config(
        {"run": {"imports": name}, "method": {"name": "mine", "loss": "doubled"}, "reference": {"model": "x"}}
    )
    assert config.row.score == "half"
    assert METHODS.origin("mine") == LOSSES.origin("doubled") == name
    assert METHODS.origin("aced") == "built in"


def test_a_score_is_the_weighted_sum_of_both_losses() -> None:
    aced.register_score("third", student=1.0, reference=-1 / 3)
    student, reference = embeddings(6, 4, 0), embeddings(6, 5, 1)
    alone = {
        name: joint_gains(models_of(student, reference, name), "sigmoid").current()
        for name in ("third", "hard-student", "easy-reference")
    }
    torch.testing.assert_close(alone["third"], alone["hard-student"] + alone["easy-reference"] / 3)
    chosen = aced.select(student, reference, 3, score="third", temperature=0)
    assert chosen.indices[0] == alone["third"].argmax() or len(chosen.sizes) == 1


def trained(tmp_path: Path, loss: str, **keys: Any) -> tuple[Any, Any]:
    config = run_config(tmp_path / loss, method__loss=loss, **keys)
    trainer = trainer_of(config, even_pool())
    return trainer, take(trainer, config, even_pool(), 1)[0]


def test_a_loss_is_trained_by(tmp_path: Path) -> None:
    aced.register_loss("doubled")(lambda pairs: 2 * aced.losses.sigmoid(pairs))
    _, plain = trained(tmp_path, "sigmoid")
    _, doubled = trained(tmp_path, "doubled")
    assert float(doubled.parts.loss) == pytest.approx(2 * float(plain.parts.loss))
    assert float(doubled.grad_norm) == pytest.approx(2 * float(plain.grad_norm), rel=1e-4)


@pytest.mark.parametrize(
    ("gives", "said"), [(lambda pairs: pairs.image.sum(1), r"a tensor of shape \["), (lambda _: 1.0, "a float")]
)
def test_a_loss_that_is_no_scalar_is_named(tmp_path: Path, gives: Any, said: str) -> None:
    aced.register_loss("odd")(gives)
    with pytest.raises(AcedError, match=rf"The loss test_plugins\.<lambda> returned {said}"):
        trained(tmp_path, "odd")


def test_an_unknown_loss_may_need_its_module() -> None:
    with pytest.raises(AcedError, match=r"no loss 'mine'.*run\.imports"):
        make_config({"method": {"name": "iid", "loss": "mine"}})


def test_a_distillation_is_added_with_its_weight(tmp_path: Path) -> None:
    from aced.train.objective import Objective

    aced.register_distillation("constant", own_scale=False, compares=False)(
        lambda student, teachers: student.image.sum() * 0 + len(teachers) * 3.0
    )
    method = aced.register_method(aced.Method(name="three", title="T", about="t", distill="constant", weight=0.5))
    objective = Objective(method, "sigmoid", width=4, teacher_widths=[5, 5])
    student, teacher = embeddings(6, 4, 0), embeddings(6, 5, 1)
    total, parts = objective(student, student, [teacher, teacher])
    assert not list(objective.parameters())
    assert parts.distillation == 6.0
    assert float(total) == pytest.approx(float(aced.losses.sigmoid(student)) + 3.0)


def test_a_loss_of_whole_batches_is_of_one_process() -> None:
    aced.register_loss("whole")(lambda pairs: pairs.image.sum())
    check_processes("whole", ["softmax"], 1)
    check_processes("sigmoid", ["softmax"], 2)
    with pytest.raises(AcedError, match=r"whole.*spread=True"):
        check_processes("whole", [], 2)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"score": "learnabilty"}, "'learnability'"),
        ({"distill": "sofmax", "weight": 1.0}, "'softmax'"),
        ({"distill": "softmax"}, "weight 0"),
        ({"score": "diverse", "strategy": "top-k"}, "strategy='joint'"),
        ({"score": "learnability", "strategy": "best"}, "independent"),
        ({"columns": 3}, "columns"),
    ],
)
def test_a_method_of_parts_that_there_are_not(row: dict[str, Any], said: str) -> None:
    with pytest.raises(AcedError, match=said):
        aced.register_method(aced.Method(name="wrong", title="", about="", **row))
    assert "wrong" not in METHODS


def test_names_are_taken_once() -> None:
    method = aced.Method(name="twice", title="", about="one")
    aced.register_method(method)
    aced.register_method(aced.Method(name="twice", title="", about="two"))  # a cell that is run again
    assert METHODS["twice"].about == "two"
    with pytest.raises(AcedError, match=r"aced.*built in"):
        aced.register_method(aced.Method(name="aced", title="", about=""))
    METHODS.add("theirs", method, "another_module")
    with pytest.raises(AcedError, match=r"theirs.*another_module"):
        aced.register_method(aced.Method(name="theirs", title="", about=""))


@pytest.mark.parametrize("weights", [{}, {"student": math.nan}, {"reference": math.inf}])
def test_a_score_weighs_something(weights: dict[str, float]) -> None:
    with pytest.raises(AcedError, match="nothing"):
        aced.register_score("nothing", **weights)


def test_a_cascade_and_a_score_that_wants_what_is_hard_for_the_reference() -> None:
    aced.register_score("harder", student=1.0, reference=1.0)
    aced.register_method(aced.Method(name="harder", title="", about="", score="harder"))
    values = {"method": {"name": "harder"}, "reference": {"model": "x"}}
    make_config(values)
    with pytest.raises(AcedError, match=r"scoring.cascade"):
        make_config({**values, "scoring": {"cascade": 0.5}})


# --- modules that fail ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import aced\nraise ValueError('too late')", r"mine_b.*ValueError: too late \(mine_b.py, line 2\)"),
        ("def f(:", "mine_b.*SyntaxError"),
        ("import sys; sys.exit(3)", "mine_b.*SystemExit"),
        ("import nothing_like_that", "mine_b.*nothing_like_that"),
        ("import aced; aced.register_score('aced/x', student=1)", "mine_b.*aced/x"),
    ],
)
def test_a_module_that_fails(text: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(AcedError, match=said) as error:
        make_config({"run": {"imports": [module(tmp_path, "mine_b", text)]}})
    assert "run.imports" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("mine_nowhere", "module"),
        ("mine_nowhere.part", "module"),
        ("./code/mine.py", "code.mine"),
    ],
)
def test_a_module_that_is_not_there(name: str, said: str) -> None:
    with pytest.raises(AcedError, match=said):
        make_config({"run": {"imports": [name]}})


def test_imports_that_are_no_words_are_told_as_such() -> None:
    with pytest.raises(AcedError, match=r"run.imports"):
        make_config({"run": {"imports": 3}})


def test_an_installed_plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    module(tmp_path, "mine_c", "import aced\ndef go():\n    aced.register_score('gone', student=1.0)")
    plugins._load_point(EntryPoint("c", "mine_c:go", plugins.GROUP))
    assert "gone" in plugins_scores()
    with pytest.raises(AcedError, match=r"plugin 'd'.*AttributeError"):
        plugins._load_point(EntryPoint("d", "mine_c:missing", plugins.GROUP))


def plugins_scores() -> Any:
    from aced.core.score_models import SCORES

    return SCORES


def test_methods_are_listed_with_their_origin(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ended = cli("methods", "--import", module(tmp_path, "mine_d", MINE))
    assert ended.status == 0
    lines = [line for line in ended.out.splitlines() if "mine_d" in line]
    assert len(lines) == 4  # a method, a score, a loss, a distillation
    assert all(any(f" {name} " in line for line in lines) for name in ("mine", "half", "doubled", "cosine"))
    monkeypatch.setenv("ACED_IMPORTS", "mine_d")
    assert cli("methods").out.count("mine_d") == 4
    assert DISTILLATIONS


def test_the_groups_of_entry_points_are_those_that_installed_packages_name() -> None:
    assert (plugins.GROUP, plugins.COMMANDS) == ("aced.plugins", "aced.commands")


class _Point:
    """An entry point as `importlib.metadata` gives it."""

    name, dist = "extra", None

    def __init__(self, function: Any) -> None:
        self.load = lambda: function


def test_an_installed_package_adds_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    def add(app: typer.Typer) -> None:
        app.command("hello")(lambda: None)

    points = {plugins.COMMANDS: [_Point(add)]}
    monkeypatch.setattr(plugins, "entry_points", lambda group: points.get(group, []))
    app = typer.Typer()
    plugins.load_commands(app)
    assert [command.name for command in app.registered_commands] == ["hello"]
    points[plugins.COMMANDS] = [_Point(lambda app: 1 / 0)]
    with pytest.raises(AcedError, match=r"'extra'.*division"):
        plugins.load_commands(app)


FRESH = """
import json, sys
from aced.evaluate.named_tasks import named_tasks
from aced.models import import_open_clip
print(json.dumps([
    [len(named_tasks("scenes") or []), [task.name for task in named_tasks("mine:validation") or []]],
    import_open_clip().get_model_config("mine-arch"),
]))
"""
ADDING = """
import aced, json, pathlib, types
from aced.models import import_open_clip
import_open_clip()  # a plugin that is loaded by whoever needs open_clip, and needs it itself

@aced.register_task("mine")
def tasks(split):
    return types.SimpleNamespace(name=split)

@aced.register_architectures("mine")
def folder():
    place = pathlib.Path(__file__).with_name("configs")
    place.mkdir(exist_ok=True)
    (place / "mine-arch.json").write_text(json.dumps({"embed_dim": 8, "vision_cfg": {}, "text_cfg": {}}))
    return place
"""


def test_a_fresh_process_knows_what_plugins_add(tmp_path: Path) -> None:
    (tmp_path / "adding.py").write_text(ADDING, encoding="utf-8")
    env = os.environ | {"ACED_IMPORTS": "adding", "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    run = subprocess.run([sys.executable, "-c", FRESH], env=env, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    (scenes, mine), config = json.loads(run.stdout)
    assert scenes >= 10
    assert mine == ["validation"]
    assert config["embed_dim"] == 8
