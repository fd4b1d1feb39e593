"""The goals for speed and memory, as data: the pages are written from this table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.figures import Spread

__all__ = [
    "CALL",
    "CLICK",
    "CP",
    "ENTROPY",
    "FOURFOLD",
    "GOALS",
    "MB",
    "PREFIX",
    "PRUNE_MEMORY",
    "PRUNE_SPEED",
    "SECONDS",
    "SMALL",
    "STEP",
    "USER",
    "Goal",
]

# Units. `cp` is `cp a b && sync b`: a command of elsa that writes ends with an fsync too.
CP = "× cp"
USER = "user s per 10⁹ weights"
MB = "MB"
ENTROPY = "× entropy of the masks"
PREFIX = "× prefix of the file"
CALL = "× as fast as the call of compressed-tensors' compress"
PRUNE_SPEED = "× as fast as prune.global_unstructured and save"
PRUNE_MEMORY = "× the memory of prune.global_unstructured and save"
FOURFOLD = "× four times the time of a quarter of the size"
CLICK = '× python -c "import click"'
SECONDS = "s"
PLAIN_STEP = "× plain"

SMALL = "sparsify, a file of 1 MB"
BOTH = ("bf16", "fp32")


@dataclass(frozen=True)
class Goal:
    """A bound on a figure, which is told by the command and its unit.

    Attributes:
        what: The command.
        unit: Unit of the figure, such as `× cp`.
        bound: The largest figure that meets the goal, or the smallest.
        dtypes: Dtypes of the weights that it is measured with; one empty text where there are none.
        at_least: Whether the bound is the smallest figure.
    """

    what: str
    unit: str
    bound: float
    dtypes: Sequence[str] = BOTH
    at_least: bool = False

    def met(self, found: Spread) -> bool:
        """Tell whether the median meets the goal."""
        return found.median >= self.bound if self.at_least else found.median <= self.bound

    @property
    def text(self) -> str:
        """The bound, for the page."""
        return f"{'≥' if self.at_least else '≤'} {self.bound:g} {self.unit}"


GOALS = (
    Goal("sparsify", CP, 1.5),
    Goal("pack", CP, 2),
    Goal("extract", CP, 1.1),
    Goal("extract from packed", CP, 1.2),
    Goal("sparsify", USER, 1.5, ("bf16",)),
    Goal("pack", USER, 4, ("bf16",)),
    Goal("extract", USER, 0.6, ("bf16",)),
    Goal("extract from packed", USER, 1.5, ("bf16",)),
    Goal("sparsify", MB, 300),
    Goal("extract", MB, 200),
    Goal("pack", ENTROPY, 1.03),
    Goal("extract from packed", PREFIX, 1),
    Goal("pack", CALL, 2, at_least=True),
    Goal("sparsify", PRUNE_SPEED, 30, ("fp32",), at_least=True),
    Goal("sparsify", PRUNE_MEMORY, 1 / 20, ("fp32",)),
    Goal("sparsify", FOURFOLD, 1.15, ("bf16",)),
    Goal("pack", FOURFOLD, 1.15, ("bf16",)),
    Goal("extract", FOURFOLD, 1.15, ("bf16",)),
    Goal("extract from packed", FOURFOLD, 1.15, ("bf16",)),
    Goal("elsa --help", CLICK, 1.3, ("",)),
    Goal(SMALL, SECONDS, 0.35, ("",)),
)
STEP = Goal("a step of freeze-train", PLAIN_STEP, 1.05)
