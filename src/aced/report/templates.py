"""The pages' templates and the style that they share."""

from __future__ import annotations

from pathlib import Path

import jinja2
from markupsafe import Markup

from aced.report.numbers import DASH

_FOLDER = Path(__file__).parent


def environment(*further: Path) -> jinja2.Environment:
    """Escapes inserted text, and refuses template names without a value; `further` template folders."""
    found = jinja2.Environment(
        loader=jinja2.FileSystemLoader([_FOLDER, *further]),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    found.filters["points"] = lambda value, digits=2: DASH if value is None else f"{100 * value:.{digits}f}"
    found.filters["tail"] = lambda p: DASH if p is None else "< 1e-16" if p < 1e-16 else f"{p:.2g}"
    return found


def stylesheet() -> Markup:
    """The style of all pages."""
    return Markup((_FOLDER / "page.css").read_text(encoding="utf-8"))
