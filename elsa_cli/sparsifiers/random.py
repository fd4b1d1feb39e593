"""Random: every weight has the same chance; the control for every other method."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from elsa_cli.core.hashing import position_hash
from elsa_cli.selection.scores import Chunk

__all__ = ["random"]


def random(chunk: Chunk, *, seed: int = 0) -> NDArray[np.float32]:
    """Return a score in [0, 1) drawn for each position, (count,).

    Source: Liu et al., The Unreasonable Effectiveness of Random Pruning, arXiv 2202.02643.

    Args:
        chunk: Only its positions are used.
        seed: Another seed draws other scores; the same seed the same ones on any machine.
    """
    stream = position_hash(np.array([seed % 2**64], np.uint64))
    drawn = position_hash(chunk.positions() ^ stream)
    return (drawn >> np.uint64(40)).astype(np.float32) * np.float32(2**-24)
