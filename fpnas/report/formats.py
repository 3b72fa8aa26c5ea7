"""Numbers as people read them."""

from __future__ import annotations

import math

MISSING = "-"


def _is_missing(value: float | None) -> bool:
    return value is None or not math.isfinite(value)


def format_macs(macs: float | None) -> str:
    """Multiply-accumulates: ``812 k``, ``58.1 M``, ``0.39 G``.

    Giga from 300 M on, so that the paper's small models read in M and its large ones in G.
    """
    if macs is None or _is_missing(macs):
        return MISSING
    if macs >= 299.5e6:
        return f"{macs / 1e9:.2f} G"
    if macs >= 99.95e6:
        return f"{macs / 1e6:.0f} M"
    if macs >= 999.5e3:
        return f"{macs / 1e6:.1f} M"
    return f"{macs / 1e3:.0f} k" if macs >= 1000 else f"{macs:.0f}"


def format_count(count: float | None) -> str:
    """A number of things: exact below a million (``54,312``), else ``5.91 M``, ``1.20 G``."""
    if count is None or _is_missing(count):
        return MISSING
    if count >= 999.995e6:
        return f"{count / 1e9:.2f} G"
    return f"{count / 1e6:.2f} M" if count >= 1e6 else f"{count:,.0f}"


def format_seconds(seconds: float | None) -> str:
    """A duration in its two largest units: ``0.4 s``, ``3 min 12 s``, ``2 h 5 min``."""
    if seconds is None or _is_missing(seconds):
        return MISSING
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    total = round(seconds)
    if total < 60:
        return f"{total} s"
    if total < 3600:
        return f"{total // 60} min {total % 60} s"
    minutes = round(seconds / 60)
    if minutes < 24 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    hours = round(seconds / 3600)
    return f"{hours // 24} d {hours % 24} h"


def format_milliseconds(milliseconds: float | None) -> str:
    """A latency with three digits: ``0.812 ms``, ``12.3 ms``, ``240 ms``."""
    if milliseconds is None or _is_missing(milliseconds):
        return MISSING
    digits = max(0, 2 - math.floor(math.log10(milliseconds))) if milliseconds > 0 else 0
    return f"{milliseconds:.{min(digits, 3)}f} ms"


def format_percent(fraction: float | None, *, digits: int = 1) -> str:
    """A fraction as percent: 0.953 is ``95.3 %``."""
    if fraction is None or _is_missing(fraction):
        return MISSING
    return f"{100 * fraction:.{digits}f} %"


def format_points(difference: float | None) -> str:
    """A difference of two fractions, in percentage points with its sign: ``+1.2 points``."""
    if difference is None or _is_missing(difference):
        return MISSING
    return f"{100 * difference:+.1f} points"
