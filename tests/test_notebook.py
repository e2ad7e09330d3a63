"""The tutorial notebook: its cells run, at small sizes, and what is stored in it came out of them."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pytest

NOTEBOOK = Path(__file__).parents[1] / "examples/tutorial.ipynb"
CELLS = [cell for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
SMALL = {"POOL": 200, "CURATED": 200, "REFERENCE_STEPS": 3, "STEPS": 3, "BATCH": 16, "SUPER_BATCH": 80}


@pytest.fixture
def namespace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the cells leave behind when they run from top to bottom."""
    shown: list[int] = []

    def show() -> None:
        shown.extend(plt.get_fignums())
        plt.close("all")

    monkeypatch.setattr(plt, "show", show)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    found: dict[str, Any] = {"shown": shown}
    for cell in CELLS:
        exec(compile("".join(cell["source"]), f"{NOTEBOOK.name}: {cell['id']}", "exec"), found)
        if "make_tasks" in found and not isinstance(found.get("tasks"), list):
            found["make_tasks"] = lambda split, make=found["make_tasks"]: make(split)[:3]
        if "POOL" in found and found["POOL"] != SMALL["POOL"]:
            assert found.keys() >= SMALL.keys()
            found |= SMALL
    return found


@pytest.mark.slow
def test_the_cells_run_and_say_what_is_so(namespace: dict[str, Any], tmp_path: Path) -> None:
    found = namespace
    assert found["OUT"].parent == tmp_path
    assert len(set(found["kept"])) == SMALL["BATCH"]
    assert set(found["kept"]) <= set(found["candidates"])
    for name, run in (("iid", found["iid"]), ("aced", found["curated"])):
        assert run.step == SMALL["STEPS"]
        assert [len(step) for step in found[f"{'curated' if name == 'aced' else name}_steps"]] == [16] * 3
        budgets = run.results["rows"][0]["budgets"]
        assert budgets["samples_trained"] == 3 * 16
        assert budgets["samples_loaded"] == 3 * (80 if name == "aced" else 16)
        assert (found["OUT"] / name / "report.html").is_file()
    assert set(found["never"]) | set(found["often"]) == set(range(SMALL["POOL"]))
    assert sum(found["shares"](found["never"]).values()) == pytest.approx(100)
    scores = found["curated"].scores.results
    assert all(result.value == scores[name].value for name, result in found["again"].results.items())
    assert len(found["shown"]) == sum("image/png" in out.get("data", {}) for cell in CELLS for out in cell["outputs"])


def test_what_is_stored_is_a_whole_run() -> None:
    numbers = [cell["execution_count"] for cell in CELLS]
    assert numbers == list(range(1, len(CELLS) + 1)), "run the notebook from top to bottom and save it"
    outputs = [out for cell in CELLS for out in cell["outputs"]]
    assert {out["output_type"] for out in outputs} <= {"stream", "display_data"}
    assert all(out.get("name") != "stderr" for out in outputs)
    text = "".join("".join(out.get("text", "")) for out in outputs)
    score = {line.split()[0]: float(line.split()[1]) for line in text.splitlines() if line.startswith(("iid", "aced"))}
    assert score["aced"] > score["iid"]  # what the text below the cell says
    assert NOTEBOOK.stat().st_size < 1e6
