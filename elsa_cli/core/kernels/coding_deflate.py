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
    "Deflating",
    "deflate_bound",
    "deflating",
]

Bytes = NDArray[np.uint8]
Integers = NDArray[np.int64]

BLOCK = 65_535  # bytes a block: the most that a stored one takes
TINY = 32  # bytes from which on a block may have codes of its own
END = 256  # the symbol that ends a block
LONGEST, LONGEST_LENGTH = 15, 7  # bits of a code, and of one that tells the length of a code
ORDER = (16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15)
FIXED = (8,) * 144 + (9,) * 112 + (7,) * 24 + (8,) * 8  # bits of the fixed codes


class Deflating(Protocol):
    """The kernels; both forms give the same bits."""

    def code_blocks(self, data: Bytes, last: bool, state: Integers, out: Bytes) -> int:
        """Code some blocks of a stream; return how many bytes are whole.

        Args:
            data: A multiple of BLOCK bytes, or any number of the last ones.
            last: Whether the stream ends here.
            state: (2,): the bits that do not fill a byte, and how many; (0, 0) at first.
            out: `deflate_bound` bytes.
        """

    def code_streams(self, data: Bytes, ends: Integers, out: Bytes, sizes: Integers) -> int:
        """Code each of some parts of `data` as a stream; return the bytes of all.

        Args:
            data: The parts, one after the other.
            ends: (n,): where each ends.
            out: `deflate_bound` bytes.
            sizes: (n,): filled with the bytes of each stream.
        """


def deflating(nbytes: int) -> Deflating:
    """Return the form of the kernels for so many bytes of weights more."""
    return cast(Deflating, form("coding_deflate", nbytes))


def deflate_bound(size: int, streams: int = 1) -> int:
    """Return the bytes that coding `size` bytes may write, what is written by the way included."""
    return size + 6 * (size // BLOCK + streams) + 16
