"""What the benchmarks of speed find, as plain records that go to JSON and come back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.figures import Spread
from benchmarks.speed.processes import Run

__all__ = [
    "Figure",
    "First",
    "Profile",
    "Results",
    "Row",
    "Share",
    "Timing",
    "pairs",
]

ITEMSIZE = {"bf16": 2, "fp32": 4}


def pairs(ours: Sequence[Run], base: Sequence[Run]) -> Spread:
    """Return the ratio of wall times, round by round."""
    return Spread.of(a.seconds / b.seconds for a, b in zip(ours, base, strict=True))


@dataclass(frozen=True)
class Timing:
    """One command over all its counted runs.

    Attributes:
        seconds: Wall time of the whole process.
        user: User CPU seconds.
        system: System CPU seconds.
        peak: Largest resident set, bytes.
        read: Bytes the process asked to read, median; None where the system does not tell.
    """

    seconds: Spread
    user: Spread
    system: Spread
    peak: int
    read: int | None

    @classmethod
    def of(cls, runs: Sequence[Run]) -> Timing:
        """Summarise the runs of one command."""
        reads = [run.read for run in runs if run.read is not None]
        return cls(
            seconds=Spread.of(run.seconds for run in runs),
            user=Spread.of(run.user for run in runs),
            system=Spread.of(run.system for run in runs),
            peak=max(run.peak for run in runs),
            read=int(Spread.of(reads).median) if reads else None,
        )


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
        base: What it is compared with; beside a copy, `cp a b && sync b`.
        ratio: Wall time over that of `base`, pair by pair.
        plain: `cp a b` alone, where the row stands beside a copy.
        plain_ratio: Wall time over that of `plain`, pair by pair.
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
    plain: Timing | None = None
    plain_ratio: Spread | None = None

    @classmethod
    def of(
        cls,
        section: str,
        what: str,
        against: str,
        ours: Sequence[Run],
        base: Sequence[Run],
        *,
        plain: Sequence[Run] | None = None,
        dtype: str = "",
        size: int = 0,
    ) -> Row:
        """Summarise rounds in which a command and its neighbours took turns."""
        return cls(
            section=section,
            what=what,
            against=against,
            dtype=dtype,
            size=size,
            written=ours[-1].written,
            ours=Timing.of(ours),
            base=Timing.of(base),
            ratio=pairs(ours, base),
            plain=None if plain is None else Timing.of(plain),
            plain_ratio=None if plain is None else pairs(ours, plain),
        )

    @property
    def billions(self) -> float:
        """Weights of the dense checkpoint, in 10⁹."""
        return self.size / ITEMSIZE[self.dtype] / 1e9

    @property
    def user(self) -> Spread:
        """User CPU seconds of the command per 10⁹ weights."""
        return self.ours.user.times(1 / self.billions)

    @property
    def system(self) -> Spread:
        """System CPU seconds of the command per 10⁹ weights."""
        return self.ours.system.times(1 / self.billions)


@dataclass(frozen=True)
class Figure:
    """What was found for a goal; command, unit and dtype tell which.

    Attributes:
        what: The command.
        unit: Unit of the figure.
        dtype: Dtype of the weights; empty where there are none.
        found: The figure; None if it was not measured.
        beside: What to read beside it, or why it was not measured.
    """

    what: str
    unit: str
    dtype: str
    found: Spread | None
    beside: str = ""


@dataclass(frozen=True)
class First:
    """The first run of a command, before the rounds.

    Attributes:
        what: The command.
        dtype: Dtype of the weights.
        seconds: Wall time.
        user: User CPU seconds.
        later: Wall time of the rounds.
        later_user: User CPU seconds of the rounds.
    """

    what: str
    dtype: str
    seconds: float
    user: float
    later: Spread
    later_user: Spread


@dataclass(frozen=True)
class Share:
    """CPU seconds of a sampled process spent inside one function of elsa."""

    function: str
    user: float
    system: float


@dataclass(frozen=True)
class Profile:
    """Where one run of a command spent its CPU time, largest first.

    Attributes:
        what: The command.
        dtype: Dtype of the weights; empty where it does not matter.
        shares: What each function took.
    """

    what: str
    dtype: str
    shares: list[Share]


@dataclass
class Results:
    """Everything a run found.

    Attributes:
        machine: Where it ran, in words.
        options: How it was asked to run.
        rows: Timings.
        figures: What the goals are about.
        firsts: First runs.
        profiles: Where commands that miss a goal spend their time.
        facts: Findings that are not times, each a sentence.
    """

    machine: dict[str, str] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    firsts: list[First] = field(default_factory=list)
    profiles: list[Profile] = field(default_factory=list)
    facts: list[str] = field(default_factory=list)

    def figure(self, what: str, unit: str, dtype: str) -> Figure | None:
        """Return what was found for a goal; None if nothing is known of it."""
        wanted = (what, unit, dtype)
        return next((f for f in self.figures if (f.what, f.unit, f.dtype) == wanted), None)
