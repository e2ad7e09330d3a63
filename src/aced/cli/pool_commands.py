"""Commands about a pool of tars: index."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from aced.cli.app import app
from aced.cli.path_words import as_path, as_place, as_place_or_none


@app.command()
def index(
    shards: Annotated[
        list[str], typer.Argument(metavar="POOL...", parser=as_place, help="Tars, as data.shards names them.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(parser=as_path, help="A file for the manifest, to be named in data.shards.", show_default=False),
    ] = None,
    index_dir: Annotated[
        str,
        typer.Option(
            parser=as_place_or_none, help="Folder for indexes of the tars; auto: a cache of the user; empty: none."
        ),
    ] = "auto",
    spool_dir: Annotated[
        str, typer.Option(parser=as_place_or_none, help="Folder for fetched and unpacked tars; empty: refused.")
    ] = "",
    spool_gb: Annotated[float, typer.Option(help="Largest size of that folder, in 10^9 bytes.")] = 100.0,
    workers: Annotated[int, typer.Option(min=0, help="Processes that read headers; 0: one for each core.")] = 0,
) -> None:
    """Read the headers of a pool's tars once: a run then starts from a small file, however large the pool is.

    A run does so by itself where it must; this does it beforehand, on all cores. Killed, it goes on where it was.

    Examples:

      aced index data/pool

      aced index 'data/pool/{00000..00999}.tar' --out data/pool/pool.manifest

      aced train my.toml data.shards=data/pool/pool.manifest
    """
    from rich.console import Console

    from aced.programs.index import IndexTask, index_program

    index_program(IndexTask(shards, out, index_dir, spool_dir, spool_gb, workers), Console())
