"""The compiled form of `selecting.py`."""

from __future__ import annotations

from typing import Any

import numpy as np

from elsa_cli.core.kernels.compiling import inlined, kernel
from elsa_cli.core.kernels.vectors import at_least, equal, ones, zeros_before

__all__ = ["any_at_least", "count_high", "count_keys", "count_ties", "keep", "merits"]

ONE = np.uint64(1)
DIGIT = np.uint64(0xFFFF)


@inlined
def _hash(position: Any) -> Any:
    z = np.uint64(position) + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@inlined
def _equal(bits: Any, start: int, select: Any, value: Any) -> Any:
    """Return `equal`, also of the last weights, of which there are fewer than 64."""
    if start + 64 <= bits.size:
        return equal(bits, start, select, value)
    word = np.uint64(0)
    for i in range(start, bits.size):
        if np.uint64(bits[i]) & select == value:
            word |= ONE << np.uint64(i - start)
    return word


@inlined
def _at_least(bits: Any, start: int, select: Any, bound: Any) -> Any:
    """Return `at_least`, also of the last weights, of which there are fewer than 64."""
    if start + 64 <= bits.size:
        return at_least(bits, start, select, bound)
    word = np.uint64(0)
    for i in range(start, bits.size):
        if np.uint64(bits[i]) & select >= bound:
            word |= ONE << np.uint64(i - start)
    return word


@kernel
def count_high(bits: Any, shift: Any, counts: Any) -> None:
    # Four histograms in turn: an increment need not wait for the one before, of the same bin.
    whole = bits.size // 4 * 4
    for i in range(0, whole, 4):
        counts[0, np.uint64(bits[i]) >> shift] += ONE
        counts[1, np.uint64(bits[i + 1]) >> shift] += ONE
        counts[2, np.uint64(bits[i + 2]) >> shift] += ONE
        counts[3, np.uint64(bits[i + 3]) >> shift] += ONE
    for i in range(whole, bits.size):
        counts[0, np.uint64(bits[i]) >> shift] += ONE


@kernel
def count_keys(
    bits: Any,
    magnitude: Any,
    select: Any,
    known: Any,
    shift: Any,
    position: int,
    counts: Any,
    near: Any,
    keys: Any,
    hashes: Any,
    found: Any,
) -> None:
    for start in range(0, bits.size, 64):
        for level in range(known.size):
            word = _equal(bits, start, select, known[level])
            while word != 0:
                at = start + zeros_before(word)
                word &= word - ONE
                key = np.uint64(bits[at]) & magnitude
                digit = np.int64((key >> shift) & DIGIT)
                counts[level, digit] += ONE
                if near[level, 0] <= digit <= near[level, 1]:
                    keys[level, found[level]] = key
                    hashes[level, found[level]] = _hash(position + at)
                    found[level] += 1


@kernel
def count_ties(
    bits: Any,
    magnitude: Any,
    key: Any,
    select: Any,
    known: Any,
    shift: Any,
    position: int,
    counts: Any,
    near: Any,
    hashes: Any,
    found: Any,
) -> None:
    for start in range(0, bits.size, 64):
        for level in range(key.size):
            word = _equal(bits, start, magnitude, key[level])
            while word != 0:
                tie = _hash(position + start + zeros_before(word))
                word &= word - ONE
                if tie & select == known[level]:
                    digit = np.int64((tie >> shift) & DIGIT)
                    counts[level, digit] += ONE
                    if near[level, 0] <= digit <= near[level, 1]:
                        hashes[level, found[level]] = tie
                        found[level] += 1


@kernel
def keep(
    bits: Any, magnitude: Any, key: Any, tie: Any, position: int, packed: Any, kept: Any
) -> None:
    for level in range(key.size):
        kept[level] = 0
    for start in range(0, bits.size, 64):
        for level in range(key.size):
            word = _at_least(bits, start, magnitude, key[level])
            if tie[level] != 0:
                tied = _equal(bits, start, magnitude, key[level])
                while tied != 0:
                    at = zeros_before(tied)
                    tied &= tied - ONE
                    if _hash(position + start + at) < tie[level]:
                        word ^= ONE << np.uint64(at)
            kept[level] += ones(word)
            byte = start // 8
            if start + 64 <= bits.size:
                for i in range(8):
                    packed[level, byte + i] = np.uint8(word >> np.uint64(8 * i))
            else:
                for i in range(packed.shape[1] - byte):
                    packed[level, byte + i] = np.uint8(word >> np.uint64(8 * i))


@kernel
def any_at_least(bits: Any, magnitude: Any, bound: Any) -> int:
    for start in range(0, bits.size, 64):
        if _at_least(bits, start, magnitude, bound) != 0:
            return 1
    return 0


@kernel
def merits(bits: Any, magnitude: Any, group: int, inner: int, position: int, merit: Any) -> None:
    for i in range(merit.size):
        merit[i] = 0
    for first in range(0, bits.size, group * inner):
        for a in range(first, first + group * inner, inner):
            for b in range(a + inner, first + group * inner, inner):
                for place in range(inner):  # no branch, so that many places are done at once
                    one = np.uint64(bits[a + place]) & magnitude
                    other = np.uint64(bits[b + place]) & magnitude
                    merit[a + place] += one > other
                    merit[b + place] += one < other
                for place in range(inner):
                    one = np.uint64(bits[a + place]) & magnitude
                    if one == np.uint64(bits[b + place]) & magnitude:
                        before = _hash(position + a + place) > _hash(position + b + place)
                        merit[a + place] += before
                        merit[b + place] += not before
