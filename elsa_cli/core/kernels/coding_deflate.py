"""Bytes to raw deflate streams with Huffman codes alone; docs/format.md gives the bytes exactly."""

from __future__ import annotations

from typing import Protocol, cast

import numpy as np
from numpy.typing import NDArray

from elsa_cli.core.kernels import form

__all__ = [
    "BLOCK",
    "END",
    "FIXED",
    "LONGEST",
    "LONGEST_LENGTH",
    "ORDER",
    "TINY",
    "WORK",
    "DeflateKernels",
    "deflate_bound",
    "deflate_kernels",
]

Bytes = NDArray[np.uint8]
Integers = NDArray[np.int64]

BLOCK = 65_535  # bytes a block: the most that a stored one takes
TINY = 32  # bytes from which on a block may have codes of its own
END = 256  # the symbol that ends a block
LONGEST, LONGEST_LENGTH = 15, 7  # bits of a code, and of one that tells the length of a code
ORDER = (16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15)
WORK = (16, 2 * (END + 1))  # the shape of the work array
FIXED = (8,) * 144 + (9,) * 112 + (7,) * 24 + (8,) * 8  # bits of the fixed codes


class DeflateKernels(Protocol):
    """The kernel; both forms give the same bits."""

    def code_streams(
        self,
        data: Bytes,
        ends: Integers,
        last: int,
        state: Integers,
        out: Bytes,
        sizes: Integers,
        work: Integers,
    ) -> int:
        """Code each of some parts of `data` as a stream, or one as a part of a stream.

        Args:
            data: The parts, one behind the other.
            ends: (n,): where each ends.
            last: 1 where streams end where parts do. If 0, there is one part, a multiple of BLOCK
                bytes and at least one.
            state: (2,): of a stream that has begun, the bits that do not fill a byte, and how many;
                (0, 0) where streams begin, and again where they end.
            out: `deflate_bound` bytes, filled with the whole bytes.
            sizes: (n,): filled with how many of them each part has.
            work: (*WORK,).

        Returns:
            The whole bytes of all parts.
        """


def deflate_kernels(nbytes: int) -> DeflateKernels:
    """Return the form of the kernel for so many bytes of weights more."""
    return cast(DeflateKernels, form("coding_deflate", nbytes))


def deflate_bound(size: int, streams: int = 1) -> int:
    """Return the bytes that coding `size` bytes may write, what is written by the way included."""
    return size + 6 * (size // BLOCK + streams) + 16
