"""What a tensor's values tell of it: masks, sinusoids, coordinates, filters, copies.

A trained matrix looks like noise; a buffer that a program computed does not. A corner of the tensor
is read, SAMPLE elements at most, whatever its size.
"""

from __future__ import annotations

from itertools import product
from math import prod

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from elsa_cli.core.dtypes import DType
from elsa_cli.core.floats import to_float
from elsa_cli.core.work import CHUNK_BYTES, spans
from elsa_cli.selection.naming import real_dims
from elsa_cli.storage.container import Container, TensorSpec

__all__ = ["computed", "equal"]

SAMPLE = 1 << 15  # elements
SAMPLE_NAMED = 1 << 12  # elements of what has a weight's name, of which there are many
FEW = 4  # distinct values that make a mask or a flag
MANY = 128  # elements that have to be seen before repeats mean anything
MANY_TIMES = 6  # how often a value occurs, on average, in what a program computed
RUN = 8  # neighbours that a progression needs; of fewer, any three numbers are one
LONG = 4 * RUN  # neighbours that are looked at
LINES = 64  # lines that are looked at, as many as there are from end to end
AT_ONCE = 1 << 19  # bytes that are read at once
ROUNDED = 2.0**-8  # of a value: what rounding to bfloat16 does, whatever it is stored as now

Floats = NDArray[np.float64]


def computed(container: Container, tensor: TensorSpec, *, named: bool) -> str | None:
    """Return what a tensor's values show it to be, or None if they could have been trained.

    Args:
        container: The file.
        tensor: A float tensor of at least two dimensions other than 1.
        named: Whether its name is a weight's. Weights may be binary, sparse or all alike, so that
            only progressions count against such a name.
    """
    if tensor.numel < 2 * RUN:
        return None
    block = _corner(container, tensor, SAMPLE_NAMED if named else SAMPLE)
    if block.size < 2 * RUN or np.isnan(block).any():
        return None  # no buffer holds NaN: a weight that is damaged, which is an error
    if not named:
        if not block.any():
            return None  # a layer that begins with zeros, more likely than a buffer of them
        distinct, counts = np.unique(block, return_counts=True)
        if distinct.size <= FEW and counts.min() > 1:  # the few weights of a sparse one differ
            return "few distinct values, as a mask has"
        if (block == np.rint(block)).all():  # infinity, too
            return "whole numbers alone, as indices and distances have"
        if _repeats(distinct, counts, tensor.dtype):
            return "the same values again and again, as grids and distances have"
        if _triangular(block):
            return "all alike above the diagonal, as a causal mask is"
        if _banded(block):
            return "a bank of filters: no negative value, each row one band"
    if not np.isfinite(block).all():
        return None
    block = block / max(1.0, float(np.abs(block).max()))  # squares of float64 may overflow
    for axis in range(block.ndim):
        if _progresses(np.moveaxis(block, axis, 0), whole=named):
            return "values that follow one another as sinusoids or coordinates do"
    return None


def equal(container: Container, tensor: TensorSpec, other: TensorSpec) -> bool:
    """Tell whether two tensors of one file have the same dtype, shape and bytes."""
    if (tensor.dtype, tensor.shape) != (other.dtype, other.shape):
        return False
    a, b = bytearray(CHUNK_BYTES), bytearray(CHUNK_BYTES)
    for start, count in spans(tensor.nbytes, CHUNK_BYTES):
        one, two = memoryview(a)[:count], memoryview(b)[:count]
        container.read_part(tensor, start, one)
        container.read_part(other, start, two)
        if one != two:
            return False
    return True


def _corner(container: Container, tensor: TensorSpec, most: int) -> Floats:
    """Return the corner of a tensor where all indices are smallest, without dimensions of 1.

    No dimension is cut shorter than another that is cut: of (64, 3000, 3000) it is (22, 22, 22) for
    12,000 elements at most.
    """
    shape = real_dims(tensor.shape)
    low, high = 1, most + 1  # of the longest side: one that fits, one that does not
    while high - low > 1:
        side = (low + high) // 2
        fits = prod(min(size, side) for size in shape) <= most
        low, high = (side, high) if fits else (low, side)
    corner = [min(size, low) for size in shape]
    cut = max((at for at, size in enumerate(shape) if corner[at] < size), default=0)
    run = prod(corner[cut:])  # elements that follow one another in the file
    steps = [prod(shape[dim + 1 :]) for dim in range(cut)]
    firsts = [
        sum(index * step for index, step in zip(place, steps, strict=True))
        for place in product(*map(range, corner[:cut]))
    ]
    size, unsigned = tensor.dtype.itemsize, tensor.dtype.unsigned
    if (firsts[-1] + run) * size <= AT_ONCE:  # reading a little too much is faster than many calls
        data = np.empty(firsts[-1] + run, unsigned)
        container.read_part(tensor, 0, data.view(np.uint8).data)
        bits = data[np.add.outer(firsts, np.arange(run))]
    else:
        bits = np.empty((len(firsts), run), unsigned)
        for row, first in zip(bits, firsts, strict=True):
            container.read_part(tensor, first * size, row.view(np.uint8).data)
    return to_float(bits, tensor.dtype).reshape(corner)


def _repeats(distinct: Floats, counts: NDArray[np.intp], dtype: DType) -> bool:
    """Tell whether far fewer values than elements occur, in a dtype that can tell them apart.

    Zeros do not count: weights may be sparse.
    """
    others = counts[distinct != 0]
    return dtype.itemsize >= 4 and others.sum() >= MANY and others.size * MANY_TIMES < others.sum()


def _triangular(block: Floats) -> bool:
    """Tell whether square blocks hold one value on one side of the diagonal, and not on the other.

    That value is 0 where a mask multiplies, minus infinity or a very low number where it is added.
    """
    if block.ndim < 2 or block.shape[-1] != block.shape[-2] or block.shape[-1] < RUN:
        return False
    above = np.triu(np.ones(block.shape[-2:], bool), 1)
    for side in (above, above.T):
        alike = block[..., side] == block[..., side].flat[0]
        others = block[..., ~side] == block[..., side].flat[0]
        if alike.all() and np.count_nonzero(others) * 2 < others.size:
            return True
    return False


def _banded(block: Floats) -> bool:
    """Tell whether rows or columns are single bands of positive values, most of them zero."""
    if block.ndim != 2 or min(block.shape) < RUN or (block < 0).any():
        return False
    if not min(block.shape) <= np.count_nonzero(block) <= block.size // 2:
        return False
    for rows in (block, block.T):
        edges = np.diff((rows > 0).astype(np.int8), axis=1, prepend=0, append=0)
        if (np.count_nonzero(edges, axis=1) <= 2).all():
            return True
    return False


def _progresses(block: Floats, *, whole: bool) -> bool:
    """Tell whether x[i-1] + x[i+1] = c · x[i] along the first axis, with one c for each line.

    Sinusoids obey it with c = 2 cos(step), and so do coordinates, with c = 2. Lines that do not
    change prove nothing. A grid that is laid out in one row starts again after each of its rows,
    and distances turn at the diagonal.

    Example: 0, 1, 2, 3 has c = 2: 0 + 2 = 2 · 1 and 1 + 3 = 2 · 2.

    Args:
        block: Values.
        whole: Whether lines have to obey it all along and without exception; else it is enough if
            most do for RUN steps, and again and again.
    """
    count = block.shape[0]
    if count < RUN:
        return False
    lines: Floats = block[:LONG].reshape(min(count, LONG), -1)
    lines = lines[:, np.linspace(0, lines.shape[1] - 1, min(lines.shape[1], LINES)).astype(int)]
    runs = sliding_window_view(lines, len(lines) if whole else RUN, axis=0)  # (run, line, step)
    middle, around = runs[..., 1:-1], runs[..., :-2] + runs[..., 2:]
    square = np.einsum("rls,rls->rl", middle, middle)
    c = np.einsum("rls,rls->rl", middle, around) / np.where(square > 0, square, 1)
    off = np.abs(around - c[..., None] * middle).max(axis=-1)
    noise = 4 * ROUNDED * np.abs(runs).max(axis=-1)  # of a sum of three, one of them twice
    changes = np.ptp(runs, axis=-1) > 8 * noise
    obeys = changes & (off <= noise) & (np.abs(c) <= 2.05)
    changing, obeying = changes.sum(axis=1), obeys.sum(axis=1)
    enough = changing * 5 >= lines.shape[1]
    good = enough & (obeying == changing if whole else obeying * 4 >= changing * 3)
    return bool(np.count_nonzero(good) * 2 * RUN >= len(runs))
