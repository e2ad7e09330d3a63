"""The canvas of the page's charts: matplotlib figures that become inline SVG in the page's colours and font.

Colours are drawn as placeholders (`#0f1e..`) for CSS variables of the page, and replaced in the SVG text, so one
drawing serves the light and the dark theme. matplotlib is imported with the first chart; only `Figure` objects are
used, without pyplot's state, and a user's matplotlibrc has no effect.
"""

from __future__ import annotations

import functools
import io
import re
from collections.abc import Callable
from html import escape
from typing import TYPE_CHECKING, Any, ParamSpec

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Parameters = ParamSpec("Parameters")

SERIES = 9
"""Number of series colours of the page: `--s0` is the baseline's grey, the others are safe for colour-blind readers."""
KINDS = 8
"""Number of colours for kinds of pairs, `--k0` to `--k7`."""

_VARIABLES = [
    "ink",
    "muted",
    "grid",
    "card",
    *(f"s{i}" for i in range(SERIES)),
    *(f"k{i}" for i in range(KINDS)),
]
_MARK = r"#0f1e([0-9a-f]{2})"

FONT = 12
"""Size of all text, in the pixels of the drawing; the page scales drawings by about 0.8 to 1.2."""


def isolated(draw: Callable[Parameters, str]) -> Callable[Parameters, str]:
    """Draw with matplotlib's own defaults: a matplotlibrc that requests LaTeX would break the page."""

    @functools.wraps(draw)
    def wrapped(*args: Parameters.args, **kwargs: Parameters.kwargs) -> str:
        import matplotlib.style

        with matplotlib.style.context("default"):
            return draw(*args, **kwargs)

    return wrapped


def css(variable: str) -> str:
    """The placeholder for a CSS variable of the page: `ink`, `s3`, `k0`, ..."""
    return f"#0f1e{_VARIABLES.index(variable):02x}"


def new_figure(
    width: int, height: int, *, left: int, right: int, bottom: int, top: int = 10, grid: bool = True
) -> tuple[Figure, Axes]:
    """Sizes in CSS pixels (points at 72 dpi); the margins hold tick labels and names."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width / 72, height / 72), dpi=72)
    box = (left / width, bottom / height, (width - left - right) / width, (height - bottom - top) / height)
    axes = figure.add_axes(box)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(css("muted"))
    axes.spines["bottom"].set_linewidth(0.8)
    axes.tick_params(length=0, labelsize=FONT, labelcolor=css("muted"), pad=5)
    axes.tick_params(axis="y", pad=4)
    if grid:
        axes.grid(axis="y", color=css("grid"), linewidth=1)
    axes.set_axisbelow(True)
    return figure, axes


def put_text(
    axes: Axes,
    x: float,
    y: float,
    text: str,
    at: tuple[str, str],
    *,
    color: str,
    ha: str = "left",
    va: str = "baseline",
) -> None:
    """Text at a position in data units or in fractions of the axes, for each direction separately."""
    from matplotlib.transforms import blended_transform_factory

    systems = {"axes": axes.transAxes, "data": axes.transData}
    transform = blended_transform_factory(systems[at[0]], systems[at[1]])
    # Names come from users: a dollar sign is not the start of a formula.
    axes.text(
        x,
        y,
        text,
        transform=transform,
        color=css(color),
        ha=ha,
        va=va,
        fontsize=FONT,
        parse_math=False,
        clip_on=False,
    )


def set_ticks(axis: Any, unit: Callable[[float], str], most: int) -> None:
    """Round tick positions, at most `most` intervals, formatted by `unit`."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axis.set_major_locator(MaxNLocator(most, steps=[1, 2, 2.5, 5, 10]))
    axis.set_major_formatter(FuncFormatter(lambda value, _: unit(value)))


def plain(value: float) -> str:
    """A number unchanged, with a true minus."""
    return f"{value:.6g}".replace("-", "−")


def _variable(mark: re.Match[str]) -> str:
    return f"var(--{_VARIABLES[int(mark.group(1), 16)]})"


def to_svg(figure: Figure, title: str, salt: str = "") -> str:
    """The figure as an SVG element without metadata, own fonts, fixed size or unreferenced ids."""
    import matplotlib

    buffer = io.StringIO()
    # The salt makes ids reproducible and distinguishes those of different charts.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": salt or title}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", text, flags=re.DOTALL)
    text = re.sub(r"<path d=\"[^\"]*\" style=\"fill: none\"/>", "", text)
    text = text.replace("xlink:href", "href")
    used = set(re.findall(r"(?:url\(|href=\")#([\w.-]+)", text))
    text = re.sub(r' id="([^"]+)"', lambda m: m.group(0) if m.group(1) in used else "", text)
    text = re.sub(r"font-family: [^;\"]*;? ?", "", text)
    text = re.sub(r' transform="rotate\(-?0 [^)]*\)"', "", text)
    text = re.sub(r' (?:d|x|y)="[^"]*"', lambda m: re.sub(r"(\.\d\d)\d+", r"\1", m.group(0)), text)
    text = re.sub(r'style="[^"]*"', lambda m: re.sub(_MARK, _variable, m.group(0)), text)
    text = re.sub(r">\s+<", "><", text)
    size = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', text)
    assert size is not None
    name = f'role="img" aria-label="{escape(title)}"' if title else 'aria-hidden="true"'
    head = f'<svg viewBox="0 0 {size[1]} {size[2]}" {name} style="stroke-linejoin: round">'
    return head + text[text.index(">") + 1 :]
