"""The command line: each command parses its words, calls one function and prints. Heavy imports happen inside."""

from __future__ import annotations

# isort: off
# The order is that of the commands in `aced --help`.
from aced.cli import run_commands, pool_commands, model_commands, result_commands, lists
from aced.cli.app import app
from aced.cli.cli_ending import main

# isort: on
from aced.registry.plugins import load_laboratory

if (laboratory := load_laboratory(".commands")) is not None:
    laboratory.add_commands(app)

__all__ = ["app", "lists", "main", "model_commands", "pool_commands", "result_commands", "run_commands"]
