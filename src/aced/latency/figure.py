"""The figure of `aced latency`: multiply-adds against latency, one panel per tower."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

_MARKS = "osD^vPX"


def draw(rows: Sequence[dict[str, Any]], title: str) -> str:
    """An SVG of the rows of one batch and one number of threads: a mark per model, a series per runtime."""
    import matplotlib.style
    from matplotlib.figure import Figure

    with matplotlib.style.context("default"):
        figure = Figure(figsize=(10, 4.5), layout="constrained")
        runtimes = list(dict.fromkeys(row["runtime"] for row in rows))
        for axes, side in zip(figure.subplots(1, 2), ("image", "text"), strict=True):
            for number, runtime in enumerate(runtimes):
                own = [row for row in rows if row["tower"] == side and row["runtime"] == runtime]
                x = [row["multiply_adds"] / 1e9 for row in own]
                y = [1e3 * row["median"] for row in own]
                below = [1e3 * max(0.0, row["median"] - row["low"]) for row in own]
                above = [1e3 * max(0.0, row["high"] - row["median"]) for row in own]
                axes.errorbar(x, y, [below, above], fmt=_MARKS[number % len(_MARKS)], label=runtime, capsize=2)
                if number == 0:
                    for row, where in zip(own, zip(x, y, strict=True), strict=True):
                        axes.annotate(
                            row["model"], where, xytext=(5, 4), textcoords="offset points", fontsize=8, parse_math=False
                        )
            axes.set(
                xscale="log",
                yscale="log",
                title=f"{side} tower",
                xlabel="multiply-adds per sample, 10⁹",
                ylabel="latency, ms",
            )
            axes.margins(x=0.2)  # room for the names
            axes.tick_params(which="both", labelsize=7)
            axes.grid(alpha=0.3)
        figure.axes[0].legend()
        figure.suptitle(title, fontsize=10, parse_math=False)
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None})
    return out.getvalue()
