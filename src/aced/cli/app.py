"""The application that holds all commands, and how it prints a line."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from aced.version import __version__

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


def _print_version(asked: bool) -> None:
    """Print the version and end, before a command is asked for."""
    if asked:
        typer.echo(f"aced {__version__}")
        raise typer.Exit


@app.callback()
def _before_commands(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Options without a command; the text of `aced --help` is the application's own."""


def say(console: Any, text: str) -> None:
    """Print a line verbatim: brackets in a path are not markup."""
    console.print(text, markup=False, highlight=False)
