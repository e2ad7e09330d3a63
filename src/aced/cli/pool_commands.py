"""Commands about a pool of tars: index."""

from __future__ import annotations

from aced.cli.app import app
from aced.cli.option_fields import takes_options
from aced.programs.command_options import IndexOptions


@app.command()
@takes_options
def index(options: IndexOptions) -> None:
    """Read the headers of a pool's tars once, so that runs start from a small file, however large the pool is.

    A run indexes new tars itself; this command does it in advance, on all cores. Run it again to continue.

    Examples:

      aced index data/pool

      aced index 'data/pool/{00000..00999}.tar' --out data/pool/pool.manifest

      aced train my.toml data.shards=data/pool/pool.manifest
    """
    from rich.console import Console

    from aced.programs.index import index_program

    index_program(options, Console())
