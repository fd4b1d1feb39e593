"""n:m patterns: the best `keep` of each group of `group` weights along one dimension.

Some projects name the kept weights first, some the pruned ones; here it is always keep and group,
so 2:4 and 1:4 are keep 2 and keep 1 of group 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import lcm, prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from elsa_cli.core.bits import Bools
from elsa_cli.core.dtypes import Bits
from elsa_cli.core.level import Level
from elsa_cli.errors import Param, UsageError, Words
from elsa_cli.selection.scan import position_hash

__all__ = ["fits_group", "group_masks", "group_step", "keep_of"]


STRIP = 1 << 18  # weights compared at a time


def keep_of(level: Level, group: int) -> int:
    """Return how many weights of a group a level keeps.

    Raises:
        UsageError: (1 - sparsity) * group is not a whole number.
    """
    keep = (1 - level.sparsity) * group
    if keep.denominator != 1:
        raise UsageError(
            f"level {level} does not keep a whole number of {group} weights",
            hint=Words("with {} a level is a multiple of 1/{}", Param("group", group), group),
        )
    return int(keep)


def fits_group(shape: Sequence[int], group: int, dim: int) -> bool:
    """Tell whether a dimension splits into whole groups."""
    return len(shape) >= 2 and shape[dim] % group == 0


def group_step(shape: Sequence[int], group: int, dim: int, about: int) -> int:
    """Return a number of weights near `about` that holds whole groups and whole bytes of mask.

    A group's weights lie `inner` apart, so that `inner` groups interleave: (group, inner) weights.
    """
    unit = lcm(8, group * prod(shape[dim + 1 :]))
    return max(1, about // unit) * unit


def group_masks(
    keys: Bits,
    shape: Sequence[int],
    group: int,
    dim: int,
    keep: Sequence[int],
    position: int,
) -> list[Bools]:
    """Return for each number to keep which weights are among the best of their group.

    Args:
        keys: Consecutive weights in C order that begin and end with whole groups, (count,).
        shape: The whole tensor's; groups run along `dim` at the same place of the others.
        group: Weights a group.
        dim: The dimension along which groups run, counted from 0.
        keep: How many of them to keep, one number for each result.
        position: Position of the first weight; ties are broken by a hash of it.
    """
    inner = prod(shape[dim + 1 :])
    members = keys.reshape(-1, group, inner)  # (outer, member, place)
    kept = [np.empty(members.shape, np.bool_) for _ in keep]
    # In strips, so that what is computed on the way stays small however many groups interleave.
    outer = max(1, STRIP // (group * inner))
    width = inner if outer > 1 else max(1, STRIP // group)
    for row in range(0, len(members), outer):
        for at in range(0, inner, width):
            strip = np.s_[row : row + outer, :, at : at + width]
            first = position + row * group * inner + at
            beaten_by = _beaten_by(members[strip], first, inner)
            for mask, k in zip(kept, keep, strict=True):
                np.less(beaten_by, k, out=mask[strip])
    return [mask.reshape(-1) for mask in kept]


def _beaten_by(members: Bits, position: int, inner: int) -> NDArray[np.unsignedinteger[Any]]:
    """Return how many of its group come before each weight, (outer, group, width).

    Args:
        members: Keys, (outer, group, width).
        position: Position of the first weight.
        inner: How far apart the weights of a group lie.
    """
    outer, group, width = members.shape
    hashes: NDArray[np.uint64] | None = None
    beaten_by = np.zeros(members.shape, np.uint8 if group < 256 else np.uint32)
    for i in range(group):
        for j in range(i + 1, group):
            better = members[:, i] > members[:, j]
            tied = members[:, i] == members[:, j]
            if tied.any():
                if hashes is None:
                    rows = np.arange(outer * group, dtype=np.uint64) * np.uint64(inner)
                    places = np.arange(width, dtype=np.uint64) + np.uint64(position)
                    hashes = position_hash(rows[:, None] + places).reshape(members.shape)
                better |= tied & (hashes[:, i] > hashes[:, j])
            beaten_by[:, j] += better
            beaten_by[:, i] += ~better
    return beaten_by
