"""The numpy form of `masking.py`."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from elsa_cli.core.dtypes import Bits
from elsa_cli.core.work import Scratch

__all__ = ["popcount", "zero_unkept"]

Bytes = NDArray[np.uint8]


def _lanes(itemsize: int) -> NDArray[Any]:
    """Return for each byte of a mask the 8 elements to AND with: all ones or zero."""
    table = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")
    ones = (1 << 8 * itemsize) - 1
    lanes: NDArray[Any] = table.astype(f"<u{itemsize}") * np.array(ones, f"<u{itemsize}")
    return lanes


_LANES = {size: _lanes(size) for size in (1, 2, 4, 8)}


def popcount(packed: Bytes) -> int:
    words = packed.size & ~7
    return int(np.bitwise_count(packed[:words].view(np.uint64)).sum(dtype=np.int64)) + int(
        np.bitwise_count(packed[words:]).sum(dtype=np.int64)
    )


def zero_unkept(bits: Bits, packed: Bytes, scratch: Scratch) -> None:
    table = _LANES[bits.itemsize]
    index = scratch.array("mask index", packed.size, np.intp)
    np.copyto(index, packed)
    lanes = scratch.array("mask lanes", packed.size * 8, bits.dtype)
    # clip: with `out`, numpy's default mode would check and copy through a buffer of its own
    np.take(table, index, axis=0, out=lanes.reshape(-1, 8), mode="clip")
    np.bitwise_and(bits, lanes[: bits.size], out=bits)
