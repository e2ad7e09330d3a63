"""Commands that list methods, recipes and config keys."""

from __future__ import annotations

from typing import Annotated

import typer

from aced.cli.app import app


@app.command()
def methods(
    imports: Annotated[
        list[str] | None,
        typer.Option("--import", metavar="MODULE", help="A module to import first, as in run.imports; repeatable."),
    ] = None,
) -> None:
    """List the methods of curation and distillation and their parts.

    Methods that other packages or your own modules register are listed too, with their origin.

    Examples:

      aced methods

      aced methods --import my_module
    """
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from aced.methods import METHODS
    from aced.registry.doors import parts
    from aced.registry.plugins import load_plugins

    load_plugins(imports or [])
    table = Table("Name", "Title", "What it does", "From")
    for name, method in METHODS.items():
        table.add_row(*map(escape, (name, method.title, method.about, METHODS.origin(name))))
    console = Console()
    console.print(table)
    table = Table("Part", "Name", "What it is", "From")
    for found in parts():
        for name, row in found.items():
            table.add_row(*map(escape, (found.kind, name, row.about, found.origin(name))))
        table.add_section()
    console.print(table)


@app.command()
def recipes() -> None:
    """List the packaged recipes for 'aced train'; each file begins with how to use it.

    Example:

      aced recipes
    """
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from aced.config import recipes as packaged

    table, console, folders = Table("Name", "What it does"), Console(), set()
    for name, path in packaged().items():
        first = path.read_text(encoding="utf-8").splitlines()[0]
        table.add_row(name, escape(first.removeprefix("# ")))
        folders.add(path.parent)
    console.print(table)
    for folder in sorted(folders):  # a path in a column would be cut
        console.print(f"Files: {folder / 'NAME.toml'}", markup=False, highlight=False, soft_wrap=True)


@app.command()
def config() -> None:
    """Print every key of a run with its default and its meaning.

    Example:

      aced config
    """
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from aced.config import describe_keys

    table = Table("Key", "Default", "Meaning")
    for key, default, meaning in describe_keys():
        table.add_row(key, escape(default), escape(meaning))
    Console().print(table)
