"""Numbers in readable form."""

from __future__ import annotations

import math

DASH = "–"
"""Stands for a missing value."""

_SUFFIXES = ("", "k", "M", "G", "T", "P", "E", "Z", "Y")


def compact(value: float) -> str:
    """Three significant digits and a decimal suffix.

    >>> [compact(v) for v in (0, 0.5, 950, 25_600, 999_700, 1.234e12, 5e21)]
    ['0', '0.5', '950', '25.6k', '1M', '1.23T', '5Z']
    """
    if not math.isfinite(value):
        return DASH
    step = 0
    while step < len(_SUFFIXES) - 1 and abs(float(f"{value:.3g}")) >= 1000:
        value, step = value / 1000, step + 1
    digits = f"{value:.3g}"
    if "e" in digits:
        digits = f"{value:.0f}" if abs(value) >= 1 else digits
    return digits + _SUFFIXES[step]


def duration(seconds: float) -> str:
    """Seconds as milliseconds, seconds, minutes or hours.

    >>> [duration(v) for v in (0.0042, 0.5, 36.14, 75, 750, 9000)]
    ['4.2 ms', '0.5 s', '36 s', '75 s', '12.5 min', '2.5 h']
    """
    if not math.isfinite(seconds):
        return DASH
    if seconds < 0.1:
        return f"{seconds * 1000:.2g} ms"
    if seconds < 120:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.3g} min"
    return f"{seconds / 3600:.3g} h"


def ratio(value: float) -> str:
    """A multiple of the baseline.

    >>> [ratio(v) for v in (1, 2.813, 12.34, 123.4)]
    ['1.00×', '2.81×', '12.3×', '123×']
    """
    if not math.isfinite(value):
        return DASH
    digits = 2 if value < 10 else 1 if value < 100 else 0
    return f"{value:.{digits}f}×"


def signed(value: float) -> str:
    """A difference with one decimal and its sign (a true minus).

    >>> [signed(v) for v in (27.42, -3.0, 0.01)]
    ['+27.4', '−3.0', '0.0']
    """
    if not math.isfinite(value):
        return DASH
    text = f"{abs(value):.1f}"
    if text == "0.0":
        return text
    return ("+" if value > 0 else "−") + text


def budget_text(name: str, value: float) -> str:
    """A budget's absolute value: wall time as a duration, all others compact."""
    return duration(value) if name == "seconds" else compact(value)
