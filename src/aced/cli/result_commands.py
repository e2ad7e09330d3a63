"""Commands about finished runs: report, stable."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from aced.cli.app import app, say
from aced.cli.option_fields import takes_options
from aced.cli.path_words import as_path
from aced.programs.command_options import StableOptions


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(parser=as_path, help="Run folders, or the folder of a demo.")],
    out: Annotated[
        Path | None, typer.Option(parser=as_path, help="Page to write; default: report.html in the first folder.")
    ] = None,
    stable: Annotated[
        Path | None,
        typer.Option(
            parser=as_path,
            help="The JSON of 'aced stable' to show; default: stable.json in the first folder, if present.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Write one self-contained HTML page about one or more finished runs, including the results of 'aced lit RUN'.

    Examples:

      aced report runs/photos-iid runs/photos-aced --out photos.html

      aced report runs/demo --stable runs/stable.json
    """
    from rich.console import Console

    from aced.errors import every
    from aced.report import load_results, load_run, results_table, write_report
    from aced.report.stability_page import read_stability
    from aced.runs.run_results import results_of

    console = Console()
    folder = runs[0]
    if stable is None and (folder / "stable.json").is_file():
        stable = folder / "stable.json"
    found = read_stability(stable) if stable else None
    if len(runs) == 1 and (folder / "demo.json").is_file():
        results = load_results(folder / "results.json")
        records = [load_run(folder / row["run"]) for row in results["rows"]]
    else:
        records = every(load_run, runs)
        results = results_of(records)
    page = write_report(out or folder / "report.html", results, records, stability=found)
    console.print(results_table(results))
    say(console, f"Report: {page}")


@app.command()
@takes_options
def stable(options: StableOptions) -> None:
    """Choose the tasks whose average is stable over seeds, and quantify how certain the choice is.

    Examples:

      aced stable runs/scenes-s10 runs/scenes-s11 runs/scenes-s12 --out runs/stable.json

      aced stable openclip_results.csv --repeat-pattern "_e3[12]$" --ignore "params*" --ignore "FLOPs*" --ignore "Av*"
    """
    from rich.console import Console

    from aced.programs.stable import stable_program

    stable_program(options, ["aced", *sys.argv[1:]], Console())
