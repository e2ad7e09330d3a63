"""Commands about what runs have left: report, stable."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from aced.cli.app import app, say
from aced.cli.path_words import as_path
from aced.errors import AcedError


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(parser=as_path, help="Run folders, or the folder of a demo.")],
    out: Annotated[
        Path | None, typer.Option(parser=as_path, help="The page; default: report.html in the first folder.")
    ] = None,
    stable: Annotated[
        Path | None,
        typer.Option(
            parser=as_path,
            help="The JSON of 'aced stable', to be shown; default: stable.json in the first folder, where it is there.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Write one self-contained HTML page about one or more finished runs, with what 'aced lit RUN' wrote about them.

    Examples:

      aced report runs/photos-iid runs/photos-aced --out photos.html

      aced report runs/demo --stable runs/stable.json
    """
    from rich.console import Console

    from aced.report import load_results, load_run, results_table, write_report
    from aced.report.stability_page import read_stability
    from aced.runs.records import results_of

    console = Console()
    folder = runs[0]
    if stable is None and (folder / "stable.json").is_file():
        stable = folder / "stable.json"
    found = read_stability(stable) if stable else None
    if len(runs) == 1 and (folder / "demo.json").is_file():
        results = load_results(folder / "results.json")
        records = [load_run(folder / row["run"]) for row in results["rows"]]
    else:
        records = [load_run(run) for run in runs]
        results = results_of(records)
    page = write_report(out or folder / "report.html", results, records, stability=found)
    console.print(results_table(results))
    say(console, f"Report: {page}")


@app.command()
def stable(
    results: Annotated[
        list[Path],
        typer.Argument(
            parser=as_path, help="Run folders, a demo's folder, results.json, eval_results.jsonl or CSV tables."
        ),
    ],
    out: Annotated[
        Path, typer.Option(parser=as_path, help="The JSON; the page with the figure is written beside it, as .html.")
    ] = Path("runs/stable.json"),
    recipe_column: Annotated[
        list[str] | None, typer.Option(help="CSV column that names the recipe; may be given several times.")
    ] = None,
    repeat_pattern: Annotated[
        str, typer.Option(help="Regular expression for what differs in the names of rows that repeat one recipe.")
    ] = "",
    ignore: Annotated[
        list[str] | None, typer.Option(help="Task or CSV column to leave out; * and ? are wildcards; repeatable.")
    ] = None,
    facts: Annotated[
        Path | None, typer.Option(parser=as_path, help="CSV (task,n,chance) or JSON with what the tables do not say.")
    ] = None,
    rank: Annotated[
        list[Path] | None,
        typer.Option(parser=as_path, help="Rank these models, in the place of those of RESULTS; repeatable."),
    ] = None,
    missing: Annotated[
        str, typer.Option(help="What missing scores do: 'stop', or leave out such 'tasks' or 'rows'.")
    ] = "stop",
    percent: Annotated[bool, typer.Option("--percent", help="The tables are in percent.")] = False,
    alpha: Annotated[float, typer.Option(help="Probability of keeping any task that is at chance.")] = 0.05,
    least: Annotated[
        int, typer.Option(min=0, help="Fewest tasks to keep; 0: half of those above chance, rounded up.")
    ] = 0,
    resamples: Annotated[int, typer.Option(min=0, help="Bootstrap resamples of the seeds.")] = 2000,
) -> None:
    """Choose the tasks whose average is stable over seeds, and say how sure that is.

    Examples:

      aced stable runs/scenes-s10 runs/scenes-s11 runs/scenes-s12 --out runs/stable.json

      aced stable openclip_results.csv --repeat-pattern "_e3[12]$" --ignore "params*" --ignore "FLOPs*" --ignore "Av*"
    """
    from rich.console import Console

    from aced.evaluate.stability.resampling import Rules
    from aced.evaluate.stability.tables import layout_of
    from aced.programs.stable import stable_program

    if not 0 < alpha < 1:
        raise AcedError(f"--alpha is {alpha}; give a probability between 0 and 1, such as 0.05.")
    stable_program(
        results,
        ranked=rank or [],
        facts=facts,
        layout=layout_of(recipe_column or [], repeat_pattern, ignore or [], percent=percent, missing=missing),
        rules=Rules(alpha=alpha, least=least or None, resamples=resamples),
        out=out,
        command=["aced", *sys.argv[1:]],
        console=Console(),
    )
