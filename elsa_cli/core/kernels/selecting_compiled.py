"""The compiled form of `selecting.py`."""

from __future__ import annotations

from typing import Any

import numpy as np

from elsa_cli.core.kernels.coding_words import store64
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
                store64(packed, level * packed.shape[1] + byte, word)
            else:
                for i in range(packed.shape[1] - byte):
                    packed[level, byte + i] = np.uint8(word >> np.uint64(8 * i))


@kernel
def any_at_least(bits: Any, magnitude: Any, bound: Any) -> int:
    for start in range(0, bits.size, 64):
        if _at_least(bits, start, magnitude, bound) != 0:
            return 1
    return 0


@inlined
def _beaten(bits: Any, magnitude: Any, at: int, first: int, group: int, position: int) -> int:
    """Return how many of its group, which lies side by side from `first`, a weight beats."""
    one = np.uint64(bits[at]) & magnitude
    beaten = same = 0
    for i in range(first, first + group):
        other = np.uint64(bits[i]) & magnitude
        beaten += other < one
        same += other == one
    if same > 1:
        for i in range(first, first + group):
            if np.uint64(bits[i]) & magnitude == one:
                beaten += _hash(position + i) < _hash(position + at)
    return beaten


@inlined
def _compare(
    bits: Any, magnitude: Any, a: int, b: int, count: int, position: int, merit: Any
) -> None:
    """Give a point to the better of each pair: of a and b, of those after them, and so on."""
    tied = 0
    for i in range(count):  # no branch, so that many pairs are compared at once
        one, other = np.uint64(bits[a + i]) & magnitude, np.uint64(bits[b + i]) & magnitude
        merit[a + i] += one > other
        merit[b + i] += one < other
        tied += one == other
    if tied > 0:
        for i in range(count):
            if np.uint64(bits[a + i]) & magnitude == np.uint64(bits[b + i]) & magnitude:
                before = _hash(position + a + i) > _hash(position + b + i)
                merit[a + i] += before
                merit[b + i] += not before


@kernel
def merits(bits: Any, magnitude: Any, group: int, inner: int, position: int, merit: Any) -> None:
    size = group * inner
    if inner == 1:
        for first in range(0, bits.size - size + 1, size):
            for at in range(first, first + group):
                merit[at] = _beaten(bits, magnitude, at, first, group, position)
        return
    for i in range(merit.size):
        merit[i] = 0
    for first in range(0, bits.size - size + 1, size):
        for place in range(0, inner, 64):
            count = min(64, inner - place)
            for a in range(first + place, first + size, inner):
                for b in range(a + inner, first + size, inner):
                    _compare(bits, magnitude, a, b, count, position, merit)
