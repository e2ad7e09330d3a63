"""What imported under a name of version 0.1 still does, and says where it is now."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

import aced
from aced.moved import MOVED


@pytest.mark.parametrize("old", MOVED)
def test_an_old_name_leads_to_the_new_place(old: str) -> None:
    for name in [one for one in sys.modules if one in MOVED]:
        del sys.modules[name]
    with pytest.warns(FutureWarning) as told:
        stand = importlib.import_module(old)
    assert any(old in str(one.message) and MOVED[old] in str(one.message) for one in told)
    new = importlib.import_module(MOVED[old])
    public = [name for name in vars(new) if not name.startswith("_")]
    assert all(getattr(stand, name) is getattr(new, name) for name in public)
    with pytest.raises(AttributeError):
        _ = stand.there_is_no_such_name


def test_the_imports_of_the_old_pages_work() -> None:
    code = (
        "from aced.data.scenes import make_pool\nfrom aced.evaluate.folder import load_task_folder\n"
        "from aced.towers import import_open_clip\nimport aced.data.shards\nprint(aced.data.shards.open_shards)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "open_shards" in run.stdout
    assert run.stderr.count("FutureWarning") == 5  # aced.data, .scenes, .shards, evaluate.folder, towers


def test_an_old_name_is_gone_with_its_version() -> None:
    assert tuple(map(int, aced.__version__.split(".")[:2])) < (0, 3), "remove aced.moved and this file"


def test_other_names_are_as_unknown_as_before() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"aced\.data\.there_is_none"):
        importlib.import_module("aced.data.there_is_none")
