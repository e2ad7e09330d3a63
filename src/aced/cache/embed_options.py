"""The options of `aced embed`, on the command line and from Python; plain data, and light to import."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from aced.runtime.declared_options import Checkpoint, IndexDir, Option, SpoolGigabytes, Threads, command_line
from aced.runtime.paths import expand_optional, expand_path


@dataclass(frozen=True)
class EmbedOptions:
    """What to embed, with which model, and how; plain data, so that it can be sent to another machine.

    Attributes:
        model, checkpoint: as in `load_tower`.
        shards: tars as `data.shards` names them.
        out: the cache folder, on a file system that all processes share, or its address.
        dtype, views, micro_batch, workers: see `EmbedSettings`.
        caption, caption_choice, decoding: what is embedded of each sample, see `open_shards`.
        spool_dir, spool_gb: folder for fetched tars and unpacked gzip tars (empty: such tars are refused), and its
            maximum size in 10^9 bytes.
        bad_tars: what to do about a damaged tar, see `open_shards`.
        precision: of the model; `auto` is decided where the model runs.
        device: of torch; `auto` is CUDA if the process has it.
        threads: CPU threads; with 0, `aced embed` measures which number is fastest, and Ray's actors keep torch's own.
        index_dir: folder of the tars' indexes, see `index_folder`.
        share: see `own_share`.
        ray: number of Ray actors; 0 embeds in this process.
        passing: whether tars at addresses leave the spool once they are embedded.
    """

    model: Annotated[
        str,
        Option(
            "A run's `model` folder, hf-hub:ORG/MODEL, or an open_clip name with --checkpoint.",
            argument=True,
            path=expand_path,
        ),
    ]
    shards: Annotated[
        Sequence[str],
        Option("Tars: files, folders, globs, {00000..00009} ranges.", argument=True, path=expand_path),
    ]
    out: Annotated[str, Option("Cache folder or its address, for reference.cache.", path=expand_path)] = "runs/cache"
    checkpoint: Checkpoint = ""
    dtype: Annotated[str, Option("float32, float16 or int8.")] = "float16"
    views: Annotated[int, Option("K: the whole image and K - 1 crops, for data.views.")] = 1
    caption: Annotated[str, Option("Member with the captions: txt, or json:FIELD.")] = "txt"
    caption_choice: Annotated[str, Option("whole or first, as data.caption_choice.")] = "whole"
    decoding: Annotated[str, Option("fast, exact or scaled, as data.decoding.")] = "fast"
    spool_dir: Annotated[
        str,
        Option("Folder for fetched and unpacked tars; empty: refuse them.", path=expand_optional),
    ] = ""
    spool_gb: SpoolGigabytes = 100.0
    bad_tars: Annotated[Literal["stop", "skip"], Option("If a tar is damaged: stop, or skip the damaged part.")] = (
        "stop"
    )
    micro_batch: Annotated[int, Option("Pairs per forward pass.")] = 256
    precision: Annotated[str, Option("fp32, bf16, fp16; auto: bf16 if the GPU supports it.")] = "auto"
    workers: Annotated[int, Option("Processes that read and decode ahead.")] = 0
    device: Annotated[str, Option("auto (CUDA if available), cpu, cuda, cuda:1, ...")] = "auto"
    threads: Threads = 0
    index_dir: IndexDir = "auto"
    share: Annotated[str, Option("I/N: this process's share of the tars, I from 0; for job arrays.")] = ""
    ray: Annotated[int, Option("Number of Ray actors, on one machine or a cluster.", least=0)] = 0
    passing: bool = False


def embed_command(options: EmbedOptions) -> str:
    """The equivalent shell command; it always contains the folder of the side-cars."""
    return command_line("aced embed", options, always=("out",))
