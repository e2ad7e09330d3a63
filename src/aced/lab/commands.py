"""The laboratory's commands: demo and lit. Heavy imports happen inside them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from aced.cli.app import say
from aced.cli.path_words import as_path, as_place
from aced.errors import AcedError

PANEL = "Laboratory"


def add_commands(app: typer.Typer) -> None:
    """Add them to the application."""
    for command in (demo, lit):
        app.command(rich_help_panel=PANEL)(command)


def demo(
    out: Annotated[
        Path, typer.Option(parser=as_path, help="Folder for results.json, report.html and the runs.")
    ] = Path("runs/demo"),
    methods: Annotated[
        str | None,
        typer.Option(help="Rows to run, separated by commas, or 'all'; --list shows them.", show_default=False),
    ] = None,
    seeds: Annotated[int, typer.Option(help="Train every row with this many seeds.")] = 1,
    quick: Annotated[
        bool,
        typer.Option("--quick", help="Under a minute: everything for real, but too short to tell methods apart."),
    ] = False,
    threads: Annotated[int, typer.Option(min=0, max=1024, help="CPU threads; 0 measures what is quickest.")] = 0,
    split: Annotated[str, typer.Option(help="Score on 'test', or on 'validation' to choose settings by.")] = "test",
    show: Annotated[
        bool, typer.Option("--list", help="List the rows that --methods can name, and do nothing.")
    ] = False,
) -> None:
    """Train a reference, then the same small student with each method, and compare them.

    Examples:

      aced demo

      aced demo --quick --out /tmp/look

      aced demo --methods iid,softmax-kd,aced --seeds 3
    """
    from rich.console import Console

    from aced.lab.demo.demo_run import check_demo, run_demo
    from aced.lab.demo.rows import FULL, QUICK, ROWS, choose_rows
    from aced.report import results_table
    from aced.runtime.threads import set_threads

    if show:
        for row in ROWS.values():
            say(Console(), f"{row.name:24}{row.title}")
        return
    choose_rows(methods)  # what is wrong is told before anything is computed
    check_demo(out, seeds)
    if split not in ("test", "validation"):
        raise AcedError(f"--split is '{split}'; use 'test' or 'validation'.")
    console = Console()
    count = set_threads(threads)
    say(console, f"aced demo on {count} thread{'s' * (count > 1)}; results go to {out}")
    scale = QUICK if quick else FULL
    results = run_demo(out, methods=methods, seeds=seeds, scale=scale, console=console, split=split)
    console.print()
    console.print(results_table(results))
    for sentence in results["summary"]:
        say(console, sentence)
    if quick:
        say(console, "This was a quick look: far too short for the differences to mean anything.")
    say(console, f"Report: {out / 'report.html'}   Figures: {out / 'results.json'}")


def lit(
    run: Annotated[
        str, typer.Argument(parser=as_place, help="A run or model folder, or an architecture's name with --checkpoint.")
    ],
    data: Annotated[
        list[str] | None,
        typer.Option(
            parser=as_place,
            help="'scenes', a folder of easy-VQA, caption tars, or a retrieval task to test on; repeat it.",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(parser=as_path, help="A new folder; default: RUN/lit.", show_default=False)
    ] = None,
    layers: Annotated[int, typer.Option(help="Layers of the decoder, 2 to 6.")] = 2,
    width: Annotated[int, typer.Option(help="Width of the decoder, a multiple of 4.")] = 96,
    steps: Annotated[int, typer.Option(help="Training steps.")] = 600,
    batch: Annotated[int, typer.Option(help="Examples of a step, shared evenly by the training sets.")] = 96,
    lr: Annotated[float, typer.Option(help="Peak learning rate.")] = 3e-3,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the decoder and its training.")] = 0,
    beams: Annotated[int, typer.Option(help="Width of the beam search for captions; 1 is greedy.")] = 4,
    where: Annotated[
        str | None,
        typer.Option(
            help="FIELD=VALUE of the json of the tars' samples: only those are trained on.", show_default=False
        ),
    ] = None,
    split: Annotated[str, typer.Option(help="Test scenes: 'test', or 'validation' to choose settings by.")] = "test",
    cache: Annotated[
        Path | None,
        typer.Option(parser=as_path, help="Folder of cached patch tokens; default: RUN/lit-cache.", show_default=False),
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(parser=as_path, help="Weights, a file or a tag, of an architecture.", show_default=False),
    ] = None,
    threads: Annotated[int, typer.Option(min=0, max=1024, help="CPU threads; 0 measures what is quickest.")] = 0,
) -> None:
    """Train a small text decoder on a frozen encoder's patch tokens: captions and answers, scored and shown.

    Examples:

      aced lit runs/first --data scenes

      aced lit runs/photos-aced --data pool/ --data eval/wds_flickr8k --data easy-VQA/

      aced lit runs/photos-aced --data pool/ --where source=flickr8k --data eval/wds_flickr8k --out runs/captions
    """
    from rich.console import Console

    from aced.lab.lit.decoder import DecoderShape
    from aced.lab.lit.decoder_training import DecoderSettings
    from aced.lab.lit.lit_program import LitOptions, lit_program
    from aced.runtime.threads import set_threads

    shape, settings = DecoderShape(layers=layers, width=width), DecoderSettings(steps=steps, batch=batch, lr=lr)
    options = LitOptions(shape, settings, seed, beams, where, split=split, cache=cache, checkpoint=checkpoint)
    set_threads(threads)
    lit_program(run, data or [], out, options, Console())
