"""Weights to the shells that their nested masks make, and back.

Eight weights as an example, the first one on the left, and two levels:

    weights  a b c d e f g h
    sparser  0 1 0 0 1 0 0 0
    denser   0 1 1 0 1 0 0 1

`deal` gives b e, which the sparser level keeps; c h, which the denser one adds; and a d f g, which
no level keeps. `assemble` puts the first two back: + b c + e + + h, where + stands for +0.0.
"""

from __future__ import annotations

from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from elsa_cli.core.kernels import form

__all__ = ["WeightKernels", "weight_kernels"]

Bytes = NDArray[np.uint8]
Integers = NDArray[np.int64]
Values = NDArray[Any]  # raw bits: unsigned integers of 1, 2, 4 or 8 bytes


class WeightKernels(Protocol):
    """The kernels; both forms give the same bits."""

    def deal(self, values: Values, sparser: Bytes, denser: Bytes, out: Values) -> int:
        """Take the weights of a shell; return how many there are.

        Args:
            values: (weights,): the raw bits of all.
            sparser: (weights / 8,): the mask of the next sparser level; NOTHING if there is none.
            denser: (weights / 8,): that of the level; NOTHING for dense, which keeps all.
            out: (weights of the shell or more,): filled with those of the shell. What is behind
                them is not kept.
        """

    def assemble(self, values: Values, begins: Integers, masks: Bytes, out: Values) -> None:
        """Put the weights of shells in their places; all other places become 0.

        Args:
            values: The raw bits of the weights of each shell.
            begins: (shells,): where those of each begin in `values`; spent afterwards.
            masks: (levels, weights / 8): the mask of each level, sparsest first; as many levels as
                shells, or one less: then the last shell is what no mask keeps.
            out: (weights,): filled.
        """


def weight_kernels(nbytes: int) -> WeightKernels:
    """Return the form of the kernels for so many bytes of weights more."""
    return cast(WeightKernels, form("coding_weights", nbytes))
