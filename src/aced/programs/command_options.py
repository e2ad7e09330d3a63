"""The options of commands about models, pools and scores; light, because the command line imports it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from aced.runtime.declared_options import Checkpoint, IndexDir, Option, SpoolGigabytes
from aced.runtime.paths import expand_optional, expand_path


@dataclass(frozen=True)
class EvalOptions:
    """The options of `aced eval`.

    Attributes:
        model: see `open_model`; None with `compare`.
        more: further entries of `data`.
        data: task folders, folders of them, `scenes` or `scenes:validation`.
        checkpoint: weights, see `open_model`.
        out: folder of the results; None for `default_folder`.
        prompts: prompt policy.
        precision: of the model; `auto` as `train.precision`.
        device: see `open_model`.
        micro_batch: images or texts embedded at a time.
        workers: processes that decode images; None for a run's default.
        cache: folder of cached embeddings; None for one in `out`.
        compare: two result files to compare; nothing is scored then.
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
    more: Annotated[Sequence[str], Option("Further --data.", argument=True, metavar="[DIR]...", path=expand_path)] = ()
    data: Annotated[
        Sequence[str],
        Option("A task folder, a folder of task folders, or 'scenes' (built in).", metavar="DIR", path=expand_path),
    ] = ()
    checkpoint: Checkpoint = ""
    out: Annotated[
        Path | None,
        Option("Folder for results; default: eval/ in the run, otherwise eval-MODEL/.", show_default=False),
    ] = None
    prompts: Annotated[str, Option("'clip': templates unchanged; 'siglip': lower case, no punctuation.")] = "clip"
    precision: Annotated[str, Option("'fp32', 'bf16', 'fp16'; 'auto': bf16 if the GPU supports it.")] = "auto"
    device: Annotated[str, Option("'auto', 'cpu', 'cuda', ...")] = "auto"
    micro_batch: Annotated[int, Option("Number of images or texts per forward pass.", least=1)] = 256
    workers: Annotated[
        int | None,
        Option(
            "Processes that decode images; 0: the main one. Default: 0 on a CPU; with a GPU one fewer than the number "
            "of cores, 1 to 8.",
            least=0,
            show_default=False,
        ),
    ] = None
    cache: Annotated[Path | None, Option("Folder of cached embeddings; default: in --out.", show_default=False)] = None
    compare: Annotated[
        tuple[Path, Path] | None,
        Option("Compare two evaluations instead.", metavar="A.json B.json", show_default=False),
    ] = None


@dataclass(frozen=True)
class ExportOptions:
    """The options of `aced export`.

    Attributes:
        run: see `open_model`.
        dest: the folder to write; new or empty.
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
    """The options of `aced latency`.

    Attributes:
        models: see `load_tower`; a model without weights gets random ones, which take the same time.
        out: folder of the results.
        batches: samples per call.
        threads: CPU threads.
        runtimes: names of `RUNTIMES`.
        rounds, seconds: see `measure`.
        device: what torch calls it, or `auto`.
        data: tasks that each runtime scores each model with trained weights on.
    """

    models: Annotated[
        Sequence[str],
        Option(
            "Run or model folders, open_clip names (with random weights, as fast), or configs.",
            argument=True,
            path=expand_path,
        ),
    ]
    out: Annotated[Path, Option("Folder for the results.")] = Path("runs/latency")
    batches: Annotated[Sequence[int], Option("Samples per call; repeatable; default 1, 8.", name="batch", least=1)] = (
        1,
        8,
    )
    threads: Annotated[Sequence[int], Option("CPU threads; repeatable; default 1.", least=1, most=1024)] = (1,)
    runtimes: Annotated[
        Sequence[str],
        Option(
            "eager, compiled, onnx or int8 (onnxruntime); repeatable; default eager.",
            name="runtime",
            show_default=False,
        ),
    ] = ("eager",)
    rounds: Annotated[int, Option("Rounds; each times all cases in turn.", least=1)] = 5
    seconds: Annotated[float, Option("Seconds that each case runs per round.", least=0.0)] = 0.5
    device: Annotated[str, Option("'auto', 'cpu', 'cuda', ...")] = "auto"
    data: Annotated[
        Sequence[str],
        Option(
            "Tasks, or 'scenes', to score models with trained weights on, by each runtime; repeatable.",
            metavar="DIR",
            path=expand_path,
            show_default=False,
        ),
    ] = ()


@dataclass(frozen=True)
class IndexOptions:
    """The options of `aced index`.

    Attributes:
        shards: tars as `data.shards` names them.
        out: a file for the manifest, to name in `data.shards`; None for none.
        index_dir: see `index_folder`.
        spool_dir, spool_gb: folder for fetched tars and unpacked gzip tars (empty: such tars are refused), and its
            maximum size in 10^9 bytes.
        workers: processes that read headers; 0 starts one per core.
    """

    shards: Annotated[
        Sequence[str],
        Option("Tars, as data.shards names them.", argument=True, metavar="POOL...", path=expand_path),
    ]
    out: Annotated[Path | None, Option("File for the manifest, to name in data.shards.", show_default=False)] = None
    index_dir: IndexDir = "auto"
    spool_dir: Annotated[str, Option("For fetched and unpacked tars; empty: refuse them.", path=expand_optional)] = ""
    spool_gb: SpoolGigabytes = 100.0
    workers: Annotated[int, Option("Processes that read headers; 0: one per core.", least=0)] = 0


@dataclass(frozen=True)
class StableOptions:
    """The options of `aced stable`.

    Attributes:
        results: tables of scores, see `read_scores`.
        out: the JSON; the page has the same name with `.html`.
        recipe_column, repeat_pattern, ignore, missing, percent: how to read the tables, see `layout_of`.
        facts: n and chance of the tasks, if the tables lack them.
        rank: rows to rank instead of those in `results`.
        alpha, least, resamples: how tasks are chosen, see `Rules`; `least` = 0 means half of the tasks above chance.
    """

    results: Annotated[
        Sequence[Path],
        Option("Run folders, a demo's folder, results.json, eval_results.jsonl or CSV tables.", argument=True),
    ]
    out: Annotated[Path, Option("JSON to write; the page (.html) goes beside it.")] = Path("runs/stable.json")
    recipe_column: Annotated[Sequence[str], Option("CSV column that names the recipe; repeatable.")] = ()
    repeat_pattern: Annotated[
        str, Option("Regex for the part of a row's name that differs between repeats of a recipe.")
    ] = ""
    ignore: Annotated[Sequence[str], Option("Task or CSV column to leave out; * and ? are wildcards; repeatable.")] = ()
    facts: Annotated[Path | None, Option("CSV (task,n,chance) or JSON with n and chance of the tasks.")] = None
    rank: Annotated[Sequence[Path], Option("Rank these models instead of those in RESULTS; repeatable.")] = ()
    missing: Annotated[str, Option("If scores are missing: 'stop', or omit their 'tasks' or 'rows'.")] = "stop"
    percent: Annotated[bool, Option("The tables are in percent.")] = False
    alpha: Annotated[float, Option("Probability of keeping any task at chance level.")] = 0.05
    least: Annotated[int, Option("Minimum number of tasks; 0: half of those above chance.", least=0)] = 0
    resamples: Annotated[int, Option("Bootstrap resamples of the seeds.", least=0)] = 2000
