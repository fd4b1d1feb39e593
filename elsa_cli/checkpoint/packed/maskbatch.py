"""The coded shell masks of several small tensors, all at once; the bytes are those of `maskcode`.

Each tensor has a stream of its own, so its mask can be read without the others. But one stream is
a few bytes of a small tensor, and a call for each would take longer than its work.
"""

from __future__ import annotations

import itertools

import numpy as np

from elsa_cli.checkpoint.deflate import deflate_several, inflate
from elsa_cli.checkpoint.packed.maskcode import BITS, ESCAPE, ZEROS, Integers, codings_of
from elsa_cli.core.bits import Bytes
from elsa_cli.core.kernels.coding_masks import SLACK, mask_kernels, work_bytes

__all__ = ["MaskStreams", "code_masks"]


def code_masks(
    sparser: Bytes, denser: Bytes, sizes: Integers, marked: Integers, free: Integers
) -> tuple[bytes, Integers]:
    """Code the masks of a shell.

    Args:
        sparser: (bytes,): the packed mask of the next sparser level, NOTHING if there is none;
            that of each tensor begins on a byte.
        denser: (bytes,): that of the level.
        sizes: (tensors,): weights of each.
        marked: (tensors,): weights of the shell.
        free: (tensors,): weights that no sparser level keeps, the shell's among them.

    Returns:
        The coded bytes of all tensors, and how many each has.
    """
    codings = codings_of(marked, free)
    sizes = np.ascontiguousarray(sizes)  # kernels take no columns
    raw: Bytes = np.empty(int(sizes.sum()) + len(sizes) + 2 * SLACK, np.uint8)
    ends: Integers = np.zeros(len(sizes), np.int64)
    total = mask_kernels(0).code_several(
        sparser, denser, sizes, codings, raw, ends, work_bytes(sizes)
    )
    return deflate_several(raw[:total], ends)


class MaskStreams:
    """Reads the shell masks of several tensors; stands where a `MaskStream` of all would.

    Args:
        coded: The coded bytes of all tensors.
        ends: (tensors,): where those of each end.
        sizes: (tensors,): weights of each.
        marked: (tensors,): weights of the shell.
        free: (tensors,): weights that no sparser level keeps, the shell's among them.
    """

    def __init__(
        self, coded: memoryview, ends: Integers, sizes: Integers, marked: Integers, free: Integers
    ) -> None:
        """Begin before the first weight."""
        self._coded = coded
        self._ends = ends
        self._sizes = np.ascontiguousarray(sizes)  # kernels take no columns
        self._marked = marked
        self._free = np.ascontiguousarray(free)

    def take(self, sparser: Bytes, count: int, out: Bytes) -> int:
        """Put together the masks of the level; return how many weights are in the shell.

        Args:
            sparser: (bytes,): the packed mask of the next sparser level, NOTHING if there is none;
                that of each tensor begins on a byte.
            count: Weights of all tensors.
            out: (bytes,): filled with the packed mask of the level.

        Raises:
            ValueError: A stream is not one that `code_masks` makes; which one, a `MaskStream` of
                each tensor tells.
        """
        assert count == int(self._sizes.sum())
        codings = codings_of(self._marked, self._free)
        raw, ends = self._inflate(codings)
        found: Integers = np.zeros(len(self._sizes), np.int64)
        fits = mask_kernels(0).decode_several(
            raw,
            ends,
            sparser,
            self._sizes,
            codings,
            self._free,
            out,
            found,
            work_bytes(self._sizes),
        )
        if not fits or not np.array_equal(found, self._marked):
            raise ValueError("a coded mask has another size or another count")
        return int(found.sum())

    def _inflate(self, codings: Integers) -> tuple[Bytes, Integers]:
        """Return the inflated bytes of all tensors, SLACK behind them, and where each one's end."""
        marks = np.where(codings == ZEROS, self._free - self._marked, self._marked)
        longest = np.where(codings == BITS, -(-self._free // 8), marks + self._free // ESCAPE)
        cuts = itertools.pairwise([0, *self._ends.tolist()])
        parts = [
            inflate(self._coded[a:b], size)
            for (a, b), size in zip(cuts, longest.tolist(), strict=True)
        ]
        ends = np.cumsum([len(part) for part in parts], dtype=np.int64)
        return np.frombuffer(bytearray(b"".join([*parts, bytes(SLACK)])), np.uint8), ends

    def finish(self) -> None:
        """Nothing is left: `take` checks all."""
