"""The numpy form of `selecting.py`."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from elsa_cli.core.dtypes import Bits
from elsa_cli.core.hashing import Hashes, position_hash

__all__ = ["any_at_least", "count_high", "count_keys", "count_ties", "keep", "merits"]

Words = NDArray[np.uint64]
Bytes = NDArray[np.uint8]
Numbers = NDArray[np.int64]
BINS = 1 << 16
STRIP = 1 << 18  # weights compared at a time, so that what is computed on the way stays small


def _where(mask: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Return the positions of True in a mask that has few, by way of the words that have any."""
    if mask.size % 8:
        return np.flatnonzero(mask)
    words = np.flatnonzero(mask.view(np.uint64) != 0)
    at = np.flatnonzero(mask.reshape(-1, 8).take(words, axis=0))
    return words.take(at >> 3) * 8 + (at & 7)


def _hash(where: NDArray[np.intp], position: int) -> Hashes:
    return position_hash(where.astype(np.uint64) + np.uint64(position))


def _selected(bits: Bits, select: np.uint64) -> Bits:
    every = np.iinfo(bits.dtype).max
    return bits if select == every else np.bitwise_and(bits, bits.dtype.type(select))


def _count(digits: Bits, counts: Words) -> None:
    if digits.size < BINS // 4:  # clearing and adding all bins would take longer
        np.add.at(counts, digits.astype(np.intp), np.uint64(1))
    else:
        counts += np.bincount(digits, minlength=counts.size).astype(np.uint64)


def count_high(bits: Bits, shift: np.uint64, counts: Words) -> None:
    _count(bits >> bits.dtype.type(shift), counts[0])


def count_keys(
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
    selected = _selected(bits, select)
    for level, value in enumerate(known):
        where = _where(selected == bits.dtype.type(value))
        inside = _selected(bits.take(where), magnitude).astype(np.uint64)
        digits = (inside >> shift).astype(np.uint16)
        _count(digits, counts[level])
        close = (digits >= near[level, 0]) & (digits <= near[level, 1])
        begin = int(found[level])
        end = begin + int(np.count_nonzero(close))
        keys[level, begin:end] = inside[close]
        hashes[level, begin:end] = _hash(where[close], position)
        found[level] = end


def count_ties(
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
    keys = _selected(bits, magnitude)
    for level, value in enumerate(key):
        ties = _hash(_where(keys == bits.dtype.type(value)), position)
        if select:
            ties = ties[ties & select == known[level]]
        digits = (ties >> shift).astype(np.uint16)
        _count(digits, counts[level])
        ties = ties[(digits >= near[level, 0]) & (digits <= near[level, 1])]
        begin = int(found[level])
        hashes[level, begin : begin + ties.size] = ties
        found[level] = begin + ties.size


def keep(
    bits: Bits,
    magnitude: np.uint64,
    key: Words,
    tie: Words,
    position: int,
    packed: Bytes,
    kept: Numbers,
) -> None:
    keys = _selected(bits, magnitude)
    for level, value in enumerate(key):
        bound = bits.dtype.type(value)
        mask = keys >= bound
        if tie[level]:
            where = _where(keys == bound)
            mask[where] = _hash(where, position) >= tie[level]
        packed[level] = np.packbits(mask, bitorder="little")
        kept[level] = np.count_nonzero(mask)


def any_at_least(bits: Bits, magnitude: np.uint64, bound: np.uint64) -> int:
    return int(bits.size > 0 and _selected(bits, magnitude).max() >= bits.dtype.type(bound))


def merits(
    bits: Bits, magnitude: np.uint64, group: int, inner: int, position: int, merit: NDArray[Any]
) -> None:
    members = _selected(bits, magnitude).reshape(-1, group, inner)  # (outer, member, place)
    merit = merit.reshape(members.shape)
    outer = max(1, STRIP // (group * inner))
    width = inner if outer > 1 else max(1, STRIP // group)
    for row in range(0, len(members), outer):
        for place in range(0, inner, width):
            strip = np.s_[row : row + outer, :, place : place + width]
            first = position + row * group * inner + place
            _merits_of(members[strip], first, inner, merit[strip])


def _merits_of(members: Bits, position: int, inner: int, merit: NDArray[Any]) -> None:
    """Count for each weight the members of its group that it beats, (outer, group, width)."""
    outer, group, width = members.shape
    hashes: Hashes | None = None
    merit[:] = 0
    for i in range(group):
        for j in range(i + 1, group):
            better = members[:, i] > members[:, j]
            tied = members[:, i] == members[:, j]
            if tied.any():
                if hashes is None:
                    rows = np.arange(outer * group, dtype=np.uint64) * np.uint64(inner)
                    places = np.arange(width, dtype=np.uint64) + np.uint64(position)
                    hashes = position_hash(rows[:, None] + places).reshape(members.shape)
                better |= tied & (hashes[:, i] > hashes[:, j])
            merit[:, i] += better
            merit[:, j] += ~better
