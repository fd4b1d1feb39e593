"""The fixed hash of a position that breaks ties, so that no layer and no row is favoured."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["Hashes", "position_hash"]

Hashes = NDArray[np.uint64]


def position_hash(positions: Hashes) -> Hashes:
    """Return a hash of each position; distinct positions have distinct hashes.

    The finaliser of splitmix64 (Steele, Lea and Flood, 2014), a bijection of 64-bit integers.
    """
    z = positions + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
