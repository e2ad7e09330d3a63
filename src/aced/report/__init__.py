"""One self-contained HTML page, and a table for the terminal, about finished runs.

The public names are loaded on first use: matplotlib and jinja2 cost a second that a caller may not need.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aced.report.page import write_report as write_report
    from aced.report.table import results_table as results_table
    from aced.runs.records import RunRecord as RunRecord
    from aced.runs.run_results import load_results as load_results
    from aced.runs.run_results import load_run as load_run
    from aced.runs.run_results import results_of as results_of

_HOME = {
    "write_report": "aced.report.page",
    "RunRecord": "aced.runs.records",
    "load_results": "aced.runs.run_results",
    "load_run": "aced.runs.run_results",
    "results_of": "aced.runs.run_results",
    "results_table": "aced.report.table",
}

__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'aced.report' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOME[name]), name)
