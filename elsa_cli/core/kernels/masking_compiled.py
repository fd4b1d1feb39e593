"""The compiled form of `masking.py`."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from elsa_cli.core.dtypes import Bits
from elsa_cli.core.kernels.compiling import inlined, kernel
from elsa_cli.core.kernels.vectors import clear, ones
from elsa_cli.core.work import Scratch

__all__ = ["popcount", "zero_unkept"]


@inlined
def _word(packed: Any, byte: int) -> Any:
    """Return eight bytes of a mask as one word."""
    word = np.uint64(0)
    for i in range(8):
        word |= np.uint64(packed[byte + i]) << np.uint64(8 * i)
    return word


@kernel
def popcount(packed: Any) -> int:
    total = 0
    whole = packed.size // 8 * 8
    for byte in range(0, whole, 8):
        total += ones(_word(packed, byte))
    for byte in range(whole, packed.size):
        total += ones(np.uint64(packed[byte]))
    return total


@kernel
def _zero(bits: Any, packed: Any) -> None:
    whole = bits.size // 64 * 64
    for start in range(0, whole, 64):
        clear(bits, start, _word(packed, start // 8))
    for i in range(whole, bits.size):
        if packed[i // 8] >> np.uint8(i % 8) & np.uint8(1) == 0:
            bits[i] = 0


def zero_unkept(bits: Bits, packed: NDArray[np.uint8], scratch: Scratch) -> None:
    if packed.size * 8 < bits.size:
        raise ValueError(f"a mask of {packed.size} bytes is too short for {bits.size} weights")
    if not bits.flags.writeable:
        raise ValueError("the weights are read-only")
    _zero(bits, packed)
