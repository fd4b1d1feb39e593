"""Deflate, compiled: a block is counted, its codes are made, its bytes are looked up."""

from __future__ import annotations

from typing import Any

import numpy as np

from elsa_cli.core.kernels.coding_deflate import (
    BLOCK,
    END,
    LONGEST,
    LONGEST_LENGTH,
    ORDER,
    TINY,
)
from elsa_cli.core.kernels.coding_deflate import FIXED as FIXED_LENGTHS
from elsa_cli.core.kernels.coding_words import store64
from elsa_cli.core.kernels.compiling import kernel

__all__ = ["code_streams"]

SYMBOLS = END + 1
PLACES = np.array(ORDER, np.int64)
FIXED = np.array(FIXED_LENGTHS, np.int64)


@kernel
def _sort(keys: Any, count: int) -> None:
    """Sort the first `count` keys, all different."""
    step = 1
    while step < count // 3:
        step = 3 * step + 1
    while step > 0:
        for i in range(step, count):
            key = keys[i]
            j = i
            while j >= step and keys[j - step] > key:
                keys[j] = keys[j - step]
                j -= step
            keys[j] = key
        step //= 3


@kernel
def _code_lengths(counts: Any, limit: int, lengths: Any) -> None:
    """Fill in the bits of each symbol's code; at least two symbols have a count."""
    size = counts.size
    keys = np.empty(size, np.int64)
    weights = np.empty(2 * size, np.int64)
    parents = np.empty(2 * size, np.int64)
    halvings = 0
    while True:
        n = 0
        for s in range(size):
            lengths[s] = 0
            if counts[s] > 0:
                weight = (counts[s] + (1 << halvings) - 1) >> halvings
                keys[n] = (weight << 9) | s
                n += 1
        _sort(keys, n)
        for i in range(n):
            weights[i] = keys[i] >> 9
        leaf, joined = 0, n
        for node in range(n, 2 * n - 1):
            total = 0
            for _ in range(2):
                if joined == node or (leaf < n and weights[leaf] <= weights[joined]):
                    least = leaf
                    leaf += 1
                else:
                    least = joined
                    joined += 1
                total += weights[least]
                parents[least] = node
            weights[node] = total
        weights[2 * n - 2] = 0  # from here on depths
        for node in range(2 * n - 3, -1, -1):
            weights[node] = weights[parents[node]] + 1
        longest = 0
        for i in range(n):
            longest = max(longest, weights[i])
            lengths[keys[i] & 511] = weights[i]
        if longest <= limit:
            return
        halvings += 1


@kernel
def _canonical(lengths: Any, table: Any) -> None:
    """Fill in each symbol's code, first bit lowest, and above 16 bits its length."""
    following = np.zeros(LONGEST + 2, np.int64)
    for length in lengths:
        if length:
            following[length + 1] += 1
    for length in range(1, LONGEST + 2):
        following[length] = (following[length - 1] << 1) + (following[length] << 1)
    for s in range(lengths.size):
        length = lengths[s]
        code = 0
        for bit in range(length):
            code |= ((following[length] >> bit) & 1) << (length - 1 - bit)
        following[length] += 1
        table[s] = np.uint64(code | (length << 16))


@kernel
def _run_lengths(lengths: Any, symbols: Any, extras: Any) -> int:
    """Tell code lengths, the one of the only distance behind them; return the number of symbols."""
    found = 0
    at = 0
    total = lengths.size + 1
    while at < total:
        length = lengths[at] if at < lengths.size else 0
        run = 1
        while at + run < total and (lengths[at + run] if at + run < lengths.size else 0) == length:
            run += 1
        at += run
        if length:
            symbols[found], extras[found] = length, 0
            found += 1
            run -= 1
        while run >= 3:
            if length:
                taken = min(run, 6)
                symbols[found], extras[found] = 16, taken - 3
            elif run <= 10:
                taken = run
                symbols[found], extras[found] = 17, taken - 3
            else:
                taken = min(run, 138)
                symbols[found], extras[found] = 18, taken - 11
            found += 1
            run -= taken
        for _ in range(run):
            symbols[found], extras[found] = length, 0
            found += 1
    return found


@kernel
def _extra_bits(symbol: int) -> int:
    if symbol < 16:
        return 0
    return 7 if symbol == 18 else symbol - 14


@kernel
def _put(out: Any, state: Any, at: int, value: Any, bits: Any) -> int:
    """Write up to 48 bits; return where the byte is that is not full."""
    word = np.uint64(state[0]) | (np.uint64(value) << np.uint64(state[1]))
    held = state[1] + bits
    store64(out, at, word)
    state[0] = np.int64(word >> np.uint64(held & ~7))
    state[1] = held & 7
    return at + int(held >> 3)


@kernel
def _put_bytes(data: Any, table: Any, state: Any, out: Any, at: int) -> int:
    """Write the codes of bytes: three of them are less than 57 bits, and 7 may be held."""
    word, held = np.uint64(state[0]), np.uint64(state[1])
    low, high = np.uint64(0xFFFF), np.uint64(16)
    seven, eights = np.uint64(7), np.uint64(56)
    i = 0
    while i + 3 <= data.size:
        for j in range(3):
            entry = table[data[np.uint64(i + j)]]
            word |= (entry & low) << held
            held += entry >> high
        store64(out, at, word)
        at += int(held >> np.uint64(3))
        word >>= held & eights
        held &= seven
        i += 3
    state[0], state[1] = np.int64(word), np.int64(held)
    while i < data.size:
        entry = table[data[i]]
        at = _put(out, state, at, np.int64(entry & low), np.int64(entry >> high))
        i += 1
    return at


@kernel
def _count(data: Any, counts: Any) -> None:
    """Count bytes, in four tables: one would wait for itself where a byte is frequent."""
    tables = np.zeros((4, 256), np.int32)
    whole = data.size & ~3
    for i in range(0, whole, 4):
        for j in range(4):
            tables[j, data[np.uint64(i + j)]] += np.int32(1)
    for i in range(whole, data.size):
        tables[0, data[i]] += np.int32(1)
    for s in range(256):
        counts[s] = tables[0, s] + tables[1, s] + tables[2, s] + tables[3, s]


@kernel
def _dynamic(counts: Any, lengths: Any, told: Any, symbols: Any, extras: Any) -> Any:
    """Make the codes of a block: fill in all about its header.

    Args:
        counts: (257,): how often each symbol comes.
        lengths: (257,): filled with the bits of each symbol's code.
        told: (19,): filled with the bits of each code that tells a length.
        symbols: (258,): filled with what tells the lengths.
        extras: (258,): filled with the numbers behind them.

    Returns:
        How many symbols tell the lengths, how many of `told` are written, the bits of the block.
    """
    _code_lengths(counts, LONGEST, lengths)
    number = _run_lengths(lengths, symbols, extras)
    uses = np.zeros(PLACES.size, np.int64)
    for i in range(number):
        uses[symbols[i]] += 1
    _code_lengths(uses, LONGEST_LENGTH, told)
    written = PLACES.size
    while written > 4 and told[PLACES[written - 1]] == 0:
        written -= 1
    bits = 17 + 3 * written
    for s in range(PLACES.size):
        bits += uses[s] * (told[s] + _extra_bits(s))
    for s in range(SYMBOLS):
        bits += counts[s] * lengths[s]
    return number, written, bits


@kernel
def _put_lengths(
    number: int, written: int, told: Any, symbols: Any, extras: Any, state: Any, out: Any, at: int
) -> int:
    """Write the header of a dynamic block, but for its first three bits."""
    at = _put(out, state, at, (written - 4) << 10, 14)
    for i in range(written):
        at = _put(out, state, at, told[PLACES[i]], 3)
    table = np.empty(PLACES.size, np.uint64)
    _canonical(told, table)
    for i in range(number):
        entry = np.int64(table[symbols[i]])
        bits = entry >> 16
        value = (entry & 0xFFFF) | (extras[i] << bits)
        at = _put(out, state, at, value, bits + _extra_bits(symbols[i]))
    return at


@kernel
def _block(data: Any, last: bool, state: Any, out: Any, at: int) -> int:
    """Write a block in the shortest of three ways; return where the byte is that is not full."""
    final = 1 if last else 0
    counts = np.empty(SYMBOLS, np.int64)
    _count(data, counts)
    counts[END] = 1
    stored = 3 + ((-state[1] - 3) & 7) + 32 + 8 * data.size
    fixed = 3
    for s in range(SYMBOLS):
        fixed += counts[s] * FIXED[s]
    lengths = np.empty(SYMBOLS, np.int64)
    told = np.empty(PLACES.size, np.int64)
    symbols = np.empty(SYMBOLS + 1, np.int64)
    extras = np.empty(SYMBOLS + 1, np.int64)
    number, written, dynamic = 0, 0, fixed
    if data.size >= TINY:
        number, written, dynamic = _dynamic(counts, lengths, told, symbols, extras)
    if stored <= min(fixed, dynamic):
        at = _put(out, state, at, final, 3)
        at = _put(out, state, at, 0, (-state[1]) & 7)
        at = _put(out, state, at, data.size | ((data.size ^ 0xFFFF) << 16), 32)
        out[at : at + data.size] = data
        return at + int(data.size)
    table = np.empty(FIXED.size, np.uint64)
    if fixed <= dynamic:
        at = _put(out, state, at, final | (1 << 1), 3)
        _canonical(FIXED, table)
    else:
        at = _put(out, state, at, final | (2 << 1), 3)
        at = _put_lengths(number, written, told, symbols, extras, state, out, at)
        _canonical(lengths, table)
    at = _put_bytes(data, table, state, out, at)
    entry = np.int64(table[END])
    return _put(out, state, at, entry & 0xFFFF, entry >> 16)


@kernel
def code_streams(data: Any, ends: Any, last: bool, state: Any, out: Any, sizes: Any) -> int:
    """Code each of some parts of `data`; return the bytes of all."""
    at, begin = 0, 0
    for n in range(ends.size):
        end, first = ends[n], at
        while begin + BLOCK < end:
            at = _block(data[begin : begin + BLOCK], False, state, out, at)
            begin += BLOCK
        at = _block(data[begin:end], last, state, out, at)
        if last:
            at = _put(out, state, at, 0, (-state[1]) & 7)
        sizes[n] = at - first
        begin = end
    return at
