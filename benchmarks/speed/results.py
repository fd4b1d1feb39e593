"""What the benchmarks find, as plain records that go to JSON and come back."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["Claim", "Results", "Row", "Spread", "Timing", "load", "save"]


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


@dataclass(frozen=True)
class Timing:
    """One command over all its counted runs.

    Attributes:
        seconds: Wall time of the whole process.
        cpu: User and system seconds, median.
        peak: Largest resident set, bytes.
        read: Bytes the process asked to read, median; None where the system does not tell.
    """

    seconds: Spread
    cpu: float
    peak: int
    read: int | None


@dataclass(frozen=True)
class Row:
    """A command beside what it is compared with.

    Attributes:
        section: `bf16`, `fp32`, `growth`, `peers` or `start`.
        what: The command.
        against: What it is compared with.
        dtype: Dtype of the weights; empty where there are none.
        size: Bytes of the dense checkpoint.
        written: Bytes the command wrote.
        ours: The command.
        base: What it is compared with.
        ratio: Wall time over that of `base`, pair by pair.
        synced: Wall time over that of `cp` and an fsync of its output, pair by pair.
    """

    section: str
    what: str
    against: str
    dtype: str
    size: int
    written: int
    ours: Timing
    base: Timing
    ratio: Spread
    synced: Spread | None = None


@dataclass(frozen=True)
class Claim:
    """A goal and what was found.

    Attributes:
        dtype: Dtype of the weights; empty where there are none.
        what: What is measured.
        unit: Unit of the figures, such as `× cp`.
        found: The figures.
        goal: The bound.
        at_least: Whether the bound is a lower one.
    """

    dtype: str
    what: str
    unit: str
    found: Spread
    goal: float
    at_least: bool = False

    @property
    def met(self) -> bool:
        """Whether the median meets the goal."""
        median = self.found.median
        return median >= self.goal if self.at_least else median <= self.goal


@dataclass
class Results:
    """Everything a run found.

    Attributes:
        machine: Where it ran, in words.
        options: How it was asked to run.
        rows: Timings.
        claims: Goals.
        facts: Findings that are not times, each a sentence.
    """

    machine: dict[str, str] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    claims: list[Claim] = field(default_factory=list)
    facts: list[str] = field(default_factory=list)


def save(results: Results, path: Path) -> None:
    """Write the results as JSON."""
    path.write_text(json.dumps(asdict(results), indent=1, ensure_ascii=False) + "\n")


def load(path: Path) -> Results:
    """Read what `save` wrote."""
    raw = json.loads(path.read_text())
    return Results(
        machine=raw["machine"],
        options=raw["options"],
        rows=[_row(r) for r in raw["rows"]],
        claims=[Claim(**{**c, "found": Spread(**c["found"])}) for c in raw["claims"]],
        facts=raw["facts"],
    )


def _row(raw: dict[str, Any]) -> Row:
    for side in ("ours", "base"):
        raw[side] = Timing(**{**raw[side], "seconds": Spread(**raw[side]["seconds"])})
    raw["ratio"] = Spread(**raw["ratio"])
    raw["synced"] = None if raw["synced"] is None else Spread(**raw["synced"])
    return Row(**raw)
