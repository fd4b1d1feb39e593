"""Kernels that find what a level keeps: counting keys, gathering those near a cut, making masks.

All of them see one piece of weights as raw bits, (count,), of uint8, uint16, uint32 or uint64.
A weight's *key* is its bits without the sign: `bits & magnitude`. Keys that were computed have no
sign; their `magnitude` is all ones. Equal keys are ordered by the hash of the position.

Example, keys of 4 bits and digits of 2, 3 of 8 weights to be kept:

    keys          0011 1001 1000 1011 0010 1001 1110 0111
    count_high    of 00: 2, of 01: 1, of 10: 4, of 11: 1: one is above 10, and two of its four
                  are to be kept
    count_keys    of 10xx, select 1100, known 1000: of 00: 1, of 01: 2, of 10: 0, of 11: 1: one more
                  is above 1001, and one of the two 1001 is to be kept
    count_ties    of the key 1001: their hashes
    keep          1110, 1011 and one 1001: 0b01001010 or 0b01101000
"""

from __future__ import annotations

from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from elsa_cli.core.dtypes import Bits
from elsa_cli.core.kernels import form

__all__ = ["Selecting", "selecting"]

Words = NDArray[np.uint64]
Numbers = NDArray[np.int64]


class Selecting(Protocol):
    """What both forms can do. Masks and bounds are uint64 whatever the width of the bits."""

    def count_high(self, bits: Bits, shift: np.uint64, counts: Words) -> None:
        """Count weights by their highest bits, the sign among them.

        Args:
            bits: (count,).
            shift: How many of the lower bits do not matter.
            counts: (4, bins), whose sum over the rows grows by one a weight.
        """

    def count_keys(
        self,
        bits: Bits,
        magnitude: np.uint64,
        select: np.uint64,
        known: Words,
        shift: np.uint64,
        position: int,
        counts: Words,
        near: Numbers,
        keys: Words,
        hashes: Words,
        found: Numbers,
    ) -> None:
        """Count by 16 bits of the key, for each level, the weights with `bits & select == known`.

        Args:
            bits: (count,).
            magnitude: All bits but the sign.
            select: The bits of a key that are known.
            known: What they are, (levels,).
            shift: How many bits are lower than the 16.
            position: Position of the first weight.
            counts: (levels, 65536), added to.
            near: (levels, 2): the lowest and the highest digit of 16 bits to remember.
            keys: (levels, count) at least; the keys remembered, in order of positions.
            hashes: (levels, count) at least; the hashes of their positions.
            found: (levels,), how many are remembered, added to: 0 to begin with.
        """

    def count_ties(
        self,
        bits: Bits,
        magnitude: np.uint64,
        key: Words,
        select: np.uint64,
        known: Words,
        shift: np.uint64,
        position: int,
        counts: Words,
        near: Numbers,
        hashes: Words,
        found: Numbers,
    ) -> None:
        """Count by 16 bits of the hash, for each level, weights of one key whose hash begins alike.

        They have `bits & magnitude == key` and `hash & select == known`; see `count_keys`.
        """

    def keep(
        self,
        bits: Bits,
        magnitude: np.uint64,
        key: Words,
        tie: Words,
        position: int,
        packed: NDArray[np.uint8],
        kept: Numbers,
    ) -> None:
        """Make for each level the mask of the weights whose (key, hash) is at least (key, tie).

        Args:
            bits: (count,).
            magnitude: All bits but the sign.
            key: The lowest key that is kept, (levels,).
            tie: The lowest hash of this key that is kept, (levels,); 0 for all.
            position: Position of the first weight.
            packed: (levels, ceil(count / 8)), written; spare bits are 0.
            kept: (levels,), written: how many weights are kept.
        """

    def any_at_least(self, bits: Bits, magnitude: np.uint64, bound: np.uint64) -> int:
        """Return 1 if a key is `bound` or more, else 0."""

    def merits(
        self,
        bits: Bits,
        magnitude: np.uint64,
        group: int,
        inner: int,
        position: int,
        merit: NDArray[Any],
    ) -> None:
        """Count for each weight the members of its group that it beats, by key and then by hash.

        Args:
            bits: (outer · group · inner,) in C order; a group's members lie `inner` apart.
            magnitude: All bits but the sign.
            group: Weights a group.
            inner: How many groups interleave.
            position: Position of the first weight.
            merit: (count,), written: from 0 to group - 1.
        """


def selecting(nbytes: int) -> Selecting:
    """Return the form that suits what is to be done; see `form`."""
    return cast(Selecting, form("selecting", nbytes))
