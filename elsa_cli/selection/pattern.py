"""n:m patterns: the best `keep` of each group of `group` weights along the input dimension.

Some projects name the kept weights first, some the pruned ones; here it is always keep and group,
so 2:4 and 1:4 are keep 2 and keep 1 of group 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np
from numpy.typing import NDArray

from elsa_cli.checkpoint.bitmask import Bools
from elsa_cli.checkpoint.dtypes import Bits
from elsa_cli.checkpoint.level import Level
from elsa_cli.errors import UsageError
from elsa_cli.selection.scan import position_hash

__all__ = ["fits_group", "group_masks", "group_step", "keep_of"]


def keep_of(level: Level, group: int) -> int:
    """Return how many weights of a group a level keeps.

    Raises:
        UsageError: (1 - sparsity) * group is not a whole number.
    """
    keep = (1 - level.sparsity) * group
    if keep.denominator != 1:
        raise UsageError(
            f"level {level} does not keep a whole number of {group} weights",
            hint=f"with --group {group} a level is a multiple of 1/{group}",
        )
    return int(keep)


def fits_group(shape: Sequence[int], group: int) -> bool:
    """Tell whether the input dimension, the second one, splits into whole groups."""
    return len(shape) >= 2 and shape[1] % group == 0


def group_step(shape: Sequence[int], group: int, about: int) -> int:
    """Return a number of weights near `about` that holds whole groups and whole bytes of mask."""
    unit = 8 * group * prod(shape[2:])
    return max(1, about // unit) * unit


def group_masks(
    keys: Bits, shape: Sequence[int], group: int, keep: Sequence[int], position: int
) -> list[Bools]:
    """Return for each number to keep which weights are among the best of their group.

    Args:
        keys: Consecutive weights in C order that begin and end with whole groups, (count,).
        shape: The whole tensor's, (out, in, ...); groups run along `in` at the same place of the
            other dimensions.
        group: Weights a group.
        keep: How many of them to keep, one number for each result.
        position: Position of the first weight; ties are broken by a hash of it.
    """
    members = keys.reshape(-1, group, prod(shape[2:]))  # (groups, member, place)
    hashes: NDArray[np.uint64] | None = None
    beaten_by = np.zeros(members.shape, np.uint8 if group < 256 else np.uint32)
    for i in range(group):
        for j in range(i + 1, group):
            better = members[:, i] > members[:, j]
            tied = members[:, i] == members[:, j]
            if tied.any():
                if hashes is None:
                    positions = np.arange(position, position + keys.size, dtype=np.uint64)
                    hashes = position_hash(positions).reshape(members.shape)
                better |= tied & (hashes[:, i] > hashes[:, j])
            beaten_by[:, j] += better
            beaten_by[:, i] += ~better
    return [(beaten_by < k).reshape(-1) for k in keep]
