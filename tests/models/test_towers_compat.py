"""torchvision without its compiled operators, and with them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from aced.models import compat
from aced.models.compat import ensure_torchvision, import_open_clip

_FAKE_BROKEN = """
import torch
for name in ("first_of_ours", "second_of_ours"):
    try:
        getattr(torch.ops.torchvision, name)
    except AttributeError:
        raise RuntimeError(f"operator torchvision::{name} does not exist") from None
import torchvision.part
"""


def _put_in_place(monkeypatch: pytest.MonkeyPatch, folder: Path, code: str) -> None:
    """A package `torchvision` with this code, instead of the installed one."""
    (folder / "torchvision").mkdir()
    (folder / "torchvision" / "__init__.py").write_text(code)
    (folder / "torchvision" / "part.py").write_text("")
    for module in [m for m in sys.modules if m == "torchvision" or m.startswith("torchvision.")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.syspath_prepend(folder)


@pytest.fixture(autouse=True)
def _forget_fakes():
    yield
    for module in [m for m in sys.modules if m.startswith("torchvision")]:
        if "site-packages" not in (getattr(sys.modules[module], "__file__", None) or "site-packages"):
            del sys.modules[module]


def test_the_installed_one_can_be_imported_in_a_fresh_process() -> None:
    code = (
        "from aced.models.compat import ensure_torchvision as e\n"
        "first = e(); second = e()\n"
        "import torchvision; from torchvision.transforms import Compose\n"
        "assert second == [], second\n"
        "import gc, torch; gc.collect()\n"
        "[getattr(torch.ops.torchvision, n) for n in first]\n"
        "print('fine')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.stdout.strip() == "fine", done.stderr


def test_where_torchvision_imports_nothing_is_defined(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _put_in_place(monkeypatch, tmp_path, "import torchvision.part\n")
    monkeypatch.setattr(compat, "_define", lambda name: pytest.fail(f"{name} was defined"))
    assert ensure_torchvision() == []


def test_missing_operators_are_learned_from_the_errors(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _put_in_place(monkeypatch, tmp_path, _FAKE_BROKEN)
    assert ensure_torchvision() == ["first_of_ours", "second_of_ours"]
    with pytest.raises(NotImplementedError):
        torch.ops.torchvision.first_of_ours(torch.ones(1, 4), torch.ones(1), 0.5)


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("raise RuntimeError('operator other::nms does not exist')", RuntimeError),
        ("raise RuntimeError('operator torchvision::again does not exist')", RuntimeError),
        ("import no_such_module_of_ours", ModuleNotFoundError),
    ],
)
def test_other_failures_stay_what_they_are(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: str, error: type[Exception]
) -> None:
    _put_in_place(monkeypatch, tmp_path, code)
    with pytest.raises(error):
        ensure_torchvision()


def test_open_clip_knows_the_demo_family_and_builds_it_by_itself() -> None:
    open_clip = import_open_clip()
    assert import_open_clip() is open_clip
    assert {"aced-demo-s", "aced-demo-m", "aced-demo-l"} <= set(open_clip.list_models())
    model = open_clip.create_model("aced-demo-s")
    assert model.encode_image(torch.zeros(1, 3, 32, 32)).shape == (1, 64)
