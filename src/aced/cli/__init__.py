"""The command line: parses, calls one function each, prints. Heavy imports happen inside the commands."""

from __future__ import annotations

# isort: off
# The order is that of the commands in `aced --help`.
from aced.cli import runs, pools, models, results, lists
from aced.cli.app import app
from aced.cli.ending import main
# isort: on

__all__ = ["app", "lists", "main", "models", "pools", "results", "runs"]
