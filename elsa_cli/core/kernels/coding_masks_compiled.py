"""Nested masks to coded bytes and back, compiled: 64 weights at a time."""

from __future__ import annotations

from typing import Any

import numpy as np

from elsa_cli.core.kernels.coding_masks import BITS, ESCAPE, SLACK, ZEROS
from elsa_cli.core.kernels.coding_words import (
    extract,
    load64,
    popcount,
    spread,
    store64,
    trailing_zeros,
)
from elsa_cli.core.kernels.compiling import kernel

__all__ = [
    "code_several",
    "decode_several",
    "gaps",
    "gather",
    "scatter",
    "tally",
    "ungaps",
    "valid_bits",
    "word_at",
]

ALL = np.uint64(0xFFFF_FFFF_FFFF_FFFF)
ZERO, ONE = np.uint64(0), np.uint64(1)


@kernel
def word_at(mask: Any, at: int) -> Any:
    """Return 8 bytes of a mask from byte `at`; those behind its end are 0."""
    if at + 8 <= mask.size:
        return load64(mask, at)
    word = ZERO
    for i in range(at, mask.size):
        word |= np.uint64(mask[i]) << np.uint64(8 * (i - at))
    return word


@kernel
def valid_bits(left: int) -> Any:
    """Return a word in which the lowest `left` bits are set, all if it has fewer."""
    return ALL if left >= 64 else (ONE << np.uint64(left)) - ONE


@kernel
def _put_word(mask: Any, at: int, word: Any) -> None:
    """Write 8 bytes of a mask from byte `at`, but for those behind its end."""
    if at + 8 <= mask.size:
        store64(mask, at, word)
        return
    for i in range(at, mask.size):
        mask[i] = np.uint8((word >> np.uint64(8 * (i - at))) & np.uint64(255))


@kernel
def tally(sparser: Any, denser: Any, ends: Any, kept: Any) -> int:
    """Count what a level keeps; return the first tensor where masks do not nest, or -1."""
    begin, found = 0, -1
    for n in range(ends.size):
        part = denser[begin : ends[n]]
        under = sparser[begin : ends[n]] if sparser.size else part
        whole = part.size >> 3
        total = popcount(word_at(part, 8 * whole))
        strays = word_at(under, 8 * whole) & ~word_at(part, 8 * whole)
        for at in range(whole):
            word = load64(part, 8 * at)
            total += popcount(word)
            strays |= load64(under, 8 * at) & ~word
        if strays != ZERO and found < 0:
            found = n
        kept[n] = total
        begin = ends[n]
    return found


@kernel
def gather(sparser: Any, denser: Any, count: int, state: Any, out: Any) -> int:
    """Bring the bits of a shell together; return how many bytes are whole."""
    held, many = np.uint64(state[0]), state[1]
    done = 0
    for at in range(0, (count + 7) >> 3, 8):
        free = valid_bits(count - 8 * at)
        if sparser.size:
            free &= ~word_at(sparser, at)
        bits = extract(word_at(denser, at), free)
        word = held | (bits << np.uint64(many))
        store64(out, done, word)
        total = many + popcount(free)
        done += total >> 3
        if total < 64:
            held = word >> np.uint64(total & ~7)
        else:
            held = bits >> np.uint64(64 - many) if many else ZERO
        many = total & 7
    state[0], state[1] = np.int64(held), many
    return done


@kernel
def gaps(bits: Any, count: int, coding: int, state: Any, out: Any) -> int:
    """Find the gaps between marked bits; return the number of bytes that tell them."""
    begin = -state[0]
    done = 0
    flip = ALL if coding == ZEROS else ZERO
    for at in range(0, (count + 7) >> 3, 8):
        word = (word_at(bits, at) ^ flip) & valid_bits(count - 8 * at)
        base = 8 * at
        while word:
            where = base + trailing_zeros(word)
            gap = where - begin
            begin = where + 1
            while gap >= ESCAPE:
                out[np.uint64(done)] = ESCAPE
                done += 1
                gap -= ESCAPE
            out[np.uint64(done)] = gap
            done += 1
            word &= word - ONE
    state[0] = count - begin
    return done


@kernel
def ungaps(raw: Any, begin: int, count: int, coding: int, state: Any, out: Any) -> int:
    """Undo `gaps` until all bits are known; return the first byte of `raw` that is not used."""
    where = state[0]
    at = begin
    while at < raw.size and where < count:
        gap = np.int64(raw[np.uint64(at)])
        if gap == ESCAPE:
            where += gap
        else:
            if where + gap >= count:
                break
            where += gap
            out[np.uint64(where >> 3)] ^= np.uint8(1 << (where & 7))
            where += 1
        at += 1
    state[0] = where
    return at


@kernel
def scatter(bits: Any, begin: int, sparser: Any, count: int, out: Any) -> int:
    """Undo `gather`; return how many bits of the shell are set."""
    total = 0
    at = begin
    for to in range(0, (count + 7) >> 3, 8):
        taken = word_at(sparser, to) if sparser.size else ZERO
        free = valid_bits(count - 8 * to) & ~taken
        byte, skipped = at >> 3, np.uint64(at & 7)
        word = load64(bits, byte) >> skipped
        if skipped:
            word |= np.uint64(bits[byte + 8]) << (np.uint64(64) - skipped)
        shell = spread(word, free)
        at += popcount(free)
        total += popcount(shell)
        _put_word(out, to, taken | shell)
    return total


@kernel
def code_several(sparser: Any, denser: Any, sizes: Any, codings: Any, out: Any, ends: Any) -> int:
    """Code the shell masks of several tensors; return the bytes of all."""
    largest = 0
    for size in sizes:
        largest = max(largest, size)
    together = np.empty((largest >> 3) + 1 + 2 * SLACK, np.uint8)
    state = np.zeros(2, np.int64)
    at, done = 0, 0
    for n in range(sizes.size):
        until = at + ((sizes[n] + 7) >> 3)
        under = sparser[at:until] if sparser.size else sparser
        state[0] = state[1] = 0
        whole = gather(under, denser[at:until], sizes[n], state, together)
        count = 8 * whole + state[1]
        if state[1]:
            together[whole] = state[0]
            whole += 1
        if codings[n] == BITS:
            out[done : done + whole] = together[:whole]
            done += whole
        else:
            state[0] = 0
            done += gaps(together[:whole], count, codings[n], state, out[done:])
        ends[n] = done
        at = until
    return done


@kernel
def decode_several(
    raw: Any,
    ends: Any,
    sparser: Any,
    sizes: Any,
    codings: Any,
    free: Any,
    out: Any,
    marked: Any,
) -> bool:
    """Undo `code_several`; tell whether the bytes of each tensor are what it makes."""
    largest = 0
    for size in sizes:
        largest = max(largest, size)
    together = np.empty((largest >> 3) + 1 + SLACK, np.uint8)
    state = np.zeros(1, np.int64)
    at, begin = 0, 0
    for n in range(sizes.size):
        until = at + ((sizes[n] + 7) >> 3)
        whole = (free[n] + 7) >> 3
        end = ends[n]
        if codings[n] == BITS:
            if end - begin != whole:
                return False
            together[:whole] = raw[begin:end]
            if free[n] & 7 and together[whole - 1] >> (free[n] & 7):
                return False
        else:
            together[:whole] = 255 if codings[n] == ZEROS else 0
            state[0] = 0
            part = raw[begin:end]
            if ungaps(part, 0, free[n], codings[n], state, together) != part.size:
                return False
            if part.size and part[part.size - 1] == ESCAPE:
                return False
        under = sparser[at:until] if sparser.size else sparser
        marked[n] = scatter(together, 0, under, sizes[n], out[at:until])
        at, begin = until, end
    return True
