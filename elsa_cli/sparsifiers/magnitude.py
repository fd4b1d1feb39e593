"""Magnitude: the score of a weight is its absolute value."""

from __future__ import annotations

from elsa_cli.core.dtypes import Bits
from elsa_cli.selection.scores import Chunk, by_magnitude

__all__ = ["magnitude"]


@by_magnitude
def magnitude(chunk: Chunk) -> Bits:
    """Return |w| as keys, (count,): the raw bits without sign order as the magnitudes do.

    Source: Han et al., Learning both Weights and Connections, arXiv 1506.02626.
    """
    return chunk.magnitude()
