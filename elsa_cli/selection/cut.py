"""Where a level is cut off from the order of all weights, and the masks that follow from it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from elsa_cli.core.bits import Bytes, mask_buffers
from elsa_cli.core.dtypes import Bits
from elsa_cli.core.kernels.selecting import Selecting
from elsa_cli.core.work import Scratch

__all__ = ["Cut", "keep"]


class Cut(NamedTuple):
    """A weight is kept if (its key, its hash) >= (key, hash)."""

    key: int
    hash: int


def keep(
    kernels: Selecting,
    bits: Bits,
    magnitude: np.uint64,
    some: Sequence[Cut],
    position: int,
    scratch: Scratch,
) -> tuple[list[Bytes], list[int]]:
    """Return for each cut the mask of the weights at or above it, and how many these are.

    Args:
        kernels: What makes masks.
        bits: As `Scan.unsigned` gives them, (count,).
        magnitude: What selects the keys from them.
        some: The cuts.
        position: Position of the first weight.
        scratch: The thread's buffers. Masks, (ceil(count / 8),) each, are valid until its next use.
    """
    packed = mask_buffers(scratch, len(some), bits.size)
    kept = np.zeros(len(some), np.int64)
    nothing = [cut.key >> 8 * bits.itemsize > 0 for cut in some]  # the cut is above every key
    keys = np.array(
        [0 if none else cut.key for cut, none in zip(some, nothing, strict=True)], np.uint64
    )
    ties = np.array([cut.hash for cut in some], np.uint64)
    kernels.keep(bits, magnitude, keys, ties, position, packed, kept)
    packed[nothing], kept[nothing] = 0, 0
    return list(packed), kept.tolist()
