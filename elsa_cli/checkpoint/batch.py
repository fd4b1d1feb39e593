"""Batches: small tensors that follow one another are worked on together.

A call of the system, a thread and a chain of steps on arrays cost as much for 64 weights as for
thousands. So whole tensors of one dtype that follow one another are joined until they make a
piece; a larger tensor makes pieces of its own. Memory stays that of a piece.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from elsa_cli.checkpoint.bitmask import Bools, Bytes, pack_bits, popcount, unpack_bits
from elsa_cli.checkpoint.dtypes import DType
from elsa_cli.checkpoint.work import spans

__all__ = ["Batch", "Integers", "batches", "pieces", "segment_sums", "spread", "starts"]

Integers = NDArray[np.int64]


def starts(sizes: Any) -> Integers:
    """Return where each of some parts begins that follow one another, and where the last ends."""
    found = np.zeros(len(sizes) + 1, np.int64)
    np.cumsum(sizes, out=found[1:])
    return found


class Batch:
    """Weights that are worked on together: several whole tensors, or one, or a part of one.

    Attributes:
        first: Position of the (first) tensor in the list that was cut into batches.
        sizes: Weights of each tensor that are in the batch.
        dtype: The dtype of all.
        start: Where the weights begin in the tensor, a multiple of 8; 0 for several.
        count: Weights in all.
    """

    __slots__ = ("count", "dtype", "first", "sizes", "start")

    def __init__(self, first: int, sizes: Sequence[int], dtype: DType, start: int = 0) -> None:
        """Keep what is in it."""
        self.first = first
        self.sizes: Integers = np.array(sizes, np.int64)
        self.dtype = dtype
        self.start = start
        self.count = int(self.sizes.sum())

    @property
    def rows(self) -> slice:
        """The tensors of the batch in the list that was cut."""
        return slice(self.first, self.first + len(self.sizes))

    @property
    def several(self) -> bool:
        """Whether there are several tensors in it."""
        return len(self.sizes) > 1

    @property
    def nbytes(self) -> int:
        """Bytes of its weights."""
        return self.count * self.dtype.itemsize

    def pieces(self, limit: int) -> Iterator[Batch]:
        """Yield a tensor in parts of at most `limit` weights; several tensors as they are."""
        if self.several or self.count <= limit:
            yield self
            return
        for start, count in spans(self.count, limit):
            yield Batch(self.first, [count], self.dtype, self.start + start)

    def tensors(self) -> Iterator[Batch]:
        """Yield a batch for each tensor."""
        for at, size in enumerate(self.sizes.tolist(), self.first):
            yield Batch(at, [size], self.dtype, self.start)

    def moves(self, places: Integers) -> Iterator[tuple[int, int, int]]:
        """Yield (offset in the batch, place, size) in bytes; neighbours in both are joined.

        Args:
            places: Where each tensor of the list begins.
        """
        size = self.dtype.itemsize
        begins = places[self.rows] + self.start * size
        offsets = starts(self.sizes * size)
        breaks = np.flatnonzero(begins[1:] - begins[:-1] != np.diff(offsets)[:-1]) + 1
        cuts = [0, *breaks.tolist(), len(self.sizes)]
        for a, b in itertools.pairwise(cuts):
            at, end = int(offsets[a]), int(offsets[b])
            if end > at:
                yield at, int(begins[a]), end - at

    def read_into(
        self, read: Callable[[int, memoryview], None], places: Integers, buffer: memoryview
    ) -> None:
        """Fill `buffer` with the bytes of the batch, neighbours in one call.

        Args:
            read: Fills a buffer with the bytes at a place.
            places: Where each tensor of the list begins.
            buffer: As long as the batch.
        """
        for at, place, size in self.moves(places):
            read(place, buffer[at : at + size])

    def write_from(
        self, write: Callable[[int, memoryview], None], places: Integers, data: memoryview
    ) -> None:
        """Undo `read_into`; `write` takes a place and bytes."""
        for at, place, size in self.moves(places):
            write(place, data[at : at + size])

    def counts(self, mask: Bools) -> Integers:
        """Return how many of `mask`, one a weight, are true in each tensor."""
        if not self.several:
            return np.array([np.count_nonzero(mask)])
        return segment_sums(mask, self.sizes)

    def mask_places(self) -> Integers:
        """Return where the mask of each tensor begins, in bytes, and where the last ends."""
        return starts(-(-self.sizes // 8))

    def mask_sums(self, packed: Bytes) -> Integers:
        """Return how many bits are set in the mask of each tensor."""
        if not self.several:
            return np.array([popcount(packed)])
        return segment_sums(np.bitwise_count(packed), -(-self.sizes // 8))

    def join_mask(self, packed: Bytes) -> Bytes:
        """Return packed bits, one after the other, of masks that each begin on a byte."""
        where = self._seams()
        if where is None:
            return packed
        return pack_bits(unpack_bits(packed, 8 * packed.size).take(where))

    def unpack_mask(self, packed: Bytes) -> Bools:
        """Return masks that each begin on a byte as booleans, one a weight."""
        where = self._seams()
        if where is None:
            return unpack_bits(packed, self.count)
        return unpack_bits(packed, 8 * packed.size).take(where)

    def pack_mask(self, mask: Bools) -> Bytes:
        """Undo `unpack_mask`; spare bits are 0."""
        where = self._seams()
        if where is None:
            return pack_bits(mask)
        bits: Bools = np.zeros(8 * int(self.mask_places()[-1]), np.bool_)
        bits[where] = mask
        return pack_bits(bits)

    def _seams(self) -> NDArray[np.intp] | None:
        """Return the bit of each weight; None if no bit is spare but behind the last weight."""
        if not self.several or not (self.sizes[:-1] % 8).any():
            return None
        return spread(8 * self.mask_places()[:-1], self.sizes)


def spread(begins: Integers, sizes: Integers) -> NDArray[np.intp]:
    """Return begin, begin + 1, … of every part, `sizes` of each, in a row."""
    where: NDArray[np.intp] = np.arange(int(sizes.sum()))
    where += np.repeat(begins - starts(sizes)[:-1], sizes)
    return where


def segment_sums(values: NDArray[Any], sizes: Integers) -> Integers:
    """Return the sum of each of some parts of `values`, `sizes` elements of each, in a row."""
    found = np.zeros(len(sizes), np.int64)
    filled = np.flatnonzero(sizes)  # the sum over nothing is not what reduceat makes of it
    if filled.size:
        found[filled] = np.add.reduceat(values, starts(sizes)[filled], dtype=np.int64)
    return found


def batches(
    sizes: Sequence[int], dtypes: Sequence[DType], limit: Callable[[int], int]
) -> Iterator[Batch]:
    """Yield whole tensors, in order: as many as make a piece, or one that is larger.

    Args:
        sizes: Weights of each tensor.
        dtypes: The dtype of each.
        limit: Returns how many weights of so many bytes make a piece.
    """
    first, count, most = 0, 0, 0
    for at, (size, dtype) in enumerate(zip(sizes, dtypes, strict=True)):
        if at > first and (dtype is not dtypes[first] or count + size > most):
            yield Batch(first, sizes[first:at], dtypes[first])
            first, count = at, 0
        if at == first:
            most = limit(dtype.itemsize)
        count += size
    if sizes:
        yield Batch(first, sizes[first:], dtypes[first])


def pieces(
    sizes: Sequence[int], dtypes: Sequence[DType], limit: Callable[[int], int]
) -> Iterator[Batch]:
    """Yield what `batches` does, larger tensors in parts that make a piece."""
    for batch in batches(sizes, dtypes, limit):
        yield from batch.pieces(limit(batch.dtype.itemsize))
