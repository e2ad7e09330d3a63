"""Commands about one model: eval, embed, export, latency."""

from __future__ import annotations

import sys

import typer

from aced.cache.embed_options import EmbedOptions
from aced.cli.app import app
from aced.cli.option_fields import takes_options
from aced.programs.command_options import EvalOptions, ExportOptions, LatencyOptions


@app.command("eval")
@takes_options
def evaluate(options: EvalOptions) -> None:
    """Score a model on zero-shot tasks, or compare two scored models. Run it again to continue after an interruption.

    Examples:

      aced eval runs/first --data scenes

      aced eval runs/first --data eval/ other/wds_cars

      aced eval ViT-B-32 --checkpoint laion2b_s34b_b79k --data eval/ --out eval-b32

      aced eval --compare runs/a/eval/eval.json runs/b/eval/eval.json
    """
    from rich.console import Console

    from aced.runtime.startup import uncollected

    with uncollected():
        from aced.programs.eval import eval_command

    failed = eval_command(options, Console())
    for task, sentence in failed.items():
        sys.stderr.write(f"aced: {task} failed: {sentence}\n")
    if failed:
        raise typer.Exit(1)


@app.command()
@takes_options
def embed(options: EmbedOptions) -> None:
    """Embed a pool once with a frozen model: one side-car per tar, which 'aced train' looks up.

    It first prints what it will store. Run it again to continue after an interruption or to embed new tars.

    Examples:

      aced embed runs/photos-reference/model data/pool

      aced embed ViT-B-32 'data/pool/{00000..00010}.tar' --checkpoint laion2b_s34b_b79k --dtype int8 --out runs/cache

      torchrun --standalone --nproc-per-node 8 --no-python aced embed runs/photos-reference/model data/pool
    """
    from rich.console import Console

    from aced.programs.embed import embed_program

    embed_program(options, Console())


@app.command()
@takes_options
def export(options: ExportOptions) -> None:
    """Export a model, with a model card, for another program; the export is checked against the model.

    Examples:

      aced export runs/first exported

      aced export ViT-B-32 for-transformers --checkpoint laion2b_s34b_b79k --format transformers
    """
    from rich.console import Console

    from aced.programs.export import export_program

    export_program(options, Console())


@app.command()
@takes_options
def latency(options: LatencyOptions) -> None:
    """Time the image and text towers of models on this device, and list parameters, multiply-adds and size.

    Examples:

      aced latency runs/first ViT-B-32 --batch 1

      aced latency aced-demo-s aced-demo-l --runtime eager --runtime onnx --runtime int8 --threads 1 --threads 2
    """
    from rich.console import Console

    from aced.programs.latency import latency_program

    latency_program(options, Console())
