"""A sparsifier's contract: it is given a chunk of weights and returns a score for each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from elsa_cli.core.dtypes import Bits, DType
from elsa_cli.core.floats import widen
from elsa_cli.core.hashing import Hashes
from elsa_cli.core.work import Scratch
from elsa_cli.selection.scaled import Factors

__all__ = ["Chunk", "Scorer", "by_magnitude", "is_magnitude"]

# A scorer returns keys (unsigned integers) or scores (non-negative float32 or float64), (count,).
Scorer = Callable[["Chunk"], NDArray[Any]]

Function = TypeVar("Function", bound=Callable[..., Any])


def by_magnitude(function: Function) -> Function:
    """Mark a scorer that returns `chunk.magnitude()`: the weights' own bits tell their order."""
    function.__dict__["by_magnitude"] = True
    return function


def is_magnitude(scorer: Scorer) -> bool:
    """Tell whether a scorer is so marked, with or without options bound to it."""
    return bool(getattr(getattr(scorer, "func", scorer), "by_magnitude", False))


@dataclass
class Chunk:
    """What a sparsifier scores: some weights of one tensor.

    Attributes:
        name: The tensor's name.
        shape: The whole tensor's shape.
        start: First weight, in C order.
        bits: The weights as raw bits, (count,).
        dtype: The tensor's dtype.
        common: The dtype in which all tensors that are compared can be ranked.
        position: Position of the first weight among all prunable weights.
        scratch: Buffers to compute in.
        factors: The scales of FP8 codes, or None.
    """

    name: str
    shape: tuple[int, ...]
    start: int
    bits: Bits
    dtype: DType
    common: DType
    position: int
    scratch: Scratch = field(repr=False)
    factors: Factors | None = None

    def positions(self) -> Hashes:
        """Return the position of each weight, (count,) uint64."""
        return np.arange(self.position, self.position + self.bits.size, dtype=np.uint64)

    @by_magnitude
    def magnitude(self) -> Bits:
        """Return |w| as keys, (count,): the bits without sign, widened to the common dtype.

        Codes with a scale become |code · scale| in float64, which holds the product exactly.
        """
        own = self.scratch.array("magnitude", self.bits.size, self.bits.dtype)
        keys = self.dtype.magnitudes(self.bits, out=own)
        if self.dtype is not self.common:
            keys = widen(keys, self.dtype, self.common)
        if self.factors is not None:
            values = keys.view(np.float64)
            with np.errstate(invalid="ignore", over="ignore"):  # infinite codes, where allowed
                values *= self.factors.take(self.start, self.bits.size)
        return keys
