"""Bitmasks: one bit a weight, 1 = kept, little bit order, each tensor beginning on a byte."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from elsa_cli.core.dtypes import Bits
from elsa_cli.core.work import Scratch

__all__ = [
    "Bools",
    "Bytes",
    "mask_bytes",
    "pack_bits",
    "popcount",
    "unpack_bits",
    "zero_unkept",
]

Bools = NDArray[np.bool_]
Bytes = NDArray[np.uint8]

FEW_BYTES = 1 << 12


def mask_bytes(numel: int) -> int:
    """Return the bytes of the mask of `numel` weights."""
    return -(-numel // 8)


def pack_bits(mask: Bools) -> Bytes:
    """Pack booleans: bit i of byte j is element 8j + i; spare bits are 0."""
    return np.packbits(mask, bitorder="little")


def unpack_bits(packed: Bytes, numel: int) -> Bools:
    """Return the first `numel` bits as booleans."""
    return np.unpackbits(packed, count=numel, bitorder="little").view(np.bool_)


def popcount(packed: Bytes) -> int:
    """Return how many bits are set."""
    if packed.size <= FEW_BYTES:  # several calls of numpy take longer
        return int.from_bytes(packed.tobytes(), "little").bit_count()
    words = packed.size & ~7
    return int(np.bitwise_count(packed[:words].view(np.uint64)).sum(dtype=np.int64)) + int(
        np.bitwise_count(packed[words:]).sum(dtype=np.int64)
    )


def _lanes(itemsize: int) -> NDArray[Any]:
    """Return for each byte of a mask the 8 elements to AND with: all ones or zero."""
    table = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")
    ones = (1 << 8 * itemsize) - 1
    lanes: NDArray[Any] = table.astype(f"<u{itemsize}") * np.array(ones, f"<u{itemsize}")
    return lanes


_LANES = {size: _lanes(size) for size in (1, 2, 4, 8)}


def zero_unkept(bits: Bits, packed: Bytes, scratch: Scratch) -> None:
    """Set to +0.0, in place, every weight of `bits` whose bit in `packed` is 0."""
    size = bits.itemsize
    table = _LANES[size]
    index = scratch.array("mask index", packed.size, np.intp)
    np.copyto(index, packed)
    lanes = scratch.array("mask lanes", packed.size * 8, bits.dtype)
    # clip: with `out`, numpy's default mode would check and copy through a buffer of its own
    np.take(table, index, axis=0, out=lanes.reshape(-1, 8), mode="clip")
    np.bitwise_and(bits, lanes[: bits.size], out=bits)
