"""Digests: one for each tensor, cheap enough to compute in the pass that copies it.

The digest of some bytes is the SHA-256 over the little-endian CRC-32s of their blocks of 1 MiB.
It finds accidents, and masks that belong to other weights, at a small part of the cost of SHA-256
over everything; its blocks can be computed in any order. It is no defence against an attacker.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from elsa_cli.core.checksum import crc32
from elsa_cli.core.work import Progress, Scratch, no_progress, run

__all__ = ["BLOCK", "Digests", "digest_memory", "digest_ranges"]

BLOCK = 1 << 20  # bytes
STEP = 8 * BLOCK  # bytes of one piece of work

# Fills a buffer with the bytes at an offset.
ReadInto = Callable[[int, memoryview], None]


class Digests:
    """Digests of several ranges of bytes, taken in pieces by any thread.

    Args:
        read_into: Reads the bytes.
        ranges: Offset and size of each range, in bytes.
    """

    def __init__(self, read_into: ReadInto, ranges: Sequence[tuple[int, int]]) -> None:
        """Begin with nothing read."""
        self._read_into = read_into
        self._ranges = ranges
        self._sums = [np.zeros(-(-size // BLOCK), "<u4") for _, size in ranges]
        self._runs = list(_runs(ranges))

    def pieces(self) -> Iterator[tuple[int, int]]:
        """Yield (run of ranges, offset in it) of the pieces that `take` accepts."""
        for at, (first, last) in enumerate(self._runs):
            size = self._ranges[first][1] if last - first == 1 else 1
            for start in range(0, size, STEP):
                yield at, start

    def take(self, piece: tuple[int, int], scratch: Scratch) -> int:
        """Read one piece; return its bytes."""
        run, start = piece
        first, last = self._runs[run]
        if last - first > 1:
            return self._take_several(first, last, scratch)
        offset, size = self._ranges[first]
        count = min(STEP, size - start)
        for block in range(start, start + count, BLOCK):
            buffer = scratch.array("digest", min(BLOCK, size - block), np.uint8).data
            self._read_into(offset + block, buffer)
            self._sums[first][block // BLOCK] = crc32(buffer)
        return count

    def _take_several(self, first: int, last: int, scratch: Scratch) -> int:
        """Read ranges of at most a block each that follow one another."""
        begin = self._ranges[first][0]
        count = sum(self._ranges[last - 1]) - begin
        buffer = scratch.array("digest", count, np.uint8).data
        self._read_into(begin, buffer)
        for sums, (offset, size) in zip(
            self._sums[first:last], self._ranges[first:last], strict=True
        ):
            if size:
                sums[0] = crc32(buffer[offset - begin : offset - begin + size])
        return count

    def results(self) -> list[str]:
        """Return 64 hexadecimal digits for each range, once every piece is taken."""
        return [hashlib.sha256(sums.tobytes()).hexdigest() for sums in self._sums]


def _runs(ranges: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Yield (first, last + 1) of ranges that follow one another and make a block at most.

    A larger range stands alone.
    """
    first = 0
    for at in range(1, len(ranges)):
        adjoins = ranges[at][0] == sum(ranges[at - 1])
        if not adjoins or sum(ranges[at]) - ranges[first][0] > BLOCK:
            yield first, at
            first = at
    if ranges:
        yield first, len(ranges)


def digest_ranges(
    read_into: ReadInto,
    ranges: Sequence[tuple[int, int]],
    threads: int,
    progress: Progress = no_progress,
) -> list[str]:
    """Return the digest of each range (offset, size) of bytes."""
    digests = Digests(read_into, ranges)

    def work(piece: tuple[int, int], scratch: Scratch) -> None:
        progress(digests.take(piece, scratch))

    run(digests.pieces(), work, Scratch, threads)
    return digests.results()


def digest_memory(parts: Sequence[bytes | bytearray], threads: int) -> list[str]:
    """Return the digest of each of some equally long parts in memory."""
    size = len(parts[0])
    step = size + 1  # parts do not adjoin: none is read together with the next

    def read_into(offset: int, buffer: memoryview) -> None:
        part, at = divmod(offset, step)
        buffer[:] = memoryview(parts[part])[at : at + len(buffer)]

    return digest_ranges(read_into, [(n * step, size) for n in range(len(parts))], threads)
