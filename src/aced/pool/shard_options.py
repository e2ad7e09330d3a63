"""The options of `open_shards`: its keywords, with types and defaults."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypedDict

from aced.pool.decoding import FAST
from aced.pool.fetch.spool import Spool
from aced.pool.tars.losttars import KnownTars
from aced.pool.tars.stock import Streaming


class ShardWords(TypedDict, total=False):
    """The keywords of `open_shards`, see `ShardOptions`."""

    caption: str
    caption_choice: str
    seed: int
    bad_tars: Literal["stop", "skip"]
    index_dir: Path | None
    spool: Spool | None
    apart: bool
    decoding: str
    kind_field: str
    whole: bool
    workers: int
    known: KnownTars | None
    streaming: Streaming | None
    hearsay: bool


@dataclass(frozen=True)
class ShardOptions:
    """What is read from the tars, and how; `open_shards` documents each option."""

    caption: str = "txt"
    caption_choice: str = "whole"
    seed: int = 0
    bad_tars: Literal["stop", "skip"] = "stop"
    index_dir: Path | None = None
    spool: Spool | None = None
    apart: bool = False
    decoding: str = FAST.name
    kind_field: str = ""
    whole: bool = True
    workers: int = 0
    known: KnownTars | None = None
    streaming: Streaming | None = None
    hearsay: bool = True
