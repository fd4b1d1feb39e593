"""Nested masks to coded bytes and back, compiled: 64 weights at a time."""

from __future__ import annotations

from typing import Any

import numpy as np

from elsa_cli.core.kernels.coding_masks import BITS, ESCAPE, SLACK, ZEROS
from elsa_cli.core.kernels.coding_words import load64, popcount, store64, trailing_zeros
from elsa_cli.core.kernels.compiling import kernel

__all__ = ["code_several", "decode_several", "gaps", "gather", "scatter", "tally", "ungaps"]

ALL = np.uint64(0xFFFF_FFFF_FFFF_FFFF)
ZERO, ONE = np.uint64(0), np.uint64(1)


def _gathered() -> Any:
    """Return for each byte of free bits, and each byte, the bits that are free, (256, 256)."""
    table = np.zeros((256, 256), np.uint8)
    byte = np.arange(256)
    for free in range(256):
        to = 0
        for bit in range(8):
            if free >> bit & 1:
                table[free] |= ((byte >> bit & 1) << to).astype(np.uint8)
                to += 1
    return table.reshape(-1)


def _scattered() -> Any:
    """Return for each byte of free bits, and each byte, its bits put there, (256, 256)."""
    table = np.zeros((256, 256), np.uint8)
    byte = np.arange(256)
    for free in range(256):
        at = 0
        for bit in range(8):
            if free >> bit & 1:
                table[free] |= ((byte >> at & 1) << bit).astype(np.uint8)
                at += 1
    return table.reshape(-1)


GATHERED, SCATTERED = _gathered(), _scattered()


@kernel
def _word(mask: Any, at: int) -> Any:
    """Return 8 bytes of a mask from byte `at`; those behind its end are 0."""
    if at + 8 <= mask.size:
        return load64(mask, at)
    word = ZERO
    for i in range(at, mask.size):
        word |= np.uint64(mask[i]) << np.uint64(8 * (i - at))
    return word


@kernel
def _valid(left: int) -> Any:
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
        end = ends[n]
        part = denser[begin:end]
        under = sparser[begin:end]
        total = 0
        strays = ZERO
        for at in range(0, part.size, 8):
            word = _word(part, at)
            total += popcount(word)
            if under.size:
                strays |= _word(under, at) & ~word
        if strays != ZERO and found < 0:
            found = n
        kept[n] = total
        begin = end
    return found


@kernel
def gather(sparser: Any, denser: Any, count: int, state: Any, out: Any) -> int:
    """Bring the bits of a shell together; return how many bytes are whole."""
    word, held = np.uint64(state[0]), np.uint64(state[1])
    byte, eight, seven = np.uint64(255), np.uint64(8), np.uint64(7)
    done = 0
    for at in range(0, (count + 7) >> 3, 8):
        valid = _valid(count - 8 * at)
        free = valid & ~_word(sparser, at) if sparser.size else valid
        bits = _word(denser, at) & free
        for half in range(2):
            # Four bytes give 32 bits at most, and 7 may be held.
            few_free, few = free >> np.uint64(32 * half), bits >> np.uint64(32 * half)
            for _ in range(4):
                found = GATHERED[((few_free & byte) << eight) | (few & byte)]
                word |= np.uint64(found) << held
                held += np.uint64(popcount(few_free & byte))
                few_free >>= eight
                few >>= eight
            store64(out, done, word)
            done += int(held >> np.uint64(3))
            word >>= held & ~seven
            held &= seven
    state[0], state[1] = np.int64(word), np.int64(held)
    return done


@kernel
def gaps(bits: Any, count: int, coding: int, state: Any, out: Any) -> int:
    """Find the gaps between marked bits; return the number of bytes that tell them."""
    begin = -state[0]
    done = 0
    flip = ALL if coding == ZEROS else ZERO
    for at in range(0, (count + 7) >> 3, 8):
        word = (_word(bits, at) ^ flip) & _valid(count - 8 * at)
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
    byte, eight = np.uint64(255), np.uint64(8)
    total = 0
    at = begin
    for to in range(0, (count + 7) >> 3, 8):
        valid = _valid(count - 8 * to)
        taken = _word(sparser, to) if sparser.size else ZERO
        free = valid & ~taken
        shell = ZERO
        for half in range(2):
            few_free = free >> np.uint64(32 * half)
            few = load64(bits, at >> 3) >> np.uint64(at & 7)
            for i in range(4):
                part = few_free & byte
                found = SCATTERED[(part << eight) | (few & byte)]
                shell |= np.uint64(found) << np.uint64(32 * half + 8 * i)
                size = popcount(part)
                few >>= np.uint64(size)
                at += size
                few_free >>= eight
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
