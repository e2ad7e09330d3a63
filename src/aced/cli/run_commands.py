"""Commands that train, estimate costs and show progress: train, cost, status."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from aced.cli.app import app
from aced.cli.path_words import as_path, as_place

ConfigWord = Annotated[str, typer.Argument(parser=as_place, help="A TOML file, or a recipe that 'aced recipes' lists.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[section.key=value]...", help="Keys that override the file.")
]


@app.command()
def train(
    config: ConfigWord,
    overrides: Overrides = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue from the newest checkpoint, if any.")] = False,
) -> None:
    """Train a student on tars of image-text pairs (or on the built-in scenes) with any method.

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
        typer.Option(min=1, help="Pairs in the pool; default: as many as the run draws.", show_default=False),
    ] = None,
    text_tokens: Annotated[
        int | None,
        typer.Option(min=1, help="Length of texts in tokens; default: each model's maximum.", show_default=False),
    ] = None,
    pair_kb: Annotated[
        float | None,
        typer.Option(min=0, help="Kilobytes (10^3) per pair in a tar, to estimate what is read.", show_default=False),
    ] = None,
    gpu_tflops: Annotated[
        float, typer.Option(min=1e-3, help="Peak TFLOP/s of a GPU; an H100 has 989 in bf16.")
    ] = 989.0,
    utilisation: Annotated[
        float, typer.Option(min=1e-4, max=1.0, help="Share of the peak that a run reaches; measure yours.")
    ] = 0.4,
    in_json: Annotated[bool, typer.Option("--json", help="Print all numbers as one JSON object.")] = False,
) -> None:
    """Estimate what a run costs before it starts: FLOPs, GPU hours, pairs, bytes of images and of side-cars.

    It reads no data and downloads nothing: the architectures that the config names are enough.

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
    runs: Annotated[list[Path], typer.Argument(parser=as_path, help="Folders of runs (run.out), running or ended.")],
    in_json: Annotated[bool, typer.Option("--json", help="Print a JSON list with one object per run.")] = False,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Update until all runs have ended.")] = False,
    every: Annotated[float, typer.Option(min=0.1, help="Seconds between updates with --follow.")] = 2.0,
) -> None:
    """Show, from another terminal, how runs progress: step, time left, images/s, time by phase, losses, scores.

    Examples:

      aced status runs/photos-aced

      aced status runs/photos-aced runs/photos-iid --follow

      aced status runs/photos-aced --json
    """
    from rich.console import Console

    from aced.programs.status import status_program

    status_program(runs, Console(), in_json=in_json, follow=follow, every=every)
