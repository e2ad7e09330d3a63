"""The application that holds all commands, and how it prints a line."""

from __future__ import annotations

from typing import Any

import typer

app = typer.Typer(
    name="aced",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Train small CLIP and SigLIP models by choosing what they learn from.\n\n"
    "A large frozen [bold]reference[/] and the small [bold]student[/] score many candidates. The pairs that are easy "
    "for the reference and hard for the student form the batch (ACID); ACED adds a distillation loss.\n\n"
    "Start with [bold]aced demo[/]: it compares the methods on built-in data within minutes.",
)


def say(console: Any, text: str) -> None:
    """Print a line verbatim: brackets in a path are not markup."""
    console.print(text, markup=False, highlight=False)
