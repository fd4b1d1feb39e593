"""Digests: one for each tensor, cheap enough to compute in the pass that copies it.

The digest of some bytes is the SHA-256 over the little-endian CRC-32s of their blocks of 1 MiB.
It finds accidents, and masks that belong to other weights, at a small part of the cost of SHA-256
over everything; its blocks can be computed in any order. It is no defence against an attacker.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from elsa_cli.core.batch import Batch
from elsa_cli.core.checksum import crc32
from elsa_cli.core.work import Progress, Scratch, no_progress, run

__all__ = ["BLOCK", "Digests", "digest_memory", "digest_ranges"]

BLOCK = 1 << 20  # bytes

# Fills a buffer with the bytes at an offset.
ReadInto = Callable[[int, memoryview], None]


class Digests:
    """Digests of several tensors, taken from pieces of them in any thread.

    The pieces of a tensor can come in any order, as long as each of its blocks does not: a block
    that two pieces share is taken from the first one first.

    Args:
        sizes: Bytes of each tensor.
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        self._sums = [np.zeros(-(-size // BLOCK), "<u4") for size in sizes]

    def add(self, tensor: int, offset: int, data: memoryview) -> None:
        """Take some bytes of a tensor, from an offset on."""
        sums = self._sums[tensor]
        done = 0
        while done < len(data):
            block, skip = divmod(offset + done, BLOCK)
            some = data[done : done + BLOCK - skip]
            sums[block] = crc32(some, int(sums[block]))
            done += len(some)

    def take(self, batch: Batch, data: memoryview) -> None:
        """Take the bytes of a batch of the tensors."""
        if not batch.several:
            self.add(batch.first, batch.start * batch.dtypes[0].itemsize, data)
            return
        begin = 0
        for tensor, size in enumerate(batch.byte_sizes.tolist(), batch.first):
            self.add(tensor, 0, data[begin : begin + size])
            begin += size

    def results(self) -> list[str]:
        """Return 64 hexadecimal digits for each tensor, once every piece is taken."""
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
    """Return the digest of each range of bytes.

    Args:
        read_into: Fills a buffer with the bytes at an offset.
        ranges: Offset and size of each range.
        threads: Number of threads.
        progress: Called with the bytes that were read.
    """
    digests = Digests([size for _, size in ranges])

    def pieces() -> Iterator[tuple[int, int, int, int]]:
        """Yield (first range, last range + 1, offset in the first, bytes)."""
        for first, last in _runs(ranges):
            if last - first > 1:
                yield first, last, 0, sum(ranges[last - 1]) - ranges[first][0]
                continue
            for start in range(0, ranges[first][1], BLOCK):
                yield first, last, start, min(BLOCK, ranges[first][1] - start)

    def work(piece: tuple[int, int, int, int], scratch: Scratch) -> None:
        first, last, start, count = piece
        buffer = scratch.array("digest", count, np.uint8).data
        begin = ranges[first][0] + start
        read_into(begin, buffer)
        if last - first == 1:
            digests.add(first, start, buffer)
        else:
            for at, (offset, size) in enumerate(ranges[first:last], first):
                digests.add(at, 0, buffer[offset - begin : offset - begin + size])
        progress(count)

    run(pieces(), work, Scratch, threads)
    return digests.results()


def digest_memory(parts: Sequence[bytes | bytearray], threads: int) -> list[str]:
    """Return the digest of each of some equally long parts in memory."""
    size = len(parts[0])
    step = size + 1  # parts do not adjoin: none is read together with the next

    def read_into(offset: int, buffer: memoryview) -> None:
        part, at = divmod(offset, step)
        buffer[:] = memoryview(parts[part])[at : at + len(buffer)]

    return digest_ranges(read_into, [(n * step, size) for n in range(len(parts))], threads)
