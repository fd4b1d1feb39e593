"""FP8 codes with a scale: |code · scale|, whatever part of the weight one scale is for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from elsa_cli.core.dtypes import DTYPES, DType
from elsa_cli.core.floats import to_float
from elsa_cli.errors import NonFinite
from elsa_cli.storage.container import Container, TensorSpec

__all__ = ["Factors", "Grid", "fit_scale"]

# Sides of blocks in use, likeliest first: 128 x 128 (DeepSeek), 1 x 32 (MX), and others' choices.
BLOCKS = (128, 32, 64, 16, 256, 512)

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Grid:
    """How scales lie over a weight.

    Attributes:
        shape: Of the scales, with as many dimensions as the weight.
        block: How many weights along each dimension one scale is for; the last may be cut short.
    """

    shape: tuple[int, ...]
    block: tuple[int, ...]


def fit_scale(weight: Sequence[int], scale: Sequence[int], dtype: DType) -> Grid | None:
    """Return how scales lie over a weight, or None if they cannot.

    One scale for all; a scale for each row, as (rows,), (rows, 1) or (experts, rows, 1); for each
    expert; or for each block: (2, 3) scales over a (256, 300) weight are blocks of 128 x 128.

    Args:
        weight: Shape of the codes.
        scale: Shape of the scales.
        dtype: Of the scales; bytes are powers of two, as F8_E8M0, and for blocks of 32 only.
    """
    if not weight:
        return Grid((), ()) if math.prod(scale) == 1 else None
    if math.prod(scale) == 1:
        return Grid((1,) * len(weight), tuple(weight)) if dtype.name != "U8" else None
    shape = list(scale)
    while len(shape) > len(weight) and shape[-1] == 1:
        shape.pop()
    if len(shape) < len(weight) and list(weight[: len(shape)]) == shape:
        shape += [1] * (len(weight) - len(shape))
    if len(shape) != len(weight):
        return None
    pairs = list(zip(weight, shape, strict=True))
    for side in (*BLOCKS, None):
        block = []
        for size, count in pairs:
            if count == size:
                block.append(1)
            elif count == 1:
                block.append(size)
            elif side is not None and -(-size // side) == count:
                block.append(side)
            elif side is None and 0 < count < size and size % count == 0:
                block.append(size // count)
            else:
                break
        if len(block) == len(pairs) and (dtype.name != "U8" or 32 in block):
            return Grid(tuple(shape), tuple(block))
    return None


class Factors:
    """The scales of one weight, expanded as pieces of it are ranked.

    Args:
        container: The file.
        tensor: The scales.
        weight: The codes.
        grid: How the scales lie over them.
    """

    def __init__(
        self, container: Container, tensor: TensorSpec, weight: TensorSpec, grid: Grid
    ) -> None:
        """Read the scales: one for 128 x 128 weights and more, or one a row; they stay small.

        Raises:
            NonFinite: One of them is NaN or infinite.
        """
        dtype = DTYPES["F8_E8M0"] if tensor.dtype.name == "U8" else tensor.dtype
        bits = np.frombuffer(container.read(tensor), dtype.unsigned)
        scales = np.abs(to_float(bits, dtype))
        if not np.isfinite(scales).all():
            raise NonFinite(
                f"has NaN or infinity among the scales of {weight.name}",
                file=container.path,
                tensor=tensor.name,
                hint="leave the weight out, or mend the file",
            )
        self._columns = weight.shape[-1] if weight.shape else 1
        self._lead = weight.shape[:-1]
        self._grid = grid
        across = grid.shape[-1] if grid.shape else 1
        self._scales: Floats = scales.reshape(-1, across)
        self._across = np.arange(self._columns) // (grid.block[-1] if grid.block else 1)

    def take(self, start: int, count: int) -> Floats:
        """Return the scale of each of `count` weights from `start` in C order, (count,)."""
        if self._scales.size == 1:
            return np.broadcast_to(self._scales.reshape(-1), (count,))
        first, last = start // self._columns, (start + count - 1) // self._columns
        rows = self._scales.take(self._row(np.arange(first, last + 1)), axis=0)
        skip = start - first * self._columns
        if self._scales.shape[1] == 1:
            found: Floats = np.repeat(rows[:, 0], self._columns)[skip : skip + count]
        elif first == last:  # a long row: its part alone
            found = rows[0].take(self._across[skip : skip + count])
        else:
            found = rows.take(self._across, axis=1).reshape(-1)[skip : skip + count]
        return found

    def _row(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the row of scales for each row of weights, counted over all leading dimensions."""
        if not self._lead:
            return np.zeros_like(rows)
        places = np.unravel_index(rows, self._lead)
        blocks = [p // b for p, b in zip(places, self._grid.block[:-1], strict=True)]
        return np.ravel_multi_index(blocks, self._grid.shape[:-1]).astype(np.int64)
