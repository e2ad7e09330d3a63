"""What the commands about models, pools and scores can be asked for; light, so that the command line may read it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from aced.runtime.declared_options import Checkpoint, IndexDir, Option, SpoolGigabytes
from aced.runtime.paths import expand_optional, expand_path


@dataclass(frozen=True)
class EvalOptions:
    """What `aced eval` was asked for.

    Attributes:
        model: see `open_model`; None with `compare`.
        more: more of `data`.
        data: task folders, folders of them, `scenes` or `scenes:validation`.
        checkpoint: weights, see `open_model`.
        out: folder of the results; None for `default_folder`.
        prompts: prompt policy.
        precision: of the model; `auto` as `train.precision`.
        device: see `open_model`.
        micro_batch: images or texts embedded at a time.
        workers: processes that decode images; None for as many as a run would have.
        cache: folder of cached embeddings; None for one in `out`.
        compare: two files of results that are compared; nothing is scored then.
    """

    model: Annotated[
        str | None,
        Option(
            "A run or model folder, hf-hub:ORG/MODEL, or an open_clip name.",
            argument=True,
            path=expand_path,
            show_default=False,
        ),
    ] = None
    more: Annotated[Sequence[str], Option("More of --data.", argument=True, metavar="[DIR]...", path=expand_path)] = ()
    data: Annotated[
        Sequence[str],
        Option("A task folder, a folder of such, or 'scenes' for the built-in tasks.", metavar="DIR", path=expand_path),
    ] = ()
    checkpoint: Checkpoint = ""
    out: Annotated[Path | None, Option("Folder of the results; default: 'eval' in the run.", show_default=False)] = None
    prompts: Annotated[str, Option("'clip': templates as they are; 'siglip': lower case, no punctuation.")] = "clip"
    precision: Annotated[str, Option("'fp32', 'bf16', 'fp16'; 'auto': bf16 on a GPU that has it, else fp32.")] = "auto"
    device: Annotated[str, Option("'auto', 'cpu', 'cuda', ...")] = "auto"
    micro_batch: Annotated[int, Option("Most images or texts embedded at a time.", least=1)] = 256
    workers: Annotated[
        int | None,
        Option(
            "Processes that decode images; 0: the main one. Default: 0 on a CPU; with a GPU one less than there "
            "are cores, 1 to 8.",
            least=0,
            show_default=False,
        ),
    ] = None
    cache: Annotated[
        Path | None, Option("Folder of cached embeddings; default: in the results.", show_default=False)
    ] = None
    compare: Annotated[
        tuple[Path, Path] | None,
        Option("Compare two evaluations instead.", metavar="A.json B.json", show_default=False),
    ] = None


@dataclass(frozen=True)
class ExportOptions:
    """What `aced export` was asked for.

    Attributes:
        run: see `open_model`.
        dest: where to; not there yet, or an empty folder.
        format: one of `aced.programs.export.FORMATS`.
        checkpoint: weights, see `open_model`.
    """

    run: Annotated[
        str,
        Option("A run or model folder, hf-hub:ORG/MODEL, or an open_clip name.", argument=True, path=expand_path),
    ]
    dest: Annotated[Path, Option("A new folder.", argument=True)]
    format: Annotated[str, Option("open_clip, transformers or onnx.")] = "open_clip"
    checkpoint: Checkpoint = ""


@dataclass(frozen=True)
class LatencyOptions:
    """What `aced latency` was asked for.

    Attributes:
        models: see `load_tower`; a model without weights gets random ones, which take as long.
        out: folder of the results.
        batches: samples of a call.
        threads: CPU threads.
        runtimes: names of `RUNTIMES`.
        rounds, seconds: see `measure`.
        device: what torch calls it, or `auto`.
        data: tasks that each model with trained weights is scored on by each runtime.
    """

    models: Annotated[
        Sequence[str],
        Option(
            "Run or model folders, open_clip names (random weights take as long), configs.",
            argument=True,
            path=expand_path,
        ),
    ]
    out: Annotated[Path, Option("Folder of the results.")] = Path("runs/latency")
    batches: Annotated[Sequence[int], Option("Samples of a call; repeatable. [1 and 8]", name="batch", least=1)] = (
        1,
        8,
    )
    threads: Annotated[Sequence[int], Option("CPU threads; repeatable. [1]", least=1, most=1024)] = (1,)
    runtimes: Annotated[
        Sequence[str],
        Option("eager, compiled, onnx or int8 (onnxruntime); repeatable. [eager]", name="runtime", show_default=False),
    ] = ("eager",)
    rounds: Annotated[int, Option("Turns that each case has, all cases one after the other.", least=1)] = 5
    seconds: Annotated[float, Option("Length of a turn.", least=0.0)] = 0.5
    device: Annotated[str, Option("'auto', 'cpu', 'cuda', ...")] = "auto"
    data: Annotated[
        Sequence[str],
        Option(
            "Tasks, or 'scenes', that models with trained weights are scored on by each runtime; repeatable.",
            metavar="DIR",
            path=expand_path,
            show_default=False,
        ),
    ] = ()


@dataclass(frozen=True)
class IndexOptions:
    """What is indexed, and where to.

    Attributes:
        shards: tars as `data.shards` names them.
        out: a file for the manifest, to be named in `data.shards`; None for none.
        index_dir: see `index_folder`.
        spool_dir, spool_gb: where addresses are fetched to and gzip tars unpacked (empty: refused), and 10^9 bytes
            that this folder may take.
        workers: processes that read headers; 0 takes one for each core.
    """

    shards: Annotated[
        Sequence[str],
        Option("Tars, as data.shards names them.", argument=True, metavar="POOL...", path=expand_path),
    ]
    out: Annotated[Path | None, Option("A file for the manifest, to be named in data.shards.", show_default=False)] = (
        None
    )
    index_dir: IndexDir = "auto"
    spool_dir: Annotated[str, Option("Folder for fetched and unpacked tars; empty: refused.", path=expand_optional)] = (
        ""
    )
    spool_gb: SpoolGigabytes = 100.0
    workers: Annotated[int, Option("Processes that read headers; 0: one for each core.", least=0)] = 0


@dataclass(frozen=True)
class StableOptions:
    """What `aced stable` was asked for.

    Attributes:
        results: tables of scores, see `read_scores`.
        out: the JSON; the page has the same name with `.html`.
        recipe_column, repeat_pattern, ignore, missing, percent: how the tables are to be understood, see `layout_of`.
        facts: n and chance of the tasks, where the tables lack them.
        rank: rows to rank instead of those of `results`.
        alpha, least, resamples: how tasks are chosen, see `Rules`; 0 for `least` is half of the tasks above chance.
    """

    results: Annotated[
        Sequence[Path],
        Option("Run folders, a demo's folder, results.json, eval_results.jsonl or CSV tables.", argument=True),
    ]
    out: Annotated[Path, Option("The JSON; the page with the figure is written beside it, as .html.")] = Path(
        "runs/stable.json"
    )
    recipe_column: Annotated[
        Sequence[str], Option("CSV column that names the recipe; may be given several times.")
    ] = ()
    repeat_pattern: Annotated[
        str, Option("Regular expression for what differs in the names of rows that repeat one recipe.")
    ] = ""
    ignore: Annotated[Sequence[str], Option("Task or CSV column to leave out; * and ? are wildcards; repeatable.")] = ()
    facts: Annotated[Path | None, Option("CSV (task,n,chance) or JSON with what the tables do not say.")] = None
    rank: Annotated[Sequence[Path], Option("Rank these models, instead of those of RESULTS; repeatable.")] = ()
    missing: Annotated[str, Option("What missing scores do: 'stop', or leave out such 'tasks' or 'rows'.")] = "stop"
    percent: Annotated[bool, Option("The tables are in percent.")] = False
    alpha: Annotated[float, Option("Probability of keeping any task that is at chance.")] = 0.05
    least: Annotated[int, Option("Fewest tasks to keep; 0: half of those above chance, rounded up.", least=0)] = 0
    resamples: Annotated[int, Option("Bootstrap resamples of the seeds.", least=0)] = 2000
