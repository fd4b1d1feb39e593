"""Deflate, compiled: a block is counted, its codes are made, its bytes are looked up.

All tables are rows of one array, since kernels make no arrays: `work[ROW, symbol]`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

import elsa_cli.core.kernels.coding_deflate as stated
from elsa_cli.core.kernels.coding_deflate import BLOCK, END, LONGEST, LONGEST_LENGTH, ORDER, TINY
from elsa_cli.core.kernels.coding_words import store64
from elsa_cli.core.kernels.compiling import inlined, kernel

__all__ = ["code_streams"]

SYMBOLS = END + 1
TOLD = len(ORDER)  # symbols that tell code lengths
PLACES = np.array(ORDER, np.int64)
FIXED = np.array(stated.FIXED, np.int64)

# Rows of the work array, `WORK` in coding_deflate.py.
TALLY = 0  # and the three rows behind it: how often each byte comes
COUNTS, LENGTHS, CODES = 4, 5, 6  # of the symbols; a code has its length above 16 bits
USES, OWN, NAMES = 7, 8, 9  # the same three of what tells code lengths
TELLING, EXTRAS = 10, 11  # which of them tell those of a block, and the numbers behind
KEYS, WEIGHTS, PARENTS = 12, 13, 14
FOLLOWING = 15


@inlined
def _sort(work: Any, count: int) -> None:
    """Sort the first `count` keys, all different."""
    step = 1
    while step < count // 3:
        step = 3 * step + 1
    while step > 0:
        for i in range(step, count):
            key = work[KEYS, i]
            j = i
            while j >= step and work[KEYS, j - step] > key:
                work[KEYS, j] = work[KEYS, j - step]
                j -= step
            work[KEYS, j] = key
        step //= 3


@inlined
def _code_lengths(work: Any, counts: int, size: int, limit: int, lengths: int) -> None:
    """Fill in the bits of each symbol's code, from one row into another; two have a count."""
    halvings = 0
    longest = limit + 1
    while longest > limit:
        n = 0
        for s in range(size):
            work[lengths, s] = 0
            if work[counts, s] > 0:
                weight = (work[counts, s] + (1 << halvings) - 1) >> halvings
                work[KEYS, n] = (weight << 9) | s
                n += 1
        _sort(work, n)
        for i in range(n):
            work[WEIGHTS, i] = work[KEYS, i] >> 9
        leaf, joined = 0, n
        for node in range(n, 2 * n - 1):
            total = 0
            for _ in range(2):
                if joined == node or (leaf < n and work[WEIGHTS, leaf] <= work[WEIGHTS, joined]):
                    least = leaf
                    leaf += 1
                else:
                    least = joined
                    joined += 1
                total += work[WEIGHTS, least]
                work[PARENTS, least] = node
            work[WEIGHTS, node] = total
        work[WEIGHTS, 2 * n - 2] = 0  # from here on depths
        for node in range(2 * n - 3, -1, -1):
            work[WEIGHTS, node] = work[WEIGHTS, work[PARENTS, node]] + 1
        longest = 0
        for i in range(n):
            longest = max(longest, work[WEIGHTS, i])
            work[lengths, work[KEYS, i] & 511] = work[WEIGHTS, i]
        halvings += 1


@inlined
def _canonical(work: Any, lengths: int, size: int, codes: int) -> None:
    """Fill in each symbol's code, first bit lowest, and above 16 bits its length."""
    for length in range(LONGEST + 2):
        work[FOLLOWING, length] = 0
    for s in range(size):
        if work[lengths, s]:
            work[FOLLOWING, work[lengths, s] + 1] += 1
    for length in range(1, LONGEST + 2):
        work[FOLLOWING, length] = (work[FOLLOWING, length - 1] + work[FOLLOWING, length]) << 1
    for s in range(size):
        length = work[lengths, s]
        code = 0
        for bit in range(length):
            code |= ((work[FOLLOWING, length] >> bit) & 1) << (length - 1 - bit)
        work[FOLLOWING, length] += 1
        work[codes, s] = code | (length << 16)


@inlined
def _run_lengths(work: Any) -> int:
    """Tell code lengths, the one of the only distance behind them; return the number of symbols."""
    work[LENGTHS, SYMBOLS] = 0
    found, at = 0, 0
    while at <= SYMBOLS:
        length = work[LENGTHS, at]
        run = 1
        while at + run <= SYMBOLS and work[LENGTHS, at + run] == length:
            run += 1
        at += run
        first = length > 0  # the first length of a run is told by itself
        while run > 0:
            symbol, extra, taken = length, 0, 1
            if length > 0 and run >= 3 and not first:
                symbol, taken = 16, min(run, 6)
                extra = taken - 3
            elif length == 0 and run >= 11:
                symbol, taken = 18, min(run, 138)
                extra = taken - 11
            elif length == 0 and run >= 3:
                symbol, taken = 17, run
                extra = taken - 3
            first = False
            work[TELLING, found], work[EXTRAS, found] = symbol, extra
            found += 1
            run -= taken
    return found


@inlined
def _extra_bits(symbol: int) -> int:
    if symbol < 16:
        return 0
    return 7 if symbol == 18 else symbol - 14


@inlined
def _put(out: Any, state: Any, at: int, value: Any, bits: Any) -> int:
    """Write up to 48 bits; return where the byte is that is not full."""
    word = np.uint64(state[0]) | (np.uint64(value) << np.uint64(state[1]))
    held = state[1] + bits
    store64(out, at, word)
    state[0] = np.int64(word >> np.uint64(held & ~7))
    state[1] = held & 7
    return at + int(held >> 3)


@inlined
def _put_bytes(data: Any, begin: int, end: int, work: Any, state: Any, out: Any, at: int) -> int:
    """Write the codes of bytes: three of them are less than 57 bits, and 7 may be held."""
    word, held = np.uint64(state[0]), np.uint64(state[1])
    low, high = np.uint64(0xFFFF), np.uint64(16)
    seven, eights = np.uint64(7), np.uint64(56)
    i = begin
    while i + 3 <= end:
        for j in range(3):
            entry = np.uint64(work[CODES, np.uint64(data[np.uint64(i + j)])])
            word |= (entry & low) << held
            held += entry >> high
        store64(out, at, word)
        at += int(held >> np.uint64(3))
        word >>= held & eights
        held &= seven
        i += 3
    state[0], state[1] = np.int64(word), np.int64(held)
    while i < end:
        code = work[CODES, data[i]]
        at = _put(out, state, at, code & 0xFFFF, code >> 16)
        i += 1
    return at


@inlined
def _count(data: Any, begin: int, end: int, work: Any) -> None:
    """Count bytes, in four rows: one would wait for itself where a byte is frequent."""
    for row in range(TALLY, TALLY + 4):
        for s in range(END):
            work[row, s] = 0
    i = begin
    while i + 4 <= end:
        for j in range(4):
            work[TALLY + j, np.uint64(data[np.uint64(i + j)])] += 1
        i += 4
    while i < end:
        work[TALLY, data[i]] += 1
        i += 1
    for s in range(END):
        work[COUNTS, s] = (
            work[TALLY, s] + work[TALLY + 1, s] + work[TALLY + 2, s] + work[TALLY + 3, s]
        )
    work[COUNTS, END] = 1


@inlined
def _dynamic(work: Any) -> Any:
    """Make the codes of a block.

    Returns:
        How many symbols tell the code lengths, of how many of these the lengths are written, the
        bits of the block.
    """
    _code_lengths(work, COUNTS, SYMBOLS, LONGEST, LENGTHS)
    number = _run_lengths(work)
    for s in range(TOLD):
        work[USES, s] = 0
    for i in range(number):
        work[USES, work[TELLING, i]] += 1
    _code_lengths(work, USES, TOLD, LONGEST_LENGTH, OWN)
    written = TOLD
    while written > 4 and work[OWN, PLACES[written - 1]] == 0:
        written -= 1
    bits = 17 + 3 * written
    for s in range(TOLD):
        bits += work[USES, s] * (work[OWN, s] + _extra_bits(s))
    for s in range(SYMBOLS):
        bits += work[COUNTS, s] * work[LENGTHS, s]
    return number, written, bits


@inlined
def _put_lengths(number: int, written: int, work: Any, state: Any, out: Any, at: int) -> int:
    """Write the header of a dynamic block, but for its first three bits."""
    at = _put(out, state, at, (written - 4) << 10, 14)
    for i in range(written):
        at = _put(out, state, at, work[OWN, PLACES[i]], 3)
    _canonical(work, OWN, TOLD, NAMES)
    for i in range(number):
        code = work[NAMES, work[TELLING, i]]
        bits = code >> 16
        value = (code & 0xFFFF) | (work[EXTRAS, i] << bits)
        at = _put(out, state, at, value, bits + _extra_bits(work[TELLING, i]))
    return at


@inlined
def _block(
    data: Any, begin: int, end: int, final: int, state: Any, out: Any, at: int, work: Any
) -> int:
    """Write a block in the shortest of three ways; return where the byte is that is not full."""
    size = end - begin
    _count(data, begin, end, work)
    stored = 3 + ((-state[1] - 3) & 7) + 32 + 8 * size
    fixed = 3
    for s in range(SYMBOLS):
        fixed += work[COUNTS, s] * FIXED[s]
    number, written, dynamic = 0, 0, fixed
    if size >= TINY:
        number, written, dynamic = _dynamic(work)
    if stored <= min(fixed, dynamic):
        at = _put(out, state, at, final, 3)
        at = _put(out, state, at, 0, (-state[1]) & 7)
        at = _put(out, state, at, size | ((size ^ 0xFFFF) << 16), 32)
        for i in range(size):
            out[at + i] = data[begin + i]
        return at + size
    way = 1 if fixed <= dynamic else 2
    at = _put(out, state, at, final | (way << 1), 3)
    if way == 1:
        for s in range(FIXED.size):
            work[LENGTHS, s] = FIXED[s]
    else:
        at = _put_lengths(number, written, work, state, out, at)
    _canonical(work, LENGTHS, FIXED.size if way == 1 else SYMBOLS, CODES)
    at = _put_bytes(data, begin, end, work, state, out, at)
    code = work[CODES, END]
    return _put(out, state, at, code & 0xFFFF, code >> 16)


@kernel
def code_streams(
    data: Any, ends: Any, last: int, state: Any, out: Any, sizes: Any, work: Any
) -> int:
    """Code each of some parts of `data`; return the bytes of all."""
    at, begin = 0, 0
    for n in range(ends.size):
        first = at
        more = 1
        while more:
            end = min(begin + BLOCK, ends[n])
            more = 1 if end < ends[n] else 0
            final = 1 if last and not more else 0
            at = _block(data, begin, end, final, state, out, at, work)
            begin = end
        if last:
            at = _put(out, state, at, 0, (-state[1]) & 7)
        sizes[n] = at - first
    return at
