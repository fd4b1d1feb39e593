"""The coded shell masks of several small tensors, all at once; the bytes are those of `maskcode`.

Each tensor has a stream of its own, so its mask can be read without the others. But one stream is
a few bytes of a small tensor, and only deflate has to look at each by itself.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from elsa_cli.checkpoint.packed.maskcode import BITS, ESCAPE, ZEROS, Positions, coding_of, spell
from elsa_cli.core.batch import Integers, segment_sums, spread, starts
from elsa_cli.core.bits import Bools, Bytes, Deflater, pack_bits, unpack_bits

__all__ = ["MaskStreams", "code_masks"]


class _Codings:
    """How the mask of each tensor is coded: arrays of bool, one a tensor."""

    def __init__(self, marked: Integers, free: Integers) -> None:
        found = list(map(coding_of, marked.tolist(), free.tolist()))
        self.bits: Bools = np.array([coding == BITS for coding in found], np.bool_)
        self.zeros: Bools = np.array([coding == ZEROS for coding in found], np.bool_)

    def gaps_of(self, bits: Bools, free: Integers) -> tuple[Positions, Integers]:
        """Return what ends each gap, in all tensors that code gaps, and how many each has."""
        ends = bits ^ np.repeat(self.zeros, free)
        ends &= np.repeat(~self.bits, free)
        return np.flatnonzero(ends), segment_sums(ends, free)


def code_masks(bits: Bools, marked: Integers, free: Integers) -> list[bytes]:
    """Code the masks of a shell.

    Args:
        bits: Those of all tensors in a row.
        marked: How many are set, of each tensor.
        free: Bits of each tensor.

    Returns:
        The coded bytes of each tensor.
    """
    codings = _Codings(marked, free)
    raw = [b""] * len(free)
    whole = np.flatnonzero(codings.bits)
    sizes = -(-free[whole] // 8)
    padded: Bools = np.zeros(8 * int(sizes.sum()), np.bool_)
    padded[spread(8 * starts(sizes)[:-1], free[whole])] = bits[np.repeat(codings.bits, free)]
    _deal(raw, whole, pack_bits(padded), sizes)

    where, counts = codings.gaps_of(bits, free)
    gaps = np.diff(where, prepend=-1) - 1
    some = np.flatnonzero(counts)
    heads = starts(counts)[some]
    gaps[heads] = where[heads] - starts(free)[some]
    spelt, lengths = spell(gaps)
    _deal(raw, some, spelt, segment_sums(lengths, counts[some]))

    coded = []
    for part in raw:
        parts: list[bytes] = []
        deflater = Deflater(parts.append)
        deflater.write(part)
        deflater.close()
        coded.append(b"".join(parts))
    return coded


def _deal(raw: list[bytes], rows: NDArray[np.intp], data: Bytes, sizes: Integers) -> None:
    """Put `sizes` bytes of `data` into each of some rows."""
    whole = data.tobytes()
    ends = starts(sizes).tolist()
    for n, row in enumerate(rows.tolist()):
        raw[row] = whole[ends[n] : ends[n + 1]]


class MaskStreams:
    """Reads the shell masks of several tensors; stands where a `MaskStream` of all would.

    Args:
        coded: The coded bytes of each tensor.
        marked: How many bits are set, of each tensor.
        free: Bits of each tensor.
    """

    def __init__(self, coded: Sequence[memoryview], marked: Integers, free: Integers) -> None:
        """Begin before the first bit."""
        self._coded = coded
        self._marked = marked
        self._free = free

    def take(self, count: int, *, zeros: bool = True) -> tuple[Positions, Positions]:
        """Return where ones are among all bits, and where zeros are, ascending.

        Raises:
            ValueError: A stream is not one that `code_masks` makes; which one, a `MaskStream` of
                each tensor tells.
        """
        assert count == int(self._free.sum())
        bits = self._decode()
        return np.flatnonzero(bits), np.flatnonzero(~bits) if zeros else np.zeros(0, np.intp)

    def finish(self) -> None:
        """Nothing is left: `take` checks all."""

    def _decode(self) -> Bools:
        codings = _Codings(self._marked, self._free)
        marks = np.where(codings.zeros, self._free - self._marked, self._marked)
        longest = np.where(codings.bits, -(-self._free // 8), marks + self._free // ESCAPE)
        raw = [
            _inflate(coded, size) for coded, size in zip(self._coded, longest.tolist(), strict=True)
        ]
        bits: Bools = np.repeat(codings.zeros, self._free)
        self._put_bits(bits, raw, np.flatnonzero(codings.bits))
        self._put_gaps(bits, raw, np.flatnonzero(~codings.bits), codings.zeros)
        if not np.array_equal(segment_sums(bits, self._free), self._marked):
            raise ValueError("a coded mask has another count")
        return bits

    def _put_bits(self, bits: Bools, raw: Sequence[bytes], rows: NDArray[np.intp]) -> None:
        free = self._free[rows]
        sizes = -(-free // 8)
        if [len(raw[row]) for row in rows.tolist()] != sizes.tolist():
            raise ValueError("a coded mask has another size")
        data = np.frombuffer(b"".join([raw[row] for row in rows.tolist()]), np.uint8)
        flat = unpack_bits(data, 8 * data.size)
        found = flat.take(spread(8 * starts(sizes)[:-1], free))
        if np.count_nonzero(found) != np.count_nonzero(flat):
            raise ValueError("a spare bit is set")
        bits[spread(starts(self._free)[rows], free)] = found

    def _put_gaps(
        self, bits: Bools, raw: Sequence[bytes], rows: NDArray[np.intp], zeros: Bools
    ) -> None:
        parts = [raw[row] for row in rows.tolist()]
        lengths = np.array([len(part) for part in parts], np.int64)
        data = np.frombuffer(b"".join(parts), np.uint8)
        ends = data != ESCAPE  # a mark ends each run of escapes, and takes a bit itself
        passed = starts(data + ends.astype(np.int64))
        where = passed[1:] - np.repeat(passed[starts(lengths)[:-1]], lengths) - 1
        if (where >= np.repeat(self._free[rows], lengths))[ends].any():
            raise ValueError("a coded mask is too long")
        where += np.repeat(starts(self._free)[rows], lengths)
        bits[where[ends]] = ~np.repeat(zeros[rows], lengths)[ends]


def _inflate(coded: memoryview, size: int) -> bytes:
    """Return the inflated bytes, at most `size`."""
    inflater = zlib.decompressobj(-15)
    try:
        raw = inflater.decompress(coded, size + 1)
    except zlib.error as error:
        raise ValueError(str(error)) from error
    if len(raw) > size or not inflater.eof or inflater.unused_data:
        raise ValueError("a coded mask has another size")
    return raw
