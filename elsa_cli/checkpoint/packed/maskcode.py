"""The coded shell masks of a packed checkpoint: within 3 % of the entropy at any density.

Which coding a mask has follows from its counts: where one weight in eight or fewer is marked, the
gaps between the marked ones are coded, a byte each; where seven in eight or more are, the gaps
between the others; else the bits themselves, eight to a byte. The bytes go through raw deflate with
Huffman codes only. Huffman codes cannot take less than a bit for a byte of mask, which is why few
ones are better told by their gaps; they are also fewer bytes to code.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from elsa_cli.core.bits import Bools, Bytes, Deflater, pack_bits, unpack_bits

__all__ = [
    "BITS",
    "ESCAPE",
    "ONES",
    "ZEROS",
    "MaskCoder",
    "MaskStream",
    "Positions",
    "coding_of",
    "complement",
    "spell",
]

BITS, ONES, ZEROS = "bits", "gaps between ones", "gaps between zeros"
ESCAPE = 255  # a byte of this value adds to the gap that follows it
READ = 1 << 16  # coded bytes read at a time

Positions = NDArray[np.intp]
NONE: Positions = np.zeros(0, np.intp)


def coding_of(marked: int, free: int) -> str:
    """Return how the mask of a shell is coded.

    Args:
        marked: Weights of the shell.
        free: Weights that no sparser level keeps, the shell's among them.
    """
    if 8 * marked < free:
        return ONES
    return ZEROS if 8 * (free - marked) < free else BITS


def spell(gaps: Positions) -> tuple[Bytes, Positions]:
    """Return the bytes that tell gaps, and how many of them tell each: escapes, then the rest."""
    lengths = gaps // ESCAPE
    lengths += 1
    ends = np.cumsum(lengths)
    out = np.full(int(ends[-1]) if ends.size else 0, ESCAPE, np.uint8)
    ends -= 1
    out[ends] = gaps % ESCAPE
    return out, lengths


class MaskCoder:
    """Codes one shell mask of one tensor.

    Args:
        coding: From `coding_of`.
        sink: Takes the coded bytes, a few at a time.
    """

    def __init__(self, coding: str, sink: Callable[[bytes], object]) -> None:
        """Begin with no bit."""
        self._coding = coding
        self._deflater = Deflater(sink)
        self._bits: Bools = np.zeros(0, np.bool_)
        self._gap = 0

    def write(self, bits: Bools) -> None:
        """Code some more bits, of any number."""
        if self._coding != BITS:
            self._write_gaps(np.flatnonzero(bits if self._coding == ONES else ~bits), bits.size)
            return
        bits = np.concatenate([self._bits, bits]) if self._bits.size else bits
        whole = bits.size & ~7
        self._deflater.write(pack_bits(bits[:whole]))
        self._bits = bits[whole:]

    def _write_gaps(self, where: Positions, count: int) -> None:
        if not where.size:
            self._gap += count
            return
        gaps = np.diff(where, prepend=-1) - 1
        gaps[0] += self._gap
        self._gap = count - 1 - int(where[-1])
        self._deflater.write(spell(gaps)[0])

    def close(self) -> None:
        """Code what is left and end the stream."""
        self._deflater.write(pack_bits(self._bits))
        self._deflater.close()


class MaskStream:
    """Reads one shell mask of one tensor, some bits at a time.

    Args:
        coding: From `coding_of`.
        read: Returns up to so many further coded bytes, b"" at the end.
    """

    def __init__(self, coding: str, read: Callable[[int], bytes]) -> None:
        """Begin before the first bit."""
        self._coding = coding
        self._read = read
        self._inflater = zlib.decompressobj(-15)
        self._bits: Bools = np.zeros(0, np.bool_)
        # Both count from the next bit to be taken: marks that are decoded and not yet taken, and
        # where the gap begins that is decoded next.
        self._marks = NONE
        self._end = 0
        self._ended = False

    def take(self, count: int, *, zeros: bool = True) -> tuple[Positions, Positions]:
        """Return where ones are among the next `count` bits, and where zeros are, ascending.

        Args:
            count: Number of bits.
            zeros: Whether the second result is wanted; else it may be empty.

        Raises:
            ValueError: The stream is damaged or has fewer bits.
        """
        if self._coding == BITS:
            bits = self._take_bits(count)
            return np.flatnonzero(bits), np.flatnonzero(~bits) if zeros else NONE
        where = self._take_marks(count)
        if self._coding == ONES:
            return where, complement(where, count) if zeros else NONE
        return complement(where, count), where

    def _take_bits(self, count: int) -> Bools:
        parts = [self._bits]
        have = self._bits.size
        while have < count:
            raw = np.frombuffer(self._inflate(-(-(count - have) // 8)), np.uint8)
            if not raw.size:
                raise ValueError("the coded mask ends early")
            parts.append(unpack_bits(raw, 8 * raw.size))
            have += 8 * raw.size
        bits = np.concatenate(parts) if len(parts) > 1 else self._bits
        self._bits = bits[count:]
        return bits[:count]

    def _take_marks(self, count: int) -> Positions:
        parts = [self._marks]
        while self._end < count and not self._ended:
            raw: Bytes = np.frombuffer(self._inflate(READ), np.uint8)
            if not raw.size:
                self._ended = True
                break
            # A mark ends each run of escapes, and takes a bit itself.
            ends = np.cumsum(raw, dtype=np.intp)
            passed = int(ends[-1])
            if int(raw.max()) == ESCAPE:
                ends = ends.take(np.flatnonzero(raw != ESCAPE))
            ends += np.arange(self._end, self._end + ends.size)
            parts.append(ends)
            self._end += passed + ends.size
        known = np.concatenate(parts) if len(parts) > 1 else self._marks
        taken = int(np.searchsorted(known, count))
        self._marks = known[taken:] - count
        self._end -= count
        return known[:taken]

    def _inflate(self, size: int) -> bytes:
        try:
            while not self._inflater.eof:
                coded = self._inflater.unconsumed_tail or self._read(READ)
                raw = self._inflater.decompress(coded, size)
                if raw or not coded:
                    return raw
        except zlib.error as error:
            raise ValueError(f"the coded mask is damaged ({error})") from error
        return b""

    def finish(self) -> None:
        """Check that nothing but padding is left.

        Raises:
            ValueError: There are further bits or bytes.
        """
        left: Any = self._bits.size >= 8 or self._bits.any() or self._marks.size
        if left or self._inflate(1) or self._inflater.unused_data:
            raise ValueError("the coded mask is too long")
        if not self._inflater.eof or self._read(1):
            raise ValueError("the coded mask has no end")


def complement(where: Positions, count: int) -> Positions:
    """Return the numbers below `count` that are not in `where`."""
    rest = np.ones(count, np.bool_)
    rest[where] = False
    return np.flatnonzero(rest)
