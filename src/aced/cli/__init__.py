"""The command line: parses, calls one function each, prints. Heavy imports happen inside the commands."""

from __future__ import annotations

# isort: off
# The order is that of the commands in `aced --help`.
from aced.cli import run_commands as runs, pool_commands as pools, model_commands as models, result_commands as results
from aced.cli import lists
from aced.cli.app import app
from aced.cli.cli_ending import main
# isort: on

__all__ = ["app", "lists", "main", "models", "pools", "results", "runs"]
