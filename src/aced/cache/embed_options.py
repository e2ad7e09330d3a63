"""What `aced embed` can be asked for, by the command line and from Python; plain data, and light to import."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from aced.runtime.declared_options import Checkpoint, IndexDir, Option, SpoolGigabytes, Threads, command_line
from aced.runtime.paths import expand_optional, expand_path


@dataclass(frozen=True)
class EmbedOptions:
    """What is embedded, by what, and how; plain data, so that it can be sent to another machine.

    Attributes:
        model, checkpoint: as in `load_tower`.
        shards: tars as `data.shards` names them.
        out: the cache folder, on a file system that all processes see, or its address.
        dtype, views, micro_batch, workers: see `EmbedSettings`.
        caption, caption_choice, decoding: what is embedded of each sample, see `open_shards`.
        spool_dir, spool_gb: where addresses are fetched to and gzip tars unpacked (empty: refused), and 10^9 bytes
            that this folder may take.
        bad_tars: what a damaged tar does, see `open_shards`.
        precision: of the model; `auto` is decided where the model is.
        device: of torch; `auto` is CUDA where the process has it.
        threads: CPU threads; 0 measures what is quickest.
        index_dir: where indexes of the tars are kept, see `index_folder`.
        share: see `own_share`.
        ray: Ray's actors; 0 embeds in this process.
        passing: whether tars at addresses leave the spool again when they have been embedded.
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
    caption: Annotated[str, Option("Where captions are: txt, or json:FIELD.")] = "txt"
    caption_choice: Annotated[str, Option("whole or first, as data.caption_choice.")] = "whole"
    decoding: Annotated[str, Option("fast, exact or scaled, as data.decoding.")] = "fast"
    spool_dir: Annotated[
        str,
        Option("Folder that addresses are fetched to and gzip tars unpacked in; empty: refused.", path=expand_optional),
    ] = ""
    spool_gb: SpoolGigabytes = 100.0
    bad_tars: Annotated[
        Literal["stop", "skip"], Option("At a damaged tar: stop, or skip what is damaged and read on behind it.")
    ] = "stop"
    micro_batch: Annotated[int, Option("Pairs that are embedded at once.")] = 256
    precision: Annotated[str, Option("fp32, bf16, fp16; auto: bf16 on a GPU that has it, else fp32.")] = "auto"
    workers: Annotated[int, Option("Processes that read and decode ahead.")] = 0
    device: Annotated[str, Option("auto (CUDA where there is one), cpu, cuda, cuda:1, ...")] = "auto"
    threads: Threads = 0
    index_dir: IndexDir = "auto"
    share: Annotated[str, Option("I/N: this process's share of the tars, I from 0; for job arrays.")] = ""
    ray: Annotated[int, Option("Embed with so many Ray actors, on one machine or a cluster.", least=0)] = 0
    passing: bool = False


def embed_command(options: EmbedOptions) -> str:
    """The words of a shell that embed so; where side-cars go is always among them."""
    return command_line("aced embed", options, always=("out",))
