"""The application that the modules of this package add their commands to, and how they print a line."""

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
    "A large frozen [bold]reference[/] and the small [bold]student[/] score many candidates; the batch that is easy "
    "for the one and hard for the other is trained on (ACID), with a distillation loss as well (ACED).\n\n"
    "Start with [bold]aced demo[/]: it compares the methods on built-in data within minutes.",
)


def say(console: Any, text: str) -> None:
    """Print a line as it is: a path's brackets are no markup."""
    console.print(text, markup=False, highlight=False)
