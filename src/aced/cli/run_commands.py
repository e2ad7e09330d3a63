"""Commands that train, and how a run stands: train, cost, status."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from aced.cli.app import app
from aced.cli.path_words import as_path, as_place

ConfigWord = Annotated[
    str, typer.Argument(parser=as_place, help="A TOML file, or the name of a recipe; see 'aced recipes'.")
]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[section.key=value]...", help="Keys that differ from the file's.")
]


@app.command()
def train(
    config: ConfigWord,
    overrides: Overrides = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the newest checkpoint, or begin.")] = False,
) -> None:
    """Train a student on tars of image-text pairs (or on scenes) by any method.

    Examples:

      aced train scenes method.name=iid run.out=runs/first

      aced train photos data.shards=pool/ eval.tasks=eval/ method.name=aced

      aced train my.toml train.steps=2000 method.name=i-aced run.out=runs/mine

      aced train my.toml --resume
    """
    from rich.console import Console

    from aced.config import load_config
    from aced.programs.train import train_program

    train_program(load_config(config, overrides or []), Console(), resume=resume)


@app.command()
def cost(
    config: ConfigWord,
    overrides: Overrides = None,
    pairs: Annotated[
        int | None,
        typer.Option(min=1, help="Pairs of the pool. [as many as are drawn, each once]", show_default=False),
    ] = None,
    text_tokens: Annotated[
        int | None,
        typer.Option(min=1, help="Length of texts in tokens. [each model's longest]", show_default=False),
    ] = None,
    pair_kb: Annotated[
        float | None,
        typer.Option(min=0, help="10^3 bytes of a pair in its tar, to tell what is read.", show_default=False),
    ] = None,
    gpu_tflops: Annotated[
        float, typer.Option(min=1e-3, help="10^12 FLOPs a second of a GPU; 989 is an H100's in bf16.")
    ] = 989.0,
    utilisation: Annotated[
        float, typer.Option(min=1e-4, max=1.0, help="Share of them that a run gets; measure yours.")
    ] = 0.4,
    in_json: Annotated[bool, typer.Option("--json", help="One JSON object with all numbers.")] = False,
) -> None:
    """Say what a run would cost before it starts: FLOPs, GPU hours, pairs, bytes of images and of side-cars.

    Nothing is read and nothing downloaded: the architectures that the config names are enough.

    Examples:

      aced cost aced-f0

      aced cost siglip2-b16 reference.cache= --gpu-tflops 312 --utilisation 0.35

      aced cost my.toml train.steps=10000 --pairs 12800000 --text-tokens 20 --json
    """
    from rich.console import Console

    from aced.config import load_config
    from aced.programs.cost import Assumed, cost_program

    assumed = Assumed(text_tokens, pairs, pair_kb, gpu_tflops, utilisation)
    cost_program(load_config(config, overrides or []), assumed, Console(), in_json=in_json)


@app.command()
def status(
    runs: Annotated[list[Path], typer.Argument(parser=as_path, help="Folders of runs (run.out), under way or ended.")],
    in_json: Annotated[bool, typer.Option("--json", help="For scripts: a list with an object for each run.")] = False,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Again and again, until all runs have ended.")] = False,
    every: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks of --follow.")] = 2.0,
) -> None:
    """Say how runs stand, from another terminal: step, time left, images/s, where the time goes, losses, scores.

    Examples:

      aced status runs/photos-aced

      aced status runs/photos-aced runs/photos-iid --follow

      aced status runs/photos-aced --json
    """
    from rich.console import Console

    from aced.programs.status import status_program

    status_program(runs, Console(), in_json=in_json, follow=follow, every=every)
