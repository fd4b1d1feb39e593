"""What kernels do with 64 weights at once: compare, count, clear. One bit of a word is one weight.

Compilers make such words from loops badly, though processors have instructions for them. So these
are operations of kernels, which `intrinsics.py` gives to numba; here stands what they mean. Weights
are raw bits of any width, the first of them at `start`; all 64 have to be there.

Example, with 8 weights instead of 64: of 3 -7 5 2 9 0 -5 4 at least 5 in magnitude are the ones
at 1, 2, 4 and 6, which is the word 0b01010110.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from elsa_cli.core.kernels.compiling import vectored

__all__ = ["at_least", "clear", "equal", "ones", "zeros_before"]

WORD = 64


@vectored
def at_least(bits: Any, start: int, select: Any, bound: Any) -> Any:
    """Return a word, bit i set if (bits[start + i] & select) >= bound."""
    some = enumerate(bits[start : start + WORD])
    return np.uint64(sum(((int(b) & int(select)) >= int(bound)) << i for i, b in some))


@vectored
def equal(bits: Any, start: int, select: Any, value: Any) -> Any:
    """Return a word, bit i set if (bits[start + i] & select) == value."""
    some = enumerate(bits[start : start + WORD])
    return np.uint64(sum(((int(b) & int(select)) == int(value)) << i for i, b in some))


@vectored
def clear(bits: Any, start: int, word: Any) -> None:
    """Set bits[start + i] to zero where bit i of the word is not set."""
    for i in range(WORD):
        if not int(word) >> i & 1:
            bits[start + i] = 0


@vectored
def ones(word: Any) -> int:
    """Return how many bits of a word are set."""
    return int(word).bit_count()


@vectored
def zeros_before(word: Any) -> int:
    """Return the position of the lowest bit that is set in a word other than 0."""
    return (int(word) & -int(word)).bit_length() - 1
