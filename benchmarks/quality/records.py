"""What the quality benchmark finds, kept in JSON as soon as it is there."""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["Mean", "Measurement", "Plans", "Records"]

Plans = Mapping[str, Mapping[str, Any]]


class Mean(NamedTuple):
    """Mean and sample standard deviation of a figure over seeds; no deviation from one seed."""

    mean: float
    deviation: float | None
    seeds: int

    @classmethod
    def of(cls, figures: Iterable[float]) -> Mean | None:
        """Summarise figures; None if there is none."""
        values = list(figures)
        if not values:
            return None
        spread = statistics.stdev(values) if len(values) > 1 else None
        return cls(statistics.fmean(values), spread, len(values))

    @property
    def error(self) -> float | None:
        """Standard error of the mean."""
        return None if self.deviation is None else self.deviation / self.seeds**0.5


@dataclass(frozen=True)
class Measurement:
    """One figure.

    Attributes:
        task: Name of the task.
        seed: The seed.
        what: How the network was trained.
        level: Which level.
        value: The metric.
        seconds: Time it took; of a run with several levels each has an equal share.
    """

    task: str
    seed: int
    what: str
    level: str
    value: float
    seconds: float


@dataclass
class Records:
    """Measurements, and what they depend on.

    Attributes:
        machine: Where they were made, in words.
        defaults: Options that all nested runs had, the tool's defaults.
        plans: Of each task, what its figures depend on.
        items: Of each task, predictions that its metric is made of.
        steps: Of each task, batches of an epoch.
        found: The measurements.
    """

    machine: dict[str, str] = field(default_factory=dict)
    defaults: dict[str, str] = field(default_factory=dict)
    plans: dict[str, Any] = field(default_factory=dict)
    items: dict[str, int] = field(default_factory=dict)
    steps: dict[str, int] = field(default_factory=dict)
    found: list[Measurement] = field(default_factory=list)

    @classmethod
    def load(cls, path: Path) -> Records:
        """Read a file; without one, nothing was measured yet."""
        if not path.exists():
            return cls()
        raw = json.loads(path.read_text())
        return cls(**{**raw, "found": [Measurement(**m) for m in raw["found"]]})

    def save(self, path: Path) -> None:
        """Write a file, whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(path.name + ".part")
        unfinished.write_text(json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n")
        os.replace(unfinished, path)

    def check(self, plans: Plans, place: str) -> None:
        """Assert that measurements of the same tasks were made in the same way.

        Raises:
            SystemExit: They were not.
        """
        for task, plan in plans.items():
            known = self.plans.get(task)
            # as JSON: what is read has lists where there were tuples
            if known is not None and json.dumps(known) != json.dumps(plan):
                raise SystemExit(f"{place}: {task} was measured in another way; remove the file")

    def merge(self, other: Records, place: str) -> None:
        """Take the measurements of another file.

        Raises:
            SystemExit: Its tasks were measured in another way.
        """
        self.check(other.plans, place)
        if self.defaults and self.defaults != other.defaults:
            raise SystemExit(f"{place}: measured with other defaults; remove the file")
        self.defaults = dict(other.defaults)
        for key, value in other.machine.items():
            known = self.machine.get(key, value)
            self.machine[key] = known if value in known.split("; ") else f"{known}; {value}"
        self.plans |= other.plans
        self.items |= other.items
        self.steps |= other.steps
        mine = {self._key(m): m for m in self.found} | {self._key(m): m for m in other.found}
        self.found = list(mine.values())

    @staticmethod
    def _key(m: Measurement) -> tuple[str, int, str, str]:
        return m.task, m.seed, m.what, m.level

    def values(self, task: str, what: str, level: str) -> dict[int, float]:
        """Return a figure for each seed."""
        wanted = (task, what, level)
        return {m.seed: m.value for m in self.found if (m.task, m.what, m.level) == wanted}

    def mean(self, task: str, what: str, level: str) -> Mean | None:
        """Return the mean of a figure over the seeds."""
        return Mean.of(self.values(task, what, level).values())

    def gaps(self, task: str, level: str, sign: int, what: str, against: str) -> Mean | None:
        """Return the mean of what is gained over something else, seed by seed."""
        ours, base = self.values(task, what, level), self.values(task, against, level)
        return Mean.of(sign * (ours[seed] - base[seed]) for seed in ours if seed in base)
