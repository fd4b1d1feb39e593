"""Nested masks to coded bytes and back with numpy: a boolean a weight, and positions."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from elsa_cli.core.batch import segment_sums, spread, starts
from elsa_cli.core.bits import Bools, pack_bits, unpack_bits
from elsa_cli.core.kernels.coding_masks import BITS, ESCAPE, ONES, ZEROS, Bytes, Integers

__all__ = ["code_several", "decode_several", "gaps", "gather", "scatter", "tally", "ungaps"]


def tally(sparser: Bytes, denser: Bytes, ends: Integers, kept: Integers) -> int:
    """Count what a level keeps; return the first tensor where masks do not nest, or -1."""
    kept[:] = segment_sums(np.bitwise_count(denser), np.diff(ends, prepend=0))
    if not sparser.size:
        return -1
    strays = sparser & ~denser
    if not strays.any():
        return -1
    return int(np.searchsorted(ends, np.flatnonzero(strays)[0], side="right"))


def gather(sparser: Bytes, denser: Bytes, count: int, state: Integers, out: Bytes) -> int:
    """Bring the bits of a shell together; return how many bytes are whole."""
    bits = unpack_bits(denser, count)
    if sparser.size:
        bits = bits.take(np.flatnonzero(~unpack_bits(sparser, count)))
    held = unpack_bits(state[:1].astype(np.uint8), int(state[1]))
    bits = np.concatenate([held, bits])
    packed = pack_bits(bits)
    whole = bits.size >> 3
    out[:whole] = packed[:whole]
    state[0], state[1] = packed[-1] if bits.size & 7 else 0, bits.size & 7
    return whole


def gaps(bits: Bytes, count: int, coding: int, state: Integers, out: Bytes) -> int:
    """Find the gaps between marked bits; return the number of bytes that tell them."""
    marked = unpack_bits(bits, count)
    where = np.flatnonzero(marked if coding == ONES else ~marked)
    if not where.size:
        state[0] += count
        return 0
    found = np.diff(where, prepend=-1) - 1
    found[0] += state[0]
    state[0] = count - 1 - where[-1]
    told, _ = _tell(found)
    out[: told.size] = told
    return told.size


def _tell(found: NDArray[np.intp]) -> tuple[Bytes, NDArray[np.intp]]:
    """Return the bytes that tell gaps, and how many of them tell each: escapes, then the rest."""
    lengths = found // ESCAPE
    lengths += 1
    ends = np.cumsum(lengths)
    out = np.full(int(ends[-1]) if ends.size else 0, ESCAPE, np.uint8)
    ends -= 1
    out[ends] = found % ESCAPE
    return out, lengths


def ungaps(raw: Bytes, begin: int, count: int, coding: int, state: Integers, out: Bytes) -> int:
    """Undo `gaps` until all bits are known; return the first byte of `raw` that is not used."""
    told = raw[begin:]
    marks = told != ESCAPE  # a mark ends each run of escapes, and takes a bit itself
    before = starts(told + marks.astype(np.int64)) + state[0]
    where = before[:-1] + np.where(marks, told, 0)
    used = int(np.count_nonzero(where < count))  # they ascend
    state[0] = before[used]
    found: Bools = np.zeros(count, np.bool_)
    found[where[:used][marks[:used]]] = True
    packed = pack_bits(found)
    out[: packed.size] ^= packed
    return begin + used


def scatter(bits: Bytes, begin: int, sparser: Bytes, count: int, out: Bytes) -> int:
    """Undo `gather`; return how many bits of the shell are set."""
    taken = unpack_bits(sparser, count) if sparser.size else np.zeros(count, np.bool_)
    free = np.flatnonzero(~taken)
    skipped = begin & 7
    found = unpack_bits(bits[begin >> 3 :], skipped + free.size)[skipped:]
    taken[free] = found
    out[:] = pack_bits(taken)
    return int(np.count_nonzero(found))


def _free(sparser: Bytes, where: NDArray[np.intp]) -> Bools:
    """Return what a mask leaves free of some of its bits."""
    if not sparser.size:
        return np.ones(where.size, np.bool_)
    return ~unpack_bits(sparser, 8 * sparser.size).take(where)


def _places(sizes: Integers) -> NDArray[np.intp]:
    """Return the bit of each weight in masks that each begin on a byte."""
    return spread(8 * starts(-(-sizes // 8))[:-1], sizes)


def code_several(
    sparser: Bytes,
    denser: Bytes,
    sizes: Integers,
    codings: Integers,
    out: Bytes,
    ends: Integers,
    work: Bytes,
) -> int:
    """Code the shell masks of several tensors; return the bytes of all."""
    places = _places(sizes)
    inside = _free(sparser, places)
    free = segment_sums(inside, sizes)
    bits = unpack_bits(denser, 8 * denser.size).take(places[inside])
    plain = codings == BITS
    lengths: Integers = np.where(plain, -(-free // 8), 0)
    padded: Bools = np.zeros(8 * int(lengths.sum()), np.bool_)
    padded[spread(8 * starts(lengths)[:-1], free * plain)] = bits[np.repeat(plain, free)]

    marks = bits ^ np.repeat(codings == ZEROS, free)
    marks &= np.repeat(~plain, free)
    where, counts = np.flatnonzero(marks), segment_sums(marks, free)
    found = np.diff(where, prepend=-1) - 1
    some = np.flatnonzero(counts)
    heads = starts(counts)[some]
    found[heads] = where[heads] - starts(free)[some]
    told, each = _tell(found)
    lengths += starts(each)[starts(counts)[1:]] - starts(each)[starts(counts)[:-1]]

    ends[:] = np.cumsum(lengths)
    total = int(lengths.sum())
    gaps_there = np.repeat(~plain, lengths)
    out[:total][gaps_there] = told
    out[:total][~gaps_there] = pack_bits(padded)
    return total


def decode_several(
    raw: Bytes,
    ends: Integers,
    sparser: Bytes,
    sizes: Integers,
    codings: Integers,
    free: Integers,
    out: Bytes,
    marked: Integers,
    work: Bytes,
) -> int:
    """Undo `code_several`; tell whether the bytes of each tensor are what it makes."""
    bits: Bools = np.repeat(codings == ZEROS, free)
    lengths = np.diff(ends, prepend=0)
    raw = raw[: int(lengths.sum())]
    if not _put_bits(bits, raw, lengths, codings == BITS, free):
        return 0
    if not _put_gaps(bits, raw, lengths, codings, free):
        return 0
    marked[:] = segment_sums(bits, free)
    places = _places(sizes)
    inside = _free(sparser, places)
    whole: Bools = np.zeros(8 * out.size, np.bool_)
    whole[places[inside]] = bits
    whole[places[~inside]] = True
    out[:] = pack_bits(whole)
    return 1


def _put_bits(bits: Bools, raw: Bytes, lengths: Integers, plain: Any, free: Integers) -> bool:
    """Put the bits of the tensors that are coded as BITS; tell whether they fit."""
    sizes = -(-free[plain] // 8)
    if not np.array_equal(lengths[plain], sizes):
        return False
    data = raw[np.repeat(plain, lengths)]
    flat = unpack_bits(data, 8 * data.size)
    found = flat.take(spread(8 * starts(sizes)[:-1], free[plain]))
    bits[spread(starts(free)[:-1][plain], free[plain])] = found
    return bool(np.count_nonzero(found) == np.count_nonzero(flat))  # no spare bit is set


def _put_gaps(bits: Bools, raw: Bytes, lengths: Integers, codings: Any, free: Integers) -> bool:
    """Put the marks of the tensors that code gaps; tell whether they fit."""
    rows = np.flatnonzero(codings != BITS)
    data = raw[np.repeat(codings != BITS, lengths)]
    lengths = lengths[rows]
    ends = data != ESCAPE
    if not ends[(starts(lengths)[1:] - 1)[lengths > 0]].all():
        return False
    passed = starts(data + ends.astype(np.int64))
    where = passed[1:] - np.repeat(passed[starts(lengths)[:-1]], lengths) - 1
    if (where >= np.repeat(free[rows], lengths))[ends].any():
        return False
    where += np.repeat(starts(free)[rows], lengths)
    bits[where[ends]] = np.repeat(codings[rows] == ONES, lengths)[ends]
    return True
