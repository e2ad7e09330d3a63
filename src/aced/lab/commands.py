"""The laboratory's commands: demo and lit. Heavy imports happen inside them."""

from __future__ import annotations

import typer

from aced.cli.app import say
from aced.cli.option_fields import takes_options
from aced.lab.lab_options import DemoOptions, LitOptions

PANEL = "Laboratory"


def add_commands(app: typer.Typer) -> None:
    """Add them to the application."""
    for command in (demo, lit):
        app.command(rich_help_panel=PANEL)(command)


@takes_options
def demo(options: DemoOptions) -> None:
    """Train the same small student with each method, guided by a larger reference, and compare them.

    Examples:

      aced demo

      aced demo --quick --out /tmp/look

      aced demo --methods iid,softmax-kd,aced --seeds 3
    """
    from rich.console import Console

    from aced.lab.demo.demo_run import demo_program
    from aced.lab.demo.rows import ROWS

    if options.show:
        for row in ROWS.values():
            say(Console(), f"{row.name:24}{row.title}")
        return
    demo_program(options, Console())


@takes_options
def lit(options: LitOptions) -> None:
    """Train a small text decoder on a frozen encoder's patch tokens: captions and answers, with scores and a gallery.

    Examples:

      aced lit runs/first --data scenes

      aced lit runs/photos-aced --data pool/ --data eval/wds_flickr8k --data easy-VQA/

      aced lit runs/photos-aced --data pool/ --where source=flickr8k --data eval/wds_flickr8k --out runs/captions
    """
    from rich.console import Console

    from aced.lab.lit.lit_program import lit_program
    from aced.runtime.threads import set_threads

    set_threads(options.threads)
    lit_program(options, Console())
