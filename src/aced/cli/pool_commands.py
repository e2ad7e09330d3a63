"""Commands about a pool of tars: index."""

from __future__ import annotations

from aced.cli.app import app
from aced.cli.option_fields import takes_options
from aced.programs.command_options import IndexOptions


@app.command()
@takes_options
def index(options: IndexOptions) -> None:
    """Read the headers of a pool's tars once: a run then starts from a small file, however large the pool is.

    A run does so by itself where it must; this does it beforehand, on all cores. Killed, it goes on where it was.

    Examples:

      aced index data/pool

      aced index 'data/pool/{00000..00999}.tar' --out data/pool/pool.manifest

      aced train my.toml data.shards=data/pool/pool.manifest
    """
    from rich.console import Console

    from aced.programs.index import index_program

    index_program(options, Console())
