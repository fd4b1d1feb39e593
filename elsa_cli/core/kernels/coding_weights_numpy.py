"""Weights to shells and back with numpy: by the positions of those of each shell."""

from __future__ import annotations

import numpy as np

from elsa_cli.core.bits import unpack_bits
from elsa_cli.core.kernels.coding_weights import Bytes, Integers, Values

__all__ = ["assemble", "deal"]


def deal(values: Values, sparser: Bytes, denser: Bytes, out: Values) -> int:
    """Take the weights of a shell; return how many there are."""
    if denser.size and sparser.size:
        shell = denser & ~sparser
    else:
        shell = denser if denser.size else ~sparser
    where = np.flatnonzero(unpack_bits(shell, values.size))
    np.take(values, where, out=out[: where.size], mode="clip")
    return int(where.size)


def assemble(values: Values, begins: Integers, masks: Bytes, out: Values) -> None:
    """Put the weights of shells in their places; all other places become 0."""
    out.fill(0)
    taken: Bytes | None = None
    for k, begin in enumerate(begins.tolist()):
        mask = masks[k] if k < len(masks) else np.full(-(-out.size // 8), 255, np.uint8)
        shell = mask if taken is None else mask & ~taken
        where = np.flatnonzero(unpack_bits(shell, out.size))
        out[where] = values[begin : begin + where.size]
        taken = mask
