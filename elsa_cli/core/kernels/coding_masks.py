"""Nested masks, packed, to the bytes that a shell's mask is coded as, and back.

Eight weights as an example, the first one on the left. The sparser level keeps the second and the
fifth, the denser one the third and the last too:

    sparser  0 1 0 0 1 0 0 0   packed 0x12: the first weight is the lowest bit
    denser   0 1 1 0 1 0 0 1   packed 0x96
    free     1 . 1 1 . 1 1 1   what the sparser level does not keep
    shell    0 . 1 0 . 0 0 1   the denser mask's bits there

`gather` brings the shell's bits together: 0 1 0 0 0 1, packed 0x22. As BITS, that is what is coded.
As ONES, the gaps before the ones are: 1 and 3. As ZEROS, those before the zeros: 0, 1, 0, 0.
`gaps` finds them, `ungaps` undoes it, and `scatter` undoes `gather`.
"""

from __future__ import annotations

from typing import Protocol, cast

import numpy as np
from numpy.typing import NDArray

from elsa_cli.core.kernels import form

__all__ = [
    "BITS",
    "ESCAPE",
    "NOTHING",
    "ONES",
    "SLACK",
    "ZEROS",
    "MaskKernels",
    "mask_kernels",
    "work_bytes",
]

Bytes = NDArray[np.uint8]
Integers = NDArray[np.int64]

BITS, ONES, ZEROS = 0, 1, 2  # how a shell's mask is coded: as it is, gaps between ones or zeros
ESCAPE = 255  # a gap of this value adds to the one that follows it
NOTHING: Bytes = np.zeros(0, np.uint8)  # the mask of no level
SLACK = 8  # bytes that an array has behind those that count: words are read and written whole


class MaskKernels(Protocol):
    """The kernels; both forms give the same bits.

    `sparser` is NOTHING where there is no sparser level. Spare bits of masks are 0.
    """

    def tally(self, sparser: Bytes, denser: Bytes, ends: Integers, kept: Integers) -> int:
        """Count what a level keeps; return the first tensor where masks do not nest, or -1.

        Args:
            sparser: (bytes,): the mask of the next sparser level, of all tensors.
            denser: (bytes,): that of the level.
            ends: (tensors,): where the mask of each tensor ends, in bytes.
            kept: (tensors,): filled with the bits that are set in `denser`.
        """

    def gather(self, sparser: Bytes, denser: Bytes, count: int, state: Integers, out: Bytes) -> int:
        """Bring the bits of a shell together; return how many bytes are whole.

        Args:
            sparser: (bytes,): the mask of the next sparser level.
            denser: (bytes,): that of the level.
            count: Weights.
            state: (2,): the bits that do not fill a byte, and how many; (0, 0) at first.
            out: (count / 8 + SLACK or more,): filled with the whole bytes.
        """

    def gaps(self, bits: Bytes, count: int, coding: int, state: Integers, out: Bytes) -> int:
        """Find the gaps between marked bits; return the number of bytes that tell them.

        Args:
            bits: (count / 8 or more,): the bits, packed.
            count: Bits.
            coding: ONES or ZEROS: which bits are marked.
            state: (1,): the bits since the last marked one; 0 at first.
            out: (count + state / ESCAPE + 1,): filled with the gaps.
        """

    def ungaps(
        self, raw: Bytes, begin: int, count: int, coding: int, state: Integers, out: Bytes
    ) -> int:
        """Undo `gaps` until all bits are known; return the first byte of `raw` that is not used.

        Args:
            raw: Bytes that tell gaps.
            begin: The first of them to be used.
            count: Bits.
            coding: ONES or ZEROS.
            state: (1,): where the next gap begins among the bits; 0 at first. If it is below
                `count` afterwards, more gaps may follow in the next bytes.
            out: (count / 8 or more,): where bits are marked; the others are left as they are.
        """

    def scatter(self, bits: Bytes, begin: int, sparser: Bytes, count: int, out: Bytes) -> int:
        """Undo `gather`; return how many bits of the shell are set.

        Args:
            bits: (… + SLACK,): the bits of the shell, packed.
            begin: The first of them to be used, in bits.
            sparser: (bytes,): the mask of the next sparser level.
            count: Weights.
            out: (count / 8,): filled with the mask of the level; its spare bits are 0.
        """

    def code_several(
        self,
        sparser: Bytes,
        denser: Bytes,
        sizes: Integers,
        codings: Integers,
        out: Bytes,
        ends: Integers,
        work: Bytes,
    ) -> int:
        """Code the shell masks of several tensors; return the bytes of all.

        Args:
            sparser: (bytes,): the mask of the next sparser level; each tensor begins on a byte.
            denser: (bytes,): that of the level.
            sizes: (tensors,): weights.
            codings: (tensors,): BITS, ONES or ZEROS.
            out: (weights + SLACK,): filled with the bytes of each tensor, one behind the other.
            ends: (tensors,): filled with where those of each end.
            work: `work_bytes`.
        """

    def decode_several(
        self,
        raw: Bytes,
        ends: Integers,
        sparser: Bytes,
        sizes: Integers,
        codings: Integers,
        free: Integers,
        out: Bytes,
        marked: Integers,
        work: Bytes,
    ) -> int:
        """Undo `code_several`; tell whether the bytes of each tensor are what it makes.

        Args:
            raw: (… + SLACK,): the bytes of all tensors.
            ends: (tensors,): where those of each end.
            sparser: (bytes,): the mask of the next sparser level; each tensor begins on a byte.
            sizes: (tensors,): weights.
            codings: (tensors,): BITS, ONES or ZEROS.
            free: (tensors,): the weights that the sparser level does not keep.
            out: (bytes,): filled with the mask of the level.
            marked: (tensors,): filled with the bits that are set in each shell.
            work: `work_bytes`.

        Returns:
            1 if they are, else 0.
        """


def work_bytes(sizes: Integers) -> Bytes:
    """Return the work array of kernels for tensors of some sizes, in weights."""
    return np.empty(int(sizes.max(initial=0)) // 8 + 1 + 2 * SLACK, np.uint8)


def mask_kernels(nbytes: int) -> MaskKernels:
    """Return the form of the kernels for so many bytes of weights more."""
    return cast(MaskKernels, form("coding_masks", nbytes))
