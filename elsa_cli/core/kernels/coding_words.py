"""What coding does with 64 bits at once: operations of kernels, as those of `vectors.py` are.

`coding_intrinsics.py` gives them to numba; here stands what they mean, and what kernels do instead
where the processor has no instruction for it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from elsa_cli.core.kernels.compiling import inlined, vectored
from elsa_cli.core.kernels.vectors import ones, zeros_before

__all__ = [
    "extract",
    "extract_by_shifts",
    "load64",
    "put",
    "put_by_loop",
    "spread",
    "spread_by_shifts",
    "store64",
    "take",
    "take_by_loop",
]

SOME = 16  # bits taken at a time: a loop that ends by chance makes the processor guess wrong


@vectored
def load64(data: Any, at: int) -> Any:
    """Return the 8 bytes of a contiguous array from byte `at`, the first one lowest."""
    return np.uint64(int.from_bytes(data.reshape(-1)[at : at + 8].tobytes(), "little"))


@vectored
def store64(data: Any, at: int, word: Any) -> None:
    """Put a word into the 8 bytes of a contiguous array from byte `at`, the lowest one first."""
    data.reshape(-1)[at : at + 8] = np.frombuffer(int(word).to_bytes(8, "little"), np.uint8)


@vectored
def extract(word: Any, mask: Any) -> Any:
    """Return the bits of a word where a mask has ones, brought together from bit 0 on."""
    return extract_by_shifts(word, mask)


@vectored
def spread(word: Any, mask: Any) -> Any:
    """Return the bits of a word from bit 0 on, put where a mask has ones: undo `extract`."""
    return spread_by_shifts(word, mask)


@vectored
def take(values: Any, first: int, word: Any, out: Any, at: int) -> None:
    """Put those of 64 weights whose bit is set one behind the other.

    Args:
        values: The weights.
        first: The first of the 64.
        word: Their bits.
        out: Where they go: 64 elements from `at` are there, and may be written over.
        at: The first of them.
    """
    take_by_loop(values, first, word, out, at)


@vectored
def put(values: Any, at: int, word: Any, out: Any, first: int) -> None:
    """Put weights where bits of 64 are set, and leave the other places as they are.

    Args:
        values: The weights, one behind the other; 64 elements from `at` are there.
        at: The first of those to be used.
        word: The bits.
        out: Where they go.
        first: The first of the 64 places.
    """
    put_by_loop(values, at, word, out, first)


@inlined
def _step(mask: Any, holes: Any, n: int) -> Any:
    """Take one of six steps that bring the bits of a mask together.

    Warren's "compress" in Hacker's Delight: step n moves bits by 2 ** n places, those below which
    the number of holes, halved n times, is odd.

    Returns:
        Which bits are moved; the mask after it; half as many holes.
    """
    one = np.uint64(1)
    odd = holes
    for m in range(6):
        odd ^= odd << (one << np.uint64(m))
    moved = odd & mask
    mask = (mask ^ moved) | (moved >> (one << np.uint64(n)))
    return moved, mask, holes & ~odd


@inlined
def extract_by_shifts(word: Any, mask: Any) -> Any:
    """Do what `extract` does."""
    one = np.uint64(1)
    word &= mask
    holes = ~mask << one
    for n in range(6):
        moved, mask, holes = _step(mask, holes, n)
        some = word & moved
        word = (word ^ some) | (some >> (one << np.uint64(n)))
    return word


@inlined
def _back(word: Any, moved: Any, n: int) -> Any:
    return (word & ~moved) | ((word << (np.uint64(1) << np.uint64(n))) & moved)


@inlined
def spread_by_shifts(word: Any, mask: Any) -> Any:
    """Do what `spread` does."""
    a, m, holes = _step(mask, ~mask << np.uint64(1), 0)
    b, m, holes = _step(m, holes, 1)
    c, m, holes = _step(m, holes, 2)
    d, m, holes = _step(m, holes, 3)
    e, m, holes = _step(m, holes, 4)
    f, m, holes = _step(m, holes, 5)
    word = _back(_back(_back(word, f, 5), e, 4), d, 3)
    return _back(_back(_back(word, c, 2), b, 1), a, 0) & mask


@inlined
def take_by_loop(values: Any, first: int, word: Any, out: Any, at: int) -> None:
    """Do what `take` does, some bits at a time: what is too much is written over later."""
    one = np.uint64(1)
    end = at + ones(word)
    while at < end:
        for i in range(SOME):
            where = first + zeros_before(word) if word else first
            out[np.uint64(at + i)] = values[np.uint64(where)]
            word &= word - one
        at += SOME


@inlined
def put_by_loop(values: Any, at: int, word: Any, out: Any, first: int) -> None:
    """Do what `put` does."""
    while word:
        out[np.uint64(first + zeros_before(word))] = values[np.uint64(at)]
        at += 1
        word &= word - np.uint64(1)
