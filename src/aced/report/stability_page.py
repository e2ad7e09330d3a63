"""The result of `aced stable` as a separate page, and as a panel of the report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from markupsafe import Markup
from pydantic import TypeAdapter, ValidationError

from aced.errors import AcedError
from aced.evaluate.stability.stable_tasks import Stability
from aced.files.atomic import write_atomic
from aced.report.findings import findings
from aced.report.numbers import DASH
from aced.report.stability_charts import COLOURS, curve_chart, sigma_chart
from aced.report.templates import environment, stylesheet

_MEANINGS = {
    "kept": "in the stable average",
    "noisy": "above chance, but it would raise the average's spread",
    "chance": "not significantly above chance",
}


def write_stability_page(out: Path, found: Stability, record: dict[str, Any]) -> Path:
    """Write the page and return its path.

    Args:
        out: the file.
        found: the choice.
        record: the content of the JSON; its provenance is shown.

    Raises:
        AcedError: the page cannot be written.
    """
    page = (
        environment()
        .get_template("stability.html")
        .render(css=stylesheet(), stability=stability_parts(found), record=record)
    )
    write_atomic(out, page)
    return out


def stability_parts(found: Stability) -> dict[str, Any]:
    """The templates' view of a choice of tasks."""
    return {
        "found": found,
        "sentences": findings(found),
        "curve": Markup(curve_chart(found)),
        "sigmas": Markup(sigma_chart(found.tasks)),
        "legend": [(COLOURS[verdict], verdict, meaning) for verdict, meaning in _MEANINGS.items()],
        "dash": DASH,
    }


def read_stability(path: Path) -> Stability:
    """The JSON that `aced stable` wrote.

    Raises:
        AcedError: there is no such file, or it is damaged or something else.
    """
    try:
        return TypeAdapter(Stability).validate_json(path.read_bytes())
    except FileNotFoundError:
        raise AcedError(f"There is no file {path}; 'aced stable RESULTS --out {path}' writes one.") from None
    except OSError as error:
        raise AcedError(f"{path} cannot be read ({error.strerror}); check its permissions.") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the whole"
        raise AcedError(
            f"{path} is not what 'aced stable' writes ({where}: {first['msg']}); name the JSON of its --out."
        ) from None
