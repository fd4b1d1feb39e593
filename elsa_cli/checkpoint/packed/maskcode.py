"""The coded shell masks of a packed checkpoint: within 3 % of the entropy at any density.

Which coding a mask has follows from its counts: where one weight in eight or fewer is marked, the
gaps between the marked ones are coded, a byte each; where seven in eight or more are, the gaps
between the others; else the bits themselves, eight to a byte. The bytes go through raw deflate with
Huffman codes only. Huffman codes cannot take less than a bit for a byte of mask, which is why few
ones are better told by their gaps; they are also fewer bytes to code.

`elsa_cli.core.kernels.coding_masks` shows it for eight weights.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from elsa_cli.checkpoint.deflate import Deflater, Inflater
from elsa_cli.core.bits import Bytes
from elsa_cli.core.kernels.coding_masks import (
    BITS,
    ESCAPE,
    NOTHING,
    ONES,
    SLACK,
    ZEROS,
    mask_kernels,
)

__all__ = [
    "BITS",
    "ESCAPE",
    "NOTHING",
    "ONES",
    "ZEROS",
    "MaskCoder",
    "MaskStream",
    "coding_of",
    "codings_of",
]

Integers = NDArray[np.int64]

READ = 1 << 16  # bytes that tell gaps, inflated at a time


def coding_of(marked: int, free: int) -> int:
    """Return how the mask of a shell is coded: as BITS, or as gaps between ONES or ZEROS.

    Args:
        marked: Weights of the shell.
        free: Weights that no sparser level keeps, the shell's among them.
    """
    if 8 * marked < free:
        return ONES
    return ZEROS if 8 * (free - marked) < free else BITS


def codings_of(marked: Integers, free: Integers) -> Integers:
    """Return how the mask of each of some shells is coded, as `coding_of` does."""
    zeros = np.where(8 * (free - marked) < free, ZEROS, BITS)
    return np.where(8 * marked < free, ONES, zeros).astype(np.int64)


class MaskCoder:
    """Codes one shell mask of one tensor.

    Args:
        coding: From `coding_of`.
        sink: Takes the coded bytes, some at a time.
    """

    def __init__(self, coding: int, sink: Callable[[bytes], object]) -> None:
        """Begin with no bit."""
        self._coding = coding
        self._deflater = Deflater(sink)
        self._bits: Integers = np.zeros(2, np.int64)  # those that do not fill a byte
        self._gap: Integers = np.zeros(1, np.int64)

    def write(self, sparser: Bytes, denser: Bytes, count: int) -> None:
        """Code the bits of some more weights.

        Args:
            sparser: (count / 8,): the packed mask of the next sparser level; NOTHING if there is
                none.
            denser: (count / 8,): that of the level.
            count: Weights, a multiple of 8 but for the last ones.
        """
        if not sparser.size and not self._bits[1] and not count % 8:
            self._put(denser, count)  # they are together
            return
        together: Bytes = np.empty(-(-count // 8) + 2 * SLACK, np.uint8)
        whole = mask_kernels(0).gather(sparser, denser, count, self._bits, together)
        self._put(together[:whole], 8 * whole)

    def _put(self, bits: Bytes, count: int) -> None:
        if self._coding == BITS:
            self._deflater.write(bits)
            return
        told: Bytes = np.empty(count + int(self._gap[0]) // ESCAPE + 1, np.uint8)
        size = mask_kernels(0).gaps(bits, count, self._coding, self._gap, told)
        self._deflater.write(told[:size])

    def close(self) -> None:
        """Code what is left and end the stream."""
        word, held = self._bits.tolist()
        if held:
            self._put(np.array([word], np.uint8), held)
        self._deflater.close()


class MaskStream:
    """Reads one shell mask of one tensor, some weights at a time.

    Args:
        coding: From `coding_of`.
        read: Returns up to so many further coded bytes, b"" at the end.
    """

    def __init__(self, coding: int, read: Callable[[int], bytes]) -> None:
        """Begin before the first weight."""
        self._coding = coding
        self._inflater = Inflater(read)
        self._left = b""  # the decoded byte of which some bits are not used
        self._gaps: Bytes = np.zeros(0, np.uint8)  # decoded, the first ones used
        self._used = 0  # how many bits of the byte, or how many gaps, are used
        self._next: Integers = np.zeros(1, np.int64)  # where the next gap begins, from the next bit

    def take(self, sparser: Bytes, count: int, out: Bytes) -> int:
        """Put together the mask of the level for the next weights.

        Args:
            sparser: (count / 8,): the packed mask of the next sparser level; NOTHING if there is
                none.
            count: Weights, a multiple of 8 but for the last ones.
            out: (count / 8,): filled with the packed mask of the level; its spare bits are 0.

        Returns:
            How many of the weights are in the shell.

        Raises:
            ValueError: The stream is damaged or has fewer bits.
        """
        kernels = mask_kernels(0)
        free = count
        if sparser.size:
            kept: Integers = np.zeros(1, np.int64)
            kernels.tally(NOTHING, sparser, np.array([sparser.size]), kept)
            free -= int(kept[0])
        take = self._take_bits if self._coding == BITS else self._take_gaps
        bits, begin = take(free)
        return kernels.scatter(bits, begin, sparser, count, out)

    def _take_bits(self, count: int) -> tuple[Bytes, int]:
        """Return the packed bits of the next free weights, and where they begin, in bits."""
        begin = self._used
        parts = [self._left]
        missing = -(-(begin + count) // 8) - len(self._left)
        while missing > 0:
            raw = self._inflate(missing)
            if not raw:
                raise ValueError("the coded mask ends early")
            parts.append(raw)
            missing -= len(raw)
        raw = b"".join(parts)
        self._used = (begin + count) % 8
        self._left = raw[(begin + count) // 8 :]
        return _padded(raw), begin

    def _take_gaps(self, count: int) -> tuple[Bytes, int]:
        """Return the packed bits of the next free weights, which begin at the first one."""
        fill = 255 if self._coding == ZEROS else 0
        bits: Bytes = np.full(-(-count // 8) + SLACK, fill, np.uint8)
        while self._next[0] < count:
            if self._used == self._gaps.size:
                raw = self._inflate(READ)
                if not raw:
                    break
                self._gaps, self._used = np.frombuffer(bytearray(raw), np.uint8), 0
            self._used = mask_kernels(0).ungaps(
                self._gaps, self._used, count, self._coding, self._next, bits
            )
            if self._used < self._gaps.size:
                break
        self._next -= count
        return bits, 0

    def _inflate(self, size: int) -> bytes:
        try:
            return self._inflater.take(size)
        except ValueError as error:
            raise ValueError(f"the coded mask is damaged: {error}") from error

    def finish(self) -> None:
        """Check that nothing but padding is left.

        Raises:
            ValueError: There are further bits or bytes, or the last gap has no end.
        """
        if self._coding == BITS:
            rest = int.from_bytes(self._left, "little") >> self._used
            more = len(self._left) > 1 or rest != 0
        else:
            more = self._used < self._gaps.size
        if more or self._inflate(1):
            raise ValueError("the coded mask is too long")
        if self._gaps[-1:].tolist() == [ESCAPE]:
            raise ValueError("the coded mask ends early")
        if not self._inflater.ended:
            raise ValueError("the coded mask has no end, or something behind it")


def _padded(raw: bytes) -> Bytes:
    """Return bytes as an array that may be read in words, and written, as the kernels ask for."""
    found: Bytes = np.empty(len(raw) + SLACK, np.uint8)
    found[: len(raw)] = np.frombuffer(raw, np.uint8)
    found[len(raw) :] = 0
    return found
