"""Bitmasks: one bit a weight, 1 = kept, little bit order, each tensor beginning on a byte."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from elsa_cli.core.dtypes import Bits
from elsa_cli.core.kernels.masking import masking
from elsa_cli.core.work import Scratch

__all__ = [
    "Bools",
    "Bytes",
    "mask_buffers",
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


def mask_buffers(scratch: Scratch, count: int, numel: int) -> Bytes:
    """Return a thread's buffer for masks of `numel` weights, (count, ceil(numel / 8)), not set."""
    size = mask_bytes(numel)
    masks: Bytes = scratch.array("masks", count * size, np.uint8).reshape(count, size)
    return masks


def pack_bits(mask: Bools) -> Bytes:
    """Pack booleans: bit i of byte j is element 8j + i; spare bits are 0."""
    return np.packbits(mask, bitorder="little")


def unpack_bits(packed: Bytes, numel: int) -> Bools:
    """Return the first `numel` bits as booleans."""
    return np.unpackbits(packed, count=numel, bitorder="little").view(np.bool_)


def popcount(packed: Bytes) -> int:
    """Return how many bits are set."""
    if packed.size <= FEW_BYTES:  # any kernel takes longer
        return int.from_bytes(packed.tobytes(), "little").bit_count()
    return masking(packed.size).popcount(packed)


def zero_unkept(bits: Bits, packed: Bytes, scratch: Scratch) -> None:
    """Set to +0.0, in place, every weight of `bits` whose bit in `packed` is 0."""
    # A quarter: there is that much less to gain than where weights are compared.
    masking(bits.nbytes // 4).zero_unkept(bits, packed, scratch)
