"""The page of `aced stable`: one HTML file with the table and both charts inside."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from aced.data.atomic import write_atomic
from aced.evaluate.stability.stable import Stability
from aced.report.numbers import DASH
from aced.report.stability_charts import COLOURS, curve_chart, sigma_chart

_FOLDER = Path(__file__).parent
_MEANINGS = {
    "kept": "in the stable average",
    "noisy": "above chance, but it would raise the average's spread",
    "chance": "not significantly above chance",
}


def write_stability_page(out: Path, found: Stability, sentences: Sequence[str], record: dict[str, Any]) -> Path:
    """Write the page and return its path.

    Args:
        out: the file.
        found: what was chosen.
        sentences: what was found, in words.
        record: what was written as JSON; its provenance is shown.

    Raises:
        AcedError: the page cannot be written.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["points"] = lambda value, digits=2: DASH if value is None else f"{100 * value:.{digits}f}"
    page = environment.get_template("stability.html").render(
        css=Markup((_FOLDER / "page.css").read_text(encoding="utf-8")),
        found=found,
        sentences=sentences,
        curve=Markup(curve_chart(found)),
        sigmas=Markup(sigma_chart(found.tasks)),
        legend=[(COLOURS[verdict], verdict, meaning) for verdict, meaning in _MEANINGS.items()],
        record=record,
        dash=DASH,
    )
    write_atomic(out, page)
    return out
