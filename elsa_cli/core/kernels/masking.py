"""Kernels that work on masks: one bit a weight, 1 = kept, bit i of byte j is weight 8j + i."""

from __future__ import annotations

from typing import Protocol, cast

import numpy as np
from numpy.typing import NDArray

from elsa_cli.core.dtypes import Bits
from elsa_cli.core.kernels import form
from elsa_cli.core.work import Scratch

__all__ = ["Masking", "masking"]

Bytes = NDArray[np.uint8]


class Masking(Protocol):
    """What both forms can do."""

    def popcount(self, packed: Bytes) -> int:
        """Return how many bits are set in (bytes,) uint8."""

    def zero_unkept(self, bits: Bits, packed: Bytes, scratch: Scratch) -> None:
        """Set to zero, in place, every weight whose bit is 0.

        Example: of the weights 1 … 8 the mask 0b01000110 leaves 0 2 3 0 0 0 7 0.

        Args:
            bits: (count,) raw bits.
            packed: (ceil(count / 8),) uint8.
            scratch: The thread's buffers.
        """


def masking(nbytes: int) -> Masking:
    """Return the form that suits what is to be done; see `form`."""
    return cast(Masking, form("masking", nbytes))
