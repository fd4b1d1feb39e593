"""Numbers and lists of names as people read them."""

from __future__ import annotations

__all__ = ["count", "percent", "size"]

UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


def size(nbytes: int) -> str:
    """Return a number of bytes in decimal units, three digits: 94.9 MB."""
    value, unit = float(nbytes), 0
    while value >= 999.5 and unit < len(UNITS) - 1:
        value, unit = value / 1000, unit + 1
    return f"{nbytes} B" if unit == 0 else f"{value:.3g} {UNITS[unit]}"


def count(number: int) -> str:
    """Return a number with separators."""
    return f"{number:,}"


def percent(fraction: float) -> str:
    """Return a fraction as a percentage with two decimals."""
    return f"{100 * fraction:.2f} %"
