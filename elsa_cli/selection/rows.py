"""Rows that must not lose all their weights, because a norm would divide by zero.

Weight normalisation computes g · v / |v| for each row of v: a row of zeros is 0/0, NaN for good. So
the best weight of each such row, its champion, comes before all other weights in the order in which
weights are kept. The counts stay exact, and levels nest as before.

Example: rows (5, 4), (1, 2) keep 2 of 4 weights. By magnitude alone that is 5 and 4, and the second
row is lost; champions first, it is 5 and 2.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from elsa_cli.core.dtypes import Bits
from elsa_cli.selection.naming import Siblings, real_dims
from elsa_cli.storage.container import TensorSpec

__all__ = ["Champions", "make_room", "normed_dims"]


# The names of v and of g, at the end of whatever the normalised parameter is called: `weight_v` and
# `weight_hh_l0_g` of torch.nn.utils.weight_norm, then its parametrization, then plain letters.
NORMS = ((r"(.*_)v", r"\1g"), (r"original1", "original0"), (r"v", "g"))


def normed_dims(tensors: Sequence[TensorSpec], siblings: Siblings) -> dict[str, int | None]:
    """Return for each vector of a weight norm the dimension whose rows are normalised.

    None stands for one norm of the whole tensor. `weight_g` of shape (64, 1, 1) beside `weight_v`
    of shape (64, 4, 3) has a norm for each of 64 rows along dimension 0.
    """
    found: dict[str, int | None] = {}
    for t in tensors:
        owner = siblings.names[t.name].owner
        last = t.name[len(owner) + 1 :] if owner else t.name
        for vector, companion in NORMS:
            if not re.fullmatch(vector, last):
                continue
            other = siblings.beside(t).get(re.sub(vector, companion, last))
            if other is not None and len(t.shape) >= 2 and len(real_dims(other.shape)) <= 1:
                long = [at for at, size in enumerate(other.shape) if size != 1]
                found[t.name] = long[0] if len(other.shape) == len(t.shape) and long else None
    return found


class Champions:
    """The best weight of each row of one tensor, found a piece at a time.

    Args:
        shape: The tensor's.
        dim: The dimension whose rows are normalised, or None for one row of everything.
    """

    def __init__(self, shape: Sequence[int], dim: int | None) -> None:
        """Begin with no piece seen."""
        self._inner = 1 if dim is None else prod(shape[dim + 1 :])
        self._rows = 1 if dim is None else shape[dim]
        self._whole = dim is None
        self._key = np.zeros(self._rows, np.uint64)
        self._hash = np.zeros(self._rows, np.uint64)
        self._at = np.full(self._rows, -1, np.int64)
        self._sorted: NDArray[np.int64] = np.empty(0, np.int64)

    def see(self, start: int, keys: Bits, hashes: Any) -> None:
        """Look at consecutive weights.

        Args:
            start: The first one, in C order.
            keys: Their keys, (count,).
            hashes: Gives the hashes of some of them, by their positions in the piece.
        """
        rows = np.arange(start, start + keys.size) // self._inner % self._rows
        if self._whole:
            rows = np.zeros(keys.size, np.int64)
        best = np.zeros(self._rows, keys.dtype)
        np.maximum.at(best, rows, keys)
        where = np.flatnonzero(keys == best.take(rows))
        ties: NDArray[np.uint64] = hashes(where)
        order = np.lexsort((ties, rows.take(where)))  # of each row the largest hash comes last
        last = np.flatnonzero(np.diff(rows.take(where).take(order), append=-1))
        where, ties = where.take(order.take(last)), ties.take(order.take(last))
        row, key = rows.take(where), keys.take(where).astype(np.uint64)
        better = (self._at[row] < 0) | (key > self._key[row])
        better |= (key == self._key[row]) & (ties > self._hash[row])
        row, where = row[better], where[better]
        self._key[row], self._hash[row], self._at[row] = key[better], ties[better], where + start

    def done(self) -> None:
        """Keep the positions in order, once every piece has been seen."""
        self._sorted = np.sort(self._at[self._at >= 0])

    @property
    def count(self) -> int:
        """Number of rows."""
        return int(self._sorted.size)

    def lift(self, start: int, keys: Bits) -> Bits:
        """Return the keys of consecutive weights with champions above all others, (count,).

        They are all alike then, which changes nothing: every level keeps all of them.
        """
        keys = make_room(keys)
        low, high = np.searchsorted(self._sorted, (start, start + keys.size))
        if low == high:
            return keys
        lifted = keys.copy()
        lifted[self._sorted[low:high] - start] = np.iinfo(keys.dtype).max
        return lifted


def make_room(keys: Bits) -> Bits:
    """Return keys of which none is the largest integer, which is for champions alone.

    NaN of 64 bits can be that large, and what sparsifiers score in integers.
    """
    top = np.iinfo(keys.dtype).max
    return np.minimum(keys, keys.dtype.type(top - 1)) if keys.max() == top else keys
