"""Nested masks to coded bytes and back, compiled: 64 weights at a time."""

from __future__ import annotations

from typing import Any

import numpy as np

from elsa_cli.core.kernels.coding_masks import BITS, ESCAPE, ZEROS
from elsa_cli.core.kernels.coding_words import extract, load64, spread, store64
from elsa_cli.core.kernels.compiling import inlined, kernel
from elsa_cli.core.kernels.vectors import ones, zeros_before

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


@inlined
def word_at(mask: Any, at: int, end: int) -> Any:
    """Return 8 bytes of a mask from byte `at`; those from byte `end` on are 0."""
    if at + 8 <= end:
        return load64(mask, at)
    word = ZERO
    for i in range(at, end):
        word |= np.uint64(mask[i]) << np.uint64(8 * (i - at))
    return word


@inlined
def valid_bits(left: int) -> Any:
    """Return a word in which the lowest `left` bits are set, all if it has fewer."""
    return ALL if left >= 64 else (ONE << np.uint64(left)) - ONE


@inlined
def _put_word(mask: Any, at: int, end: int, word: Any) -> None:
    """Write 8 bytes of a mask from byte `at`, but for those from byte `end` on."""
    if at + 8 <= end:
        store64(mask, at, word)
        return
    for i in range(at, end):
        mask[i] = np.uint8((word >> np.uint64(8 * (i - at))) & np.uint64(255))


@kernel
def tally(sparser: Any, denser: Any, ends: Any, kept: Any) -> int:
    """Count what a level keeps; return the first tensor where masks do not nest, or -1."""
    begin, found = 0, -1
    nested = sparser.size > 0
    for n in range(ends.size):
        end = ends[n]
        last = begin + ((end - begin) & ~7)
        word = word_at(denser, last, end)
        total = ones(word)
        strays = word_at(sparser, last, end) & ~word if nested else ZERO
        for at in range(begin, last, 8):
            total += ones(load64(denser, at))
        if nested:
            for at in range(begin, last, 8):
                strays |= load64(sparser, at) & ~load64(denser, at)
        if strays != ZERO and found < 0:
            found = n
        kept[n] = total
        begin = end
    return found


@inlined
def _gather(
    sparser: Any, denser: Any, begin: int, count: int, held: Any, many: int, out: Any
) -> Any:
    """Bring bits together from byte `begin` of masks; return (whole bytes, bits over, how many)."""
    done = 0
    end = begin + ((count + 7) >> 3)
    for at in range(begin, end, 8):
        free = valid_bits(count - 8 * (at - begin))
        if sparser.size:
            free &= ~word_at(sparser, at, end)
        bits = extract(word_at(denser, at, end), free)
        word = held | (bits << np.uint64(many))
        store64(out, done, word)
        total = many + ones(free)
        done += total >> 3
        if total < 64:
            held = word >> np.uint64(total & ~7)
        else:
            held = bits >> np.uint64(64 - many) if many else ZERO
        many = total & 7
    return done, held, many


@kernel
def gather(sparser: Any, denser: Any, count: int, state: Any, out: Any) -> int:
    """Bring the bits of a shell together; return how many bytes are whole."""
    held = np.uint64(state[0])
    done, held, many = _gather(sparser, denser, 0, count, held, state[1], out)
    state[0], state[1] = np.int64(held), many
    return int(done)


@inlined
def _gaps(bits: Any, count: int, coding: int, gap: int, out: Any, done: int) -> Any:
    """Find gaps; return (bytes of `out` in use, bits since the last mark)."""
    begin = -gap
    flip = ALL if coding == ZEROS else ZERO
    end = (count + 7) >> 3
    for at in range(0, end, 8):
        word = (word_at(bits, at, end) ^ flip) & valid_bits(count - 8 * at)
        base = 8 * at
        while word:
            where = base + zeros_before(word)
            gap = where - begin
            begin = where + 1
            while gap >= ESCAPE:
                out[np.uint64(done)] = ESCAPE
                done += 1
                gap -= ESCAPE
            out[np.uint64(done)] = gap
            done += 1
            word &= word - ONE
    return done, count - begin


@kernel
def gaps(bits: Any, count: int, coding: int, state: Any, out: Any) -> int:
    """Find the gaps between marked bits; return the number of bytes that tell them."""
    done, state[0] = _gaps(bits, count, coding, state[0], out, 0)
    return int(done)


@inlined
def _ungaps(raw: Any, at: int, end: int, count: int, where: int, out: Any) -> Any:
    """Mark bits; return (the first byte that is not used, where the next gap begins)."""
    while at < end and where < count:
        gap = int(raw[np.uint64(at)])
        if gap == ESCAPE:
            where += gap
        else:
            if where + gap >= count:
                break
            where += gap
            out[np.uint64(where >> 3)] ^= np.uint8(1 << (where & 7))
            where += 1
        at += 1
    return at, where


@kernel
def ungaps(raw: Any, begin: int, count: int, coding: int, state: Any, out: Any) -> int:
    """Undo `gaps` until all bits are known; return the first byte of `raw` that is not used."""
    at, state[0] = _ungaps(raw, begin, raw.size, count, state[0], out)
    return int(at)


@inlined
def _scatter(bits: Any, at: int, sparser: Any, begin: int, count: int, out: Any) -> int:
    """Put bits apart from byte `begin` of masks; return how many of the shell are set."""
    total = 0
    end = begin + ((count + 7) >> 3)
    for to in range(begin, end, 8):
        taken = word_at(sparser, to, end) if sparser.size else ZERO
        free = valid_bits(count - 8 * (to - begin)) & ~taken
        byte, skipped = at >> 3, np.uint64(at & 7)
        word = load64(bits, byte) >> skipped
        if skipped:
            word |= np.uint64(bits[byte + 8]) << (np.uint64(64) - skipped)
        shell = spread(word, free)
        at += ones(free)
        total += ones(shell)
        _put_word(out, to, end, taken | shell)
    return total


@kernel
def scatter(bits: Any, begin: int, sparser: Any, count: int, out: Any) -> int:
    """Undo `gather`; return how many bits of the shell are set."""
    return _scatter(bits, begin, sparser, 0, count, out)


@kernel
def code_several(
    sparser: Any, denser: Any, sizes: Any, codings: Any, out: Any, ends: Any, work: Any
) -> int:
    """Code the shell masks of several tensors; return the bytes of all."""
    at, done = 0, 0
    for n in range(sizes.size):
        whole, held, many = _gather(sparser, denser, at, sizes[n], ZERO, 0, work)
        count = 8 * whole + many
        if many:
            work[whole] = held
            whole += 1
        if codings[n] == BITS:
            for i in range(whole):
                out[done + i] = work[i]
            done += whole
        else:
            done, _ = _gaps(work, count, codings[n], 0, out, done)
        ends[n] = done
        at += (sizes[n] + 7) >> 3
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
    work: Any,
) -> int:
    """Undo `code_several`; tell whether the bytes of each tensor are what it makes."""
    to, begin = 0, 0
    for n in range(sizes.size):
        whole = (free[n] + 7) >> 3
        end = ends[n]
        if codings[n] == BITS:
            if end - begin != whole:
                return 0
            for i in range(whole):
                work[i] = raw[begin + i]
            if free[n] & 7 and work[whole - 1] >> (free[n] & 7):
                return 0
        else:
            for i in range(whole):
                work[i] = 255 if codings[n] == ZEROS else 0
            used, _ = _ungaps(raw, begin, end, free[n], 0, work)
            if used != end or (end > begin and raw[end - 1] == ESCAPE):
                return 0
        marked[n] = _scatter(work, 0, sparser, to, sizes[n], out)
        to += (sizes[n] + 7) >> 3
        begin = end
    return 1
