"""Deflate streams written bit by bit, from docs/format.md alone."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["by_the_page"]

FIXED = [8] * 144 + [9] * 112 + [7] * 24 + [8] * 8
ORDER = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15]


def lengths_of(counts: Sequence[int], limit: int) -> list[int]:
    """Return the bits of each symbol's code: Huffman's, with halved counts if too long."""
    while True:
        # Symbols first where counts are equal, then trees in the order in which they were made.
        trees = [(count, 0, s, [s]) for s, count in enumerate(counts) if count]
        lengths = [0] * len(counts)
        made = 0
        while len(trees) > 1:
            trees.sort()
            (a, _, _, some), (b, _, _, others) = trees[:2]
            for s in some + others:
                lengths[s] += 1
            made += 1
            trees[:2] = [(a + b, 1, made, some + others)]
        if max(lengths) <= limit:
            return lengths
        counts = [-(-count // 2) for count in counts]


def codes_of(lengths: Sequence[int]) -> dict[int, str]:
    """Return the codes as RFC 1951, section 3.2.2, gives them, the first bit on the left."""
    found, code = {}, 0
    for length in range(1, 16):
        for s in (s for s, found_length in enumerate(lengths) if found_length == length):
            found[s] = f"{code:0{length}b}"
            code += 1
        code *= 2
    return found


def number(value: int, bits: int) -> str:
    """Return a number as it stands in a stream, the lowest bit first."""
    return f"{value:0{bits}b}"[::-1] if bits else ""


def told(lengths: Sequence[int]) -> list[tuple[int, str]]:
    """Return the symbols that tell code lengths, and the bits behind each."""
    found, at = [], 0
    while at < len(lengths):
        length, run = lengths[at], 1
        while lengths[at + run : at + run + 1] == [length]:
            run += 1
        at += run
        if length:
            found.append((length, ""))
            run -= 1
        while run:
            if length and run >= 3:
                step = min(run, 6)
                found.append((16, number(step - 3, 2)))
            elif run >= 11:
                step = min(run, 138)
                found.append((18, number(step - 11, 7)))
            elif run >= 3:
                step = run
                found.append((17, number(step - 3, 3)))
            else:
                step = 1
                found.append((length, ""))
            run -= step
    return found


def dynamic(block: bytes, counts: Sequence[int]) -> str:
    lengths = lengths_of(counts, 15)
    symbols = told([*lengths, 0])
    own = lengths_of([sum(s == symbol for s, _ in symbols) for symbol in range(19)], 7)
    written = [own[s] for s in ORDER]
    while len(written) > 4 and not written[-1]:
        written.pop()
    bits = "01" + number(0, 5) + number(0, 5) + number(len(written) - 4, 4)
    bits += "".join(number(length, 3) for length in written)
    names = codes_of(own)
    bits += "".join(names[s] + extra for s, extra in symbols)
    codes = codes_of(lengths)
    return bits + "".join(codes[byte] for byte in block) + codes[256]


def by_the_page(raw: bytes) -> bytes:
    """Return the stream of some bytes."""
    parts: list[str] = []
    held = 0  # bits so far
    for begin in range(0, max(len(raw), 1), 65_535):
        block = raw[begin : begin + 65_535]
        final = "1" if begin + 65_535 >= len(raw) else "0"
        counts = [block.count(byte) for byte in range(256)] + [1]
        pad = "0" * (-(held + 3) % 8)
        size = number(len(block), 16) + number(len(block) ^ 0xFFFF, 16)
        stored = "00" + pad + size + "".join(number(byte, 8) for byte in block)
        codes = codes_of(FIXED)
        ways = [stored, "10" + "".join(codes[byte] for byte in block) + codes[256]]
        if len(block) >= 32:
            ways.append(dynamic(block, counts))
        way = final + min(ways, key=len)  # the first of those that are as short
        parts.append(way)
        held += len(way)
    bits = "".join(parts)
    bits += "0" * (-len(bits) % 8)
    return bytes(int(bits[at : at + 8][::-1], 2) for at in range(0, len(bits), 8))
