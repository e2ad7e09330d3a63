"""Commands that list what there is: methods, recipes, config."""

from __future__ import annotations

from aced.cli.app import app


@app.command()
def methods() -> None:
    """List the methods of curation and distillation, and the longer rows of the demo.

    Example:

      aced methods
    """
    from rich.console import Console
    from rich.table import Table

    from aced.demo.recipe import ROWS
    from aced.methods import METHODS

    table = Table("Name", "Title", "What it does")
    for method in METHODS.values():
        table.add_row(method.name, method.title, method.about)
    table.add_section()
    for row in ROWS.values():
        if row.name not in METHODS:
            table.add_row(row.name, row.title, "demo only: a longer run")
    Console().print(table)


@app.command()
def recipes() -> None:
    """List the packaged recipes for 'aced train'; each file begins with how it is used.

    Example:

      aced recipes
    """
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from aced.config import recipes as packaged

    table = Table("Name", "What it does", "File")
    for name, path in packaged().items():
        first = path.read_text(encoding="utf-8").splitlines()[0]
        table.add_row(name, first.removeprefix("# "), escape(str(path)))
    Console().print(table)


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
