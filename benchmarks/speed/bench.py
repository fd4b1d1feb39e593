"""What every measurement of speed needs: the command, a checkpoint, and where findings go."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.figures import Spread
from benchmarks.goals import GOALS
from benchmarks.speed.processes import Command
from benchmarks.speed.results import Figure, Results, Row

__all__ = ["LEVELS", "SPARSEST", "Bench", "Subject", "copies", "make_checkpoint"]

LEVELS = "0.5,0.7,0.9"
SPARSEST = "0.9"
SYNCED = 'cp "$1" "$2" && sync "$2"'


@dataclass
class Bench:
    """What every measurement needs.

    Attributes:
        folder: Where files may be written.
        runs: How many rounds are counted.
        results: Where findings go.
        quick: Whether what no goal needs may be left out.
    """

    folder: Path
    runs: int
    results: Results
    quick: bool = False
    _began: float = field(default_factory=time.perf_counter)

    @property
    def warm(self) -> bool:
        """Whether a round before those that count is not counted."""
        return not self.quick

    @property
    def elsa(self) -> list[str]:
        """The command, installed beside the interpreter or as a module."""
        script = Path(sys.executable).parent / "elsa"
        return [str(script)] if script.exists() else [sys.executable, "-m", "elsa_cli"]

    def log(self, text: str) -> None:
        """Say on standard error what was done, and when."""
        print(f"[{time.perf_counter() - self._began:5.0f} s] {text}", file=sys.stderr, flush=True)

    def add(self, row: Row) -> Row:
        """Keep a row, and show it."""
        self.results.rows.append(row)
        self.log(
            f"{row.section} {row.dtype} {row.what}: {row.ours.seconds.median:.2f} s, "
            f"{row.ratio.median:.2f} x {row.against} ({row.base.seconds.median:.2f} s), "
            f"user {row.ours.user.median:.2f} s, peak {row.ours.peak / 1e6:.0f} MB"
        )
        return row

    def found(
        self, what: str, unit: str, dtype: str, figure: Spread | float, beside: str = ""
    ) -> None:
        """Keep the figure of a goal."""
        spread = figure if isinstance(figure, Spread) else Spread.one(figure)
        self.results.figures.append(Figure(what, unit, dtype, spread, beside))

    def left_out(self, why: str, *units: str) -> None:
        """Say of all goals with these units why there is no figure."""
        for goal in GOALS:
            for dtype in goal.dtypes if goal.unit in units else ():
                if self.results.figure(goal.what, goal.unit, dtype) is None:
                    self.results.figures.append(Figure(goal.what, goal.unit, dtype, None, why))

    def missed(self, dtype: str) -> list[str]:
        """Return the commands whose time misses a goal so far, in the order of the goals."""
        missed = []
        for goal in GOALS:
            figure = self.results.figure(goal.what, goal.unit, dtype)
            if figure is not None and figure.found is not None and not goal.met(figure.found):
                missed.append(goal.what)
        return list(dict.fromkeys(missed))


@dataclass(frozen=True)
class Subject:
    """A generated checkpoint and what is made of it.

    Attributes:
        dtype: `bf16` or `fp32`.
        dense: The checkpoint.
    """

    dtype: str
    dense: Path

    def beside(self, ending: str) -> Path:
        """Return a file in the same folder, with a name like the checkpoint's."""
        return self.dense.with_name(f"{self.dense.stem}-{ending}.safetensors")

    @property
    def nested(self) -> Path:
        """The nested checkpoint."""
        return self.beside("nested.elsa")

    @property
    def packed(self) -> Path:
        """The packed checkpoint."""
        return self.beside("packed.elsa")

    @property
    def sparse(self) -> Path:
        """The sparsest level, extracted."""
        return self.beside("sparse")

    @property
    def scratch(self) -> Path:
        """Whatever does not stay."""
        return self.beside("scratch")

    @property
    def size(self) -> int:
        """Bytes of the dense checkpoint."""
        return self.dense.stat().st_size

    def remove(self) -> None:
        """Delete all of them."""
        for path in (self.dense, self.nested, self.packed, self.sparse, self.scratch):
            path.unlink(missing_ok=True)

    def commands(self) -> dict[str, tuple[list[str], Path, Path]]:
        """Return the four commands with a goal: arguments, output, and the file that cp copies.

        They stand in an order in which each finds its inputs, but for the file to be copied of
        `extract`, which is as large as its output: its own output of an earlier run.
        """
        dense, nested, packed = map(str, (self.dense, self.nested, self.packed))
        level = ["--level", SPARSEST, "-o", str(self.scratch)]
        return {
            "sparsify": (
                ["sparsify", dense, "--levels", LEVELS, "-o", nested],
                self.nested,
                self.dense,
            ),
            "pack": (["pack", nested, "-o", packed, "--json"], self.packed, self.nested),
            "extract": (["extract", nested, *level], self.scratch, self.sparse),
            "extract from packed": (["extract", packed, *level], self.scratch, self.sparse),
        }


def make_checkpoint(subject: Subject, size: int) -> None:
    """Generate the dense checkpoint of `size` bytes, in a separate process."""
    path, dtype = str(subject.dense), subject.dtype
    argv = [sys.executable, "-m", "benchmarks.speed.generate", path, dtype, str(size), "0"]
    subprocess.run(argv, check=True)


def copies(copied: Path) -> Sequence[Command]:
    """Return the two neighbours of a command: `cp a b && sync b`, and `cp a b`."""
    copy = copied.with_name("copy.safetensors")
    return (
        Command(["sh", "-c", SYNCED, "sh", str(copied), str(copy)], [copy]),
        Command(["cp", str(copied), str(copy)], [copy]),
    )
