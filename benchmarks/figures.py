"""A figure that was measured several times."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["Spread", "quartiles"]


@dataclass(frozen=True)
class Spread:
    """Median, smallest and largest of some figures."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, figures: Iterable[float]) -> Spread:
        """Summarise `figures`, of which there is at least one."""
        values = sorted(figures)
        return cls(statistics.median(values), values[0], values[-1])

    @classmethod
    def one(cls, figure: float) -> Spread:
        """Return a figure that was measured once or is counted."""
        return cls(figure, figure, figure)

    @property
    def inverse(self) -> Spread:
        """The spread of 1 over each figure."""
        return Spread(1 / self.median, 1 / self.high, 1 / self.low)

    def times(self, factor: float) -> Spread:
        """Return the spread of each figure times a positive factor."""
        return Spread(factor * self.median, factor * self.low, factor * self.high)


def quartiles(figures: Iterable[float]) -> Spread:
    """Return the median, and in place of smallest and largest the quartiles."""
    low, median, high = statistics.quantiles(figures, n=4, method="inclusive")
    return Spread(median, low, high)
