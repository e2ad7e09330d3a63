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
def embed(
    model: Annotated[str, typer.Argument(help="The `model` folder of a run, or an open_clip name with --checkpoint.")],
    shards: Annotated[list[str], typer.Argument(help="Tars: files, folders, globs, {00000..00009} ranges.")],
    out: Annotated[Path, typer.Option(help="Cache folder, for reference.cache.")] = Path("runs/cache"),
    checkpoint: Annotated[str, typer.Option(help="Local weights (.safetensors or .pt).")] = "",
    dtype: Annotated[str, typer.Option(help="float32, float16 or int8.")] = "float16",
    views: Annotated[int, typer.Option(help="K: the whole image and K - 1 crops, for data.views.")] = 1,
    caption: Annotated[str, typer.Option(help="Where captions are: txt, or json:FIELD.")] = "txt",
    bad_tars: Annotated[
        str, typer.Option(help="At a damaged tar: stop, or skip what is damaged and read on behind it.")
    ] = "stop",
    micro_batch: Annotated[int, typer.Option(help="Pairs that are embedded at once.")] = 256,
    workers: Annotated[int, typer.Option(help="Processes that read and decode ahead.")] = 0,
    device: Annotated[str, typer.Option(help="auto (CUDA where there is one), cpu, cuda, cuda:1, ...")] = "auto",
    threads: Annotated[int, typer.Option(min=0, max=1024, help="CPU threads; 0 measures what is quickest.")] = 0,
    index_dir: Annotated[str, typer.Option(help="Folder for indexes of the tars; empty: none are kept.")] = "",
    share: Annotated[str, typer.Option(help="I/N: this process's share of the tars, I from 0; for job arrays.")] = "",
    ray: Annotated[int, typer.Option(min=0, help="Embed with so many Ray actors, on one machine or a cluster.")] = 0,
) -> None:
    """Embed a pool once with a frozen model: a side-car for each tar, which 'aced train' looks up.

    It says what it will store before it starts. Killed, it goes on where it was; run again, it makes what is missing.

    Examples:

      aced embed runs/photos-reference/model data/pool

      aced embed ViT-B-32 'data/pool/{00000..00010}.tar' --checkpoint b32.safetensors --dtype int8 --out runs/cache

      torchrun --standalone --nproc-per-node 8 --no-python aced embed runs/photos-reference/model data/pool
    """
    from typing import cast

    from rich.console import Console

    from aced.data.embedding import Settings
    from aced.embed.job import Job
    from aced.embed.program import embed_program

    job = Job(
        model=model,
        checkpoint=checkpoint,
        cache=str(out),
        settings=Settings(dtype, views, micro_batch, workers),
        caption=caption,
        bad_tars=cast(Any, bad_tars),
        index_dir=index_dir,
        device=device,
        threads=threads,
    )
    embed_program(job, shards, Console(), share=share, actors=ray)


@app.command()
def lit(
    run: Annotated[str, typer.Argument(help="A run or model folder, or an architecture's name with --checkpoint.")],
    data: Annotated[
        list[str] | None,
        typer.Option(help="'scenes', a folder of easy-VQA, caption tars, or a retrieval task to test on; repeat it."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="A new folder; default: RUN/lit.", show_default=False)] = None,
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
        typer.Option(help="Folder of cached patch tokens; default: RUN/lit-cache.", show_default=False),
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="Weights, where RUN is an architecture's name.", show_default=False)
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

    from aced.lit.decoder import Shape
    from aced.lit.program import Options, lit_program
    from aced.lit.train import Settings
    from aced.threads import set_threads

    shape, settings = Shape(layers=layers, width=width), Settings(steps=steps, batch=batch, lr=lr)
    options = Options(shape, settings, seed, beams, where, split=split, cache=cache, checkpoint=checkpoint)
    set_threads(threads)
    lit_program(run, data or [], out, options, Console())


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="Run folders, or the folder of a demo.")],
    out: Annotated[Path | None, typer.Option(help="The page; default: report.html in the first folder.")] = None,
    stable: Annotated[
        Path | None,
        typer.Option(
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
    from aced.report.records import results_of
    from aced.report.stability_page import read_stability

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
    _say(console, f"Report: {page}")


@app.command()
def stable(
    results: Annotated[
        list[Path], typer.Argument(help="Run folders, a demo's folder, results.json, eval_results.jsonl or CSV tables.")
    ],
    out: Annotated[
        Path, typer.Option(help="The JSON; the page with the figure is written beside it, as .html.")
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
        Path | None, typer.Option(help="CSV (task,n,chance) or JSON with what the tables do not say.")
    ] = None,
    rank: Annotated[
        list[Path] | None, typer.Option(help="Rank these models, in the place of those of RESULTS; repeatable.")
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
    from aced.report.stability import stable_program

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
