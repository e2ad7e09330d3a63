from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
import report_fake
from rich.console import Console

from aced.errors import AcedError
from aced.report import results_table


def shown(results: dict[str, Any], width: int = 100) -> list[str]:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(results_table(results))
    return console.export_text().splitlines()


def test_the_full_table_fits_in_100_columns(tmp_path: Path) -> None:
    results = report_fake.make(tmp_path, steps=20)
    lines = shown(results)
    assert max(map(len, lines)) <= 100
    text = "\n".join(lines)
    for title, *_ in report_fake.METHODS.values():
        assert title in text
    assert "…" not in text
    aced = next(line for line in lines if "│ ACED " in line)
    assert " ± " in aced
    assert "1.28k" in aced
    assert "84.3" in text


def test_a_single_run_has_no_comparison() -> None:
    row = {
        "method": "aced",
        "title": "[bold]ACED",
        "average": 59.3,
        "budgets": {"flops": 2.7e12, "seconds": 36.1},
    }
    text = "\n".join(shown({"rows": [row]}))
    for part in ("[bold]ACED", "59.3", "2.7T", "36 s"):
        assert part in text
    for part in ("vs IID", "Sound", "Loaded", "±", "Reference"):
        assert part not in text


def test_malformed_results_are_told() -> None:
    with pytest.raises(AcedError, match="rows"):
        results_table({})
