"""The command line: parses, calls one function each, prints. Heavy imports happen inside the commands."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from aced.errors import AcedError

app = typer.Typer(
    name="aced",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Train small CLIP and SigLIP models by choosing what they learn from.\n\n"
    "A large frozen [bold]reference[/] and the small [bold]student[/] score many candidates; the batch that is easy "
    "for the one and hard for the other is trained on (ACID), with a distillation loss as well (ACED).\n\n"
    "Start with [bold]aced demo[/]: it compares the methods on built-in data within minutes.",
)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for results.json, report.html and the runs.")] = Path("runs/demo"),
    methods: Annotated[
        str | None,
        typer.Option(help="Rows to run, separated by commas, or 'all'; see 'aced methods'.", show_default=False),
    ] = None,
    seeds: Annotated[int, typer.Option(help="Train every row with this many seeds.")] = 1,
    quick: Annotated[
        bool,
        typer.Option("--quick", help="Under a minute: everything for real, but too short to tell methods apart."),
    ] = False,
    threads: Annotated[int, typer.Option(min=0, max=1024, help="CPU threads; 0 measures what is quickest.")] = 0,
    split: Annotated[str, typer.Option(help="Score on 'test', or on 'validation' to choose settings by.")] = "test",
) -> None:
    """Train a reference, then the same small student with each method, and compare them.

    Examples:

      aced demo

      aced demo --quick --out /tmp/look

      aced demo --methods iid,softmax-kd,aced --seeds 3
    """
    from rich.console import Console

    from aced.demo.recipe import FULL, QUICK, choose_rows
    from aced.demo.run import check_demo, run_demo
    from aced.report import results_table
    from aced.threads import set_threads

    choose_rows(methods)  # what is wrong is told before anything is computed
    check_demo(out, seeds)
    if split not in ("test", "validation"):
        raise AcedError(f"--split is '{split}'; use 'test' or 'validation'.")
    console = Console()
    count = set_threads(threads)
    _say(console, f"aced demo on {count} thread{'s' * (count > 1)}; results go to {out}")
    scale = QUICK if quick else FULL
    results = run_demo(out, methods=methods, seeds=seeds, scale=scale, console=console, split=split)
    console.print()
    console.print(results_table(results))
    for sentence in results["summary"]:
        _say(console, sentence)
    if quick:
        _say(console, "This was a quick look: far too short for the differences to mean anything.")
    _say(console, f"Report: {out / 'report.html'}   Figures: {out / 'results.json'}")


@app.command()
def train(
    config: Annotated[str, typer.Argument(help="A TOML file, or the name of a recipe; see 'aced recipes'.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[section.key=value]...", help="Keys that differ from the file's."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the newest checkpoint in run.out.")] = False,
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
    from aced.train.program import train_program

    train_program(load_config(config, overrides or []), Console(), resume=resume)


@app.command("eval")
def evaluate(
    model: Annotated[
        str | None,
        typer.Argument(help="A run folder, an exported model's folder, or an open_clip name.", show_default=False),
    ] = None,
    more: Annotated[list[str] | None, typer.Argument(metavar="[DIR]...", help="More of --data.")] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(metavar="DIR", help="A task folder, a folder of such, or 'scenes' for the built-in tasks."),
    ] = None,
    checkpoint: Annotated[str, typer.Option(help="Local weights for an open_clip name or JSON config.")] = "",
    out: Annotated[
        Path | None, typer.Option(help="Folder of the results; default: 'eval' in the run.", show_default=False)
    ] = None,
    prompts: Annotated[
        str, typer.Option(help="'clip': templates as they are; 'siglip': lower case, no punctuation.")
    ] = "clip",
    precision: Annotated[str, typer.Option(help="'fp32' or 'bf16' (autocast).")] = "fp32",
    device: Annotated[str, typer.Option(help="'auto', 'cpu', 'cuda', ...")] = "auto",
    micro_batch: Annotated[int, typer.Option(min=1, help="Images or texts embedded at a time.")] = 256,
    cache: Annotated[
        Path | None, typer.Option(help="Folder of cached embeddings; default: in the results.", show_default=False)
    ] = None,
    compare: Annotated[
        tuple[Path, Path] | None,
        typer.Option(metavar="A.json B.json", help="Compare two evaluations instead.", show_default=False),
    ] = None,
) -> None:
    """Score a model on zero-shot tasks, or compare two scored models; the same command goes on after an interruption.

    Examples:

      aced eval runs/first --data scenes

      aced eval runs/first --data eval/ other/wds_cars

      aced eval ViT-B-32 --checkpoint vit_b_32.safetensors --data eval/ --out eval-b32

      aced eval --compare runs/a/eval/eval.json runs/b/eval/eval.json
    """
    from rich.console import Console

    from aced.startup import uncollected

    with uncollected():
        from aced.harness.program import eval_command

    words: dict[str, Any] = {
        "data": [*(data or []), *(more or [])],
        "prompts": prompts,
        "precision": precision,
        "device": device,
    }
    words |= {"checkpoint": checkpoint, "out": out, "micro_batch": micro_batch, "cache": cache}
    failed = eval_command(model, compare, words, Console())
    for task, sentence in failed.items():
        sys.stderr.write(f"aced: {task} failed: {sentence}\n")
    if failed:
        raise typer.Exit(1)


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="Run folders, or the folder of a demo.")],
    out: Annotated[Path | None, typer.Option(help="The page; default: report.html in the first folder.")] = None,
) -> None:
    """Write one self-contained HTML page about one or more finished runs.

    Example:

      aced report runs/photos-iid runs/photos-aced --out photos.html
    """
    from rich.console import Console

    from aced.report import load_results, load_run, results_table, write_report
    from aced.report.records import results_of

    console = Console()
    folder = runs[0]
    if len(runs) == 1 and (folder / "demo.json").is_file():
        results = load_results(folder / "results.json")
        records = [load_run(folder / row["run"]) for row in results["rows"]]
    else:
        records = [load_run(run) for run in runs]
        results = results_of(records)
    page = write_report(out or folder / "report.html", results, records)
    console.print(results_table(results))
    _say(console, f"Report: {page}")


@app.command()
def methods() -> None:
    """List the methods of curation and distillation, and the longer rows of the demo.

    Example:

      aced methods
    """
    from rich.console import Console
    from rich.table import Table

    from aced.demo.recipe import ROWS
    from aced.methods import METHODS

    table = Table("Name", "Title", "What it does")
    for method in METHODS.values():
        table.add_row(method.name, method.title, method.about)
    table.add_section()
    for row in ROWS.values():
        if row.name not in METHODS:
            table.add_row(row.name, row.title, "demo only: a longer run")
    Console().print(table)


@app.command()
def recipes() -> None:
    """List the packaged recipes for 'aced train'; each file begins with how it is used.

    Example:

      aced recipes
    """
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from aced.config import recipes as packaged

    table = Table("Name", "What it does", "File")
    for name, path in packaged().items():
        first = path.read_text(encoding="utf-8").splitlines()[0]
        table.add_row(name, first.removeprefix("# "), escape(str(path)))
    Console().print(table)


@app.command()
def config() -> None:
    """Print every key of a run with its default and its meaning.

    Example:

      aced config
    """
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from aced.config import describe_keys

    table = Table("Key", "Default", "Meaning")
    for key, default, meaning in describe_keys():
        table.add_row(key, escape(default), escape(meaning))
    Console().print(table)


def _say(console: Any, text: str) -> None:
    """Print a line as it is: a path's brackets are no markup."""
    console.print(text, markup=False, highlight=False)


# The base of every usage error, found through typer's public name: typer has used click's own and a copy of it.
_UsageFault: Any = typer.BadParameter.__bases__[0].__bases__[0]


def main() -> NoReturn:
    """Entry point: a mistake of the user or a fault of the machine ends in one sentence and a status that is not 0."""
    try:
        status = app(prog_name="aced", standalone_mode=False)
    except AcedError as error:
        _fail(str(error), 2)
    except _UsageFault as fault:
        if len(sys.argv) < 2:  # no command: the help is the answer
            fault.show()
            sys.exit(fault.exit_code)
        context = getattr(fault, "ctx", None)
        command = context.command_path if context else "aced"
        _fail(f"{fault.format_message().rstrip('.')}; see '{command} --help'.", 2)
    except (KeyboardInterrupt, typer.Abort):
        status = 130
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        _fail(f"{where}{error.strerror or error}.", 1)
    except (MemoryError, RuntimeError) as error:
        if not (isinstance(error, MemoryError) or any(words in str(error) for words in _OUT_OF_MEMORY)):
            raise
        _fail("out of memory: lower train.batch, train.micro_batch or data.workers.", 1)
    if status == 130:  # also what newer versions of typer make of Ctrl-C
        hint = "; 'aced train ... --resume' goes on from the last checkpoint" if "train" in sys.argv[1:2] else ""
        hint = "; the same command goes on with the tasks that are left" if "eval" in sys.argv[1:2] else hint
        _fail(f"interrupted{hint}.", 130)
    sys.exit(status if isinstance(status, int) else 0)


_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "DefaultCPUAllocator: not enough memory")


def _fail(sentence: str, status: int) -> NoReturn:
    sys.stderr.write(f"aced: {sentence}\n")
    sys.exit(status)
