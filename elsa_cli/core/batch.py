"""Batches: small tensors that follow one another are worked on together.

A call of the system, a thread and a chain of steps on arrays cost as much for 64 weights as for
thousands. So whole tensors that follow one another are joined until they make a piece; a larger
tensor makes pieces of its own. Memory stays that of a piece.

The weights of a batch are taken as cells: raw bits of the width of its dtype, one a weight; or,
where several dtypes meet, single bytes.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from elsa_cli.core.bits import Bools, Bytes, pack_bits, popcount, unpack_bits
from elsa_cli.core.dtypes import Bits, DType
from elsa_cli.core.work import spans

__all__ = [
    "Batch",
    "Integers",
    "batches",
    "largest_first",
    "pieces",
    "segment_sums",
    "spread",
    "starts",
]

SMALL = 1 << 14  # weights of a tensor from which on joining it costs more than it saves

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
        dtypes: The dtype of each.
        start: Where the weights begin in the tensor, a multiple of 8; 0 for several.
        count: Weights in all.
        nbytes: Bytes in all.
        mixed: Whether several dtypes meet.
        cell: The dtype of a cell.
    """

    __slots__ = ("cell", "count", "dtypes", "first", "mixed", "nbytes", "sizes", "start")

    def __init__(
        self, first: int, sizes: Sequence[int], dtypes: Sequence[DType], start: int = 0
    ) -> None:
        """Keep what is in it."""
        self.first = first
        self.sizes: Integers = np.array(sizes, np.int64)
        self.dtypes = dtypes
        self.start = start
        self.count = int(self.sizes.sum())
        self.mixed = any(dtype is not dtypes[0] for dtype in dtypes)
        self.cell = np.dtype(np.uint8) if self.mixed else dtypes[0].unsigned
        width = dtypes[0].itemsize
        self.nbytes = int(self.byte_sizes.sum()) if self.mixed else self.count * width

    @property
    def rows(self) -> slice:
        """The tensors of the batch in the list that was cut."""
        return slice(self.first, self.first + len(self.sizes))

    @property
    def several(self) -> bool:
        """Whether there are several tensors in it."""
        return len(self.sizes) > 1

    @property
    def cells(self) -> int:
        """Number of cells."""
        return self.nbytes // self.cell.itemsize

    @property
    def byte_sizes(self) -> Integers:
        """Bytes of each tensor."""
        return self.sizes * self._widths

    @property
    def _widths(self) -> Integers:
        """Bytes of a weight of each tensor."""
        return np.array([dtype.itemsize for dtype in self.dtypes], np.int64)

    def pieces(self, limit: Callable[[int], int]) -> Iterator[Batch]:
        """Yield a tensor in parts that make a piece; several tensors as they are.

        Args:
            limit: Returns how many weights of so many bytes make a piece.
        """
        step = limit(self.dtypes[0].itemsize)
        if self.several or self.count <= step:
            yield self
            return
        for start, count in spans(self.count, step):
            yield Batch(self.first, [count], self.dtypes, self.start + start)

    def tensors(self) -> Iterator[Batch]:
        """Yield a batch for each tensor."""
        for n, (size, dtype) in enumerate(zip(self.sizes.tolist(), self.dtypes, strict=True)):
            yield Batch(self.first + n, [size], [dtype], self.start)

    def kinds(self) -> Iterator[tuple[Batch, Bools, Bools]]:
        """Yield the tensors of each dtype, and which weights and which cells are theirs."""
        for dtype in {id(dtype): dtype for dtype in self.dtypes}.values():
            alike = np.array([other is dtype for other in self.dtypes])
            sizes = self.sizes[alike]
            part = Batch(self.first, sizes.tolist(), [dtype] * len(sizes))
            yield part, np.repeat(alike, self.sizes), np.repeat(alike, self.byte_sizes)

    def nonzero(self, cells: Bits) -> Integers:
        """Return how many weights of each tensor are not zero, of either sign.

        Args:
            cells: Those of all weights; spent afterwards.
        """
        if self.mixed:
            found: Integers = np.empty(len(self.sizes), np.int64)
            for part, _, own in self.kinds():
                alike = [dtype is part.dtypes[0] for dtype in self.dtypes]
                found[alike] = part.nonzero(cells[own].view(part.cell))
            return found
        dtype = self.dtypes[0]
        values = dtype.magnitudes(cells, out=cells) if dtype.float_bits else cells
        return self.counts(values != 0 if self.several else values)

    def moves(self, places: Integers) -> Iterator[tuple[int, int, int]]:
        """Yield (offset in the batch, place, size) in bytes; neighbours in both are joined.

        Args:
            places: Where each tensor of the list begins.
        """
        if not self.several:
            if self.nbytes:
                begin = int(places[self.first]) + self.start * self.dtypes[0].itemsize
                yield 0, begin, self.nbytes
            return
        begins = places[self.rows]
        offsets = starts(self.byte_sizes)
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

    def counts(self, mask: NDArray[Any]) -> Integers:
        """Return how many of `mask`, one a weight, are true, or not 0, in each tensor.

        Of several tensors it has to be bool.
        """
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

    def cell_mask(self, packed: Bytes) -> Bytes:
        """Return the packed bits of all cells from masks that each begin on a byte."""
        if self.mixed:
            widths = np.repeat(self._widths, self.sizes)
            return pack_bits(np.repeat(self.unpack_mask(packed), widths))
        return packed if self._seams() is None else pack_bits(self.unpack_mask(packed))

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
    """Yield whole tensors, in order: as many small ones as make a piece, or one that is larger.

    Args:
        sizes: Weights of each tensor.
        dtypes: The dtype of each.
        limit: Returns how many weights of so many bytes make a piece.
    """
    first, count, width = 0, 0, 0
    for at, (size, dtype) in enumerate(zip(sizes, dtypes, strict=True)):
        width = max(width, dtype.itemsize)
        alone = max(size, sizes[first]) > SMALL
        if at > first and (alone or count + size > limit(width)):
            yield Batch(first, sizes[first:at], dtypes[first:at])
            first, count, width = at, 0, dtype.itemsize
        count += size
    if sizes:
        yield Batch(first, sizes[first:], dtypes[first:])


def pieces(
    sizes: Sequence[int], dtypes: Sequence[DType], limit: Callable[[int], int]
) -> Iterator[Batch]:
    """Yield what `batches` does, larger tensors in parts that make a piece."""
    for batch in batches(sizes, dtypes, limit):
        yield from batch.pieces(limit)


def largest_first(found: Iterable[Batch]) -> list[Batch]:
    """Return batches by size, so that threads that take them in turn end at about one time."""
    return sorted(found, key=lambda batch: -batch.nbytes)
