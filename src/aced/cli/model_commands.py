"""Commands about one model: eval, embed, export, latency."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from aced.cli.app import app
from aced.cli.path_words import as_path, as_place, as_place_or_none


@app.command("eval")
def evaluate(
    model: Annotated[
        str | None,
        typer.Argument(
            parser=as_place, help="A run or model folder, hf-hub:ORG/MODEL, or an open_clip name.", show_default=False
        ),
    ] = None,
    more: Annotated[
        list[str] | None, typer.Argument(metavar="[DIR]...", parser=as_place, help="More of --data.")
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(
            metavar="DIR", parser=as_place, help="A task folder, a folder of such, or 'scenes' for the built-in tasks."
        ),
    ] = None,
    checkpoint: Annotated[
        str,
        typer.Option(parser=as_place_or_none, help="Weights: a local file, or a tag of the name."),
    ] = "",
    out: Annotated[
        Path | None,
        typer.Option(parser=as_path, help="Folder of the results; default: 'eval' in the run.", show_default=False),
    ] = None,
    prompts: Annotated[
        str, typer.Option(help="'clip': templates as they are; 'siglip': lower case, no punctuation.")
    ] = "clip",
    precision: Annotated[
        str, typer.Option(help="'fp32', 'bf16', 'fp16'; 'auto': bf16 on a GPU that has it, else fp32.")
    ] = "auto",
    device: Annotated[str, typer.Option(help="'auto', 'cpu', 'cuda', ...")] = "auto",
    micro_batch: Annotated[int, typer.Option(min=1, help="Most images or texts embedded at a time.")] = 256,
    workers: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Processes that decode images; 0: the main one. Default: 0 on a CPU; with a GPU one less than there "
            "are cores, 1 to 8.",
            show_default=False,
        ),
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option(parser=as_path, help="Folder of cached embeddings; default: in the results.", show_default=False),
    ] = None,
    compare: Annotated[
        tuple[Path, Path] | None,
        typer.Option(
            metavar="A.json B.json", parser=as_path, help="Compare two evaluations instead.", show_default=False
        ),
    ] = None,
) -> None:
    """Score a model on zero-shot tasks, or compare two scored models; the same command goes on after an interruption.

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

    words: dict[str, Any] = {
        "data": [*(data or []), *(more or [])],
        "prompts": prompts,
        "precision": precision,
        "device": device,
    }
    words |= {"checkpoint": checkpoint, "out": out, "micro_batch": micro_batch, "cache": cache, "workers": workers}
    failed = eval_command(model, compare, words, Console())
    for task, sentence in failed.items():
        sys.stderr.write(f"aced: {task} failed: {sentence}\n")
    if failed:
        raise typer.Exit(1)


@app.command()
def embed(
    model: Annotated[
        str,
        typer.Argument(
            parser=as_place,
            help="A run's `model` folder, hf-hub:ORG/MODEL, or an open_clip name with --checkpoint.",
        ),
    ],
    shards: Annotated[
        list[str], typer.Argument(parser=as_place, help="Tars: files, folders, globs, {00000..00009} ranges.")
    ],
    out: Annotated[str, typer.Option(parser=as_place, help="Cache folder or its address, for reference.cache.")] = (
        "runs/cache"
    ),
    checkpoint: Annotated[
        str, typer.Option(parser=as_place_or_none, help="Weights: a local file, or a tag of the name.")
    ] = "",
    dtype: Annotated[str, typer.Option(help="float32, float16 or int8.")] = "float16",
    views: Annotated[int, typer.Option(help="K: the whole image and K - 1 crops, for data.views.")] = 1,
    caption: Annotated[str, typer.Option(help="Where captions are: txt, or json:FIELD.")] = "txt",
    caption_choice: Annotated[str, typer.Option(help="whole or first, as data.caption_choice.")] = "whole",
    decoding: Annotated[str, typer.Option(help="fast, exact or scaled, as data.decoding.")] = "fast",
    spool_dir: Annotated[
        str,
        typer.Option(
            parser=as_place_or_none,
            help="Folder that addresses are fetched to and gzip tars unpacked in; empty: refused.",
        ),
    ] = "",
    spool_gb: Annotated[float, typer.Option(help="Largest size of that folder, in 10^9 bytes.")] = 100.0,
    bad_tars: Annotated[
        str, typer.Option(help="At a damaged tar: stop, or skip what is damaged and read on behind it.")
    ] = "stop",
    micro_batch: Annotated[int, typer.Option(help="Pairs that are embedded at once.")] = 256,
    precision: Annotated[
        str, typer.Option(help="fp32, bf16, fp16; auto: bf16 on a GPU that has it, else fp32.")
    ] = "auto",
    workers: Annotated[int, typer.Option(help="Processes that read and decode ahead.")] = 0,
    device: Annotated[str, typer.Option(help="auto (CUDA where there is one), cpu, cuda, cuda:1, ...")] = "auto",
    threads: Annotated[int, typer.Option(min=0, max=1024, help="CPU threads; 0 measures what is quickest.")] = 0,
    index_dir: Annotated[
        str,
        typer.Option(
            parser=as_place_or_none, help="Folder for indexes of the tars; auto: a cache of the user; empty: none."
        ),
    ] = "auto",
    share: Annotated[str, typer.Option(help="I/N: this process's share of the tars, I from 0; for job arrays.")] = "",
    ray: Annotated[int, typer.Option(min=0, help="Embed with so many Ray actors, on one machine or a cluster.")] = 0,
) -> None:
    """Embed a pool once with a frozen model: a side-car for each tar, which 'aced train' looks up.

    It says what it will store before it starts. Killed, it goes on where it was; run again, it makes what is missing.

    Examples:

      aced embed runs/photos-reference/model data/pool

      aced embed ViT-B-32 'data/pool/{00000..00010}.tar' --checkpoint laion2b_s34b_b79k --dtype int8 --out runs/cache

      torchrun --standalone --nproc-per-node 8 --no-python aced embed runs/photos-reference/model data/pool
    """
    from rich.console import Console

    from aced.cache.job import EmbedJob
    from aced.cache.making import EmbedSettings
    from aced.programs.embed import embed_program
    from aced.runtime.precision import check_precision

    job = EmbedJob(
        model=model,
        checkpoint=checkpoint,
        cache=out,
        settings=EmbedSettings(dtype, views, micro_batch, workers),
        precision=check_precision(precision),
        caption=caption,
        caption_choice=caption_choice,
        decoding=decoding,
        bad_tars=cast(Any, bad_tars),
        spool_dir=spool_dir,
        spool_gb=spool_gb,
        index_dir=index_dir,
        device=device,
        threads=threads,
    )
    embed_program(job, shards, Console(), share=share, actors=ray)


@app.command()
def export(
    run: Annotated[
        str, typer.Argument(parser=as_place, help="A run or model folder, hf-hub:ORG/MODEL, or an open_clip name.")
    ],
    dest: Annotated[Path, typer.Argument(parser=as_path, help="A new folder.")],
    form: Annotated[str, typer.Option("--format", help="open_clip, transformers or onnx.")] = "open_clip",
    checkpoint: Annotated[
        str, typer.Option(parser=as_place_or_none, help="Weights: a local file, or a tag of the name.")
    ] = "",
) -> None:
    """Write a model as another program reads it, with a model card; checked against the model before it is there.

    Examples:

      aced export runs/first exported

      aced export ViT-B-32 for-transformers --checkpoint laion2b_s34b_b79k --format transformers
    """
    from rich.console import Console

    from aced.programs.export import export_program

    export_program(run, dest, form, checkpoint, Console())


@app.command()
def latency(
    models: Annotated[
        list[str],
        typer.Argument(
            parser=as_place, help="Run or model folders, open_clip names (random weights take as long), configs."
        ),
    ],
    out: Annotated[Path, typer.Option(parser=as_path, help="Folder of the results.")] = Path("runs/latency"),
    batch: Annotated[list[int] | None, typer.Option(min=1, help="Samples of a call; repeatable. [1 and 8]")] = None,
    threads: Annotated[list[int] | None, typer.Option(min=1, max=1024, help="CPU threads; repeatable. [1]")] = None,
    runtime: Annotated[
        list[str] | None,
        typer.Option(help="eager, compiled, onnx or int8 (onnxruntime); repeatable. [eager]", show_default=False),
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Turns that each case has, all cases one after the other.")] = 5,
    seconds: Annotated[float, typer.Option(min=0.0, help="Length of a turn.")] = 0.5,
    device: Annotated[str, typer.Option(help="'auto', 'cpu', 'cuda', ...")] = "auto",
    data: Annotated[
        list[str] | None,
        typer.Option(
            metavar="DIR",
            parser=as_place,
            help="Tasks, or 'scenes', that models with trained weights are scored on by each runtime; repeatable.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Time the image and the text tower of models on this device, beside parameters, multiply-adds and size.

    Examples:

      aced latency runs/first ViT-B-32 --batch 1

      aced latency aced-demo-s aced-demo-l --runtime eager --runtime onnx --runtime int8 --threads 1 --threads 2
    """
    from rich.console import Console

    from aced.programs.latency import LatencyOptions, latency_program

    options = LatencyOptions(
        models, out, batch or (1, 8), threads or (1,), runtime or ("eager",), rounds, seconds, device, data or ()
    )
    latency_program(options, Console())
