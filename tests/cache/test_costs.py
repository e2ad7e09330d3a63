"""The command that is suggested makes what is asked for, and sums count what was made."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer

from aced.cache.costs import embedding_cost
from aced.cache.embed_options import EmbedOptions, embed_command
from aced.cache.job import TarEmbedder
from aced.cache.survey import StoreInfo
from aced.errors import AcedError


def job(*tars: str, **options: Any) -> EmbedOptions:
    return EmbedOptions("ViT-B-32", list(tars), **options)


def test_the_command_of_a_plain_job_has_no_options() -> None:
    assert embed_command(job("a.tar", "b.tar")) == "aced embed ViT-B-32 a.tar b.tar --out runs/cache"


def test_the_command_can_be_pasted_into_a_shell() -> None:
    words = shlex.split(embed_command(job("pool/{0..9}.tar", "with space.tar", checkpoint="my weights.pt")))
    assert words[3:5] == ["pool/{0..9}.tar", "with space.tar"]
    assert words[-2:] == ["--checkpoint", "my weights.pt"]


def test_the_command_line_takes_every_option_and_gives_the_same_job(
    monkeypatch: pytest.MonkeyPatch, cli: Callable[..., Any]
) -> None:
    asked = job(
        "0.tar",
        "1.tar",
        dtype="int8",
        views=2,
        checkpoint="x.pt",
        caption="json:alt",
        caption_choice="first",
        decoding="exact",
        bad_tars="skip",
        spool_dir="spool",
        spool_gb=2.5,
    )
    seen: list[EmbedOptions] = []

    def noted(options: EmbedOptions, *_: Any) -> None:
        seen.append(options)
        raise typer.Exit

    monkeypatch.setattr("aced.programs.embed.embed_program", noted)
    cli(*shlex.split(embed_command(asked))[1:])
    assert seen == [asked]


def test_costs_are_summed_over_stores() -> None:
    one = StoreInfo("a", {}, 9, 8, 1, "float16", 1.0, 0.0, bytes=100, usable=7, faults={}, seconds=1.5, flops=2e9)
    two = StoreInfo("b", {}, 9, 8, 1, "float16", 1.0, 0.0, bytes=10, usable=9, faults={}, seconds=0.5, flops=1e9)
    assert embedding_cost([one, two]) == {"samples": 16, "seconds": 2.0, "flops": 3e9, "bytes": 110}
    assert embedding_cost([]) is None


def test_who_embeds_from_python_is_refused_a_model_that_knows_nothing(tmp_path: Path) -> None:
    with pytest.raises(AcedError, match=rf"^{re.escape('aced-demo-s')} .*weights"):
        TarEmbedder(EmbedOptions("aced-demo-s", [], str(tmp_path)))
