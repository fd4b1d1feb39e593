"""n:m patterns: the best `keep` of each group of `group` weights along one dimension.

Some projects name the kept weights first, some the pruned ones; here it is always keep and group,
so 2:4 and 1:4 are keep 2 and keep 1 of group 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import lcm, prod

import numpy as np

from elsa_cli.core.bits import Bytes, mask_buffers
from elsa_cli.core.dtypes import Bits
from elsa_cli.core.kernels.selecting import Selecting
from elsa_cli.core.level import Level
from elsa_cli.core.work import Scratch
from elsa_cli.errors import Param, UsageError, Words

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
    kernels: Selecting,
    bits: Bits,
    magnitude: np.uint64,
    shape: Sequence[int],
    group: int,
    dim: int,
    keep: Sequence[int],
    position: int,
    scratch: Scratch,
) -> tuple[list[Bytes], list[int]]:
    """Return for each number to keep which weights are among the best of their group.

    A weight's merit is how many of its group it beats, by key and then by the hash of the position:
    each of 0 … group - 1 occurs once in a group, and the k best are those with group - k or more.
    Example: the groups 3 1 4 1 and 5 9 2 6 have the merits 2 0 3 1 (or 2 1 3 0) and 1 3 0 2; of
    each the best two are those with 2 or more: 0b10100101.

    Args:
        kernels: What ranks and makes masks.
        bits: Consecutive weights in C order that begin and end with whole groups, (count,).
        magnitude: Selects from `bits` what is compared.
        shape: The whole tensor's; groups run along `dim` at the same place of the others.
        group: Weights a group.
        dim: The dimension along which groups run, counted from 0.
        keep: How many of them to keep, one number for each result.
        position: Position of the first weight; ties are broken by a hash of it.
        scratch: The thread's buffers.

    Returns:
        Masks, (ceil(count / 8),) each and valid until the next call, and the weights they keep.
    """
    inner = prod(shape[dim + 1 :])
    merit = scratch.array("merit", bits.size, np.uint8 if group < 256 else np.uint32)
    kernels.merits(bits, magnitude, group, inner, position, merit)
    packed, kept = mask_buffers(scratch, len(keep), bits.size), np.zeros(len(keep), np.int64)
    every = np.uint64(np.iinfo(merit.dtype).max)
    least, no_tie = np.array([group - k for k in keep], np.uint64), np.zeros(len(keep), np.uint64)
    kernels.keep(merit, every, least, no_tie, position, packed, kept)
    return list(packed), kept.tolist()
