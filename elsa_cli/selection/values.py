"""What a tensor's values tell of it: masks, sinusoids, coordinates, filters, copies.

A trained matrix looks like noise; a buffer that a program computed does not. A prefix of the tensor
is read, SAMPLE elements at most, whatever its size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from elsa_cli.checkpoint.container import Container, TensorInfo
from elsa_cli.checkpoint.floats import to_float
from elsa_cli.checkpoint.work import CHUNK_BYTES, spans
from elsa_cli.selection.naming import real_dims

__all__ = ["computed", "equal"]

SAMPLE = 1 << 15  # elements
FEW = 4  # distinct values that make a mask or a flag
RUN = 8  # neighbours that a progression needs; of fewer, any three numbers are one
TOLERANCE = 0.02  # of the largest value: what rounding to bfloat16 and a sum of three may do

Floats = NDArray[np.float64]


def computed(container: Container, tensor: TensorInfo, *, named: bool) -> str | None:
    """Return what a tensor's values show it to be, or None if they could have been trained.

    Args:
        container: The file.
        tensor: A float tensor of at least two dimensions other than 1.
        named: Whether its name is a weight's. Weights may be binary, sparse or all alike, so that
            only progressions count against such a name.
    """
    if tensor.numel < 2 * RUN:
        return None
    block = _prefix(container, tensor)
    if block.size < 2 * RUN:
        return None
    finite = np.isfinite(block)
    if not named:
        if np.isnan(block).any():
            return None  # no mask holds NaN: a weight that is damaged, which is an error
        distinct = np.unique(block[finite])
        if finite.all() and not distinct.any():
            return None  # a layer that begins with zeros, more likely than a buffer of them
        if distinct.size + int(not finite.all()) <= FEW:
            return "few distinct values, as a mask has"
        if _triangular(block):
            return "zero above the diagonal, as a causal mask is"
        if _banded(block):
            return "a bank of filters: no negative value, each row one band"
    if not finite.all():
        return None
    if any(_progresses(np.moveaxis(block, axis, 0)) for axis in range(block.ndim)):
        return "values that follow one another as sinusoids or coordinates do"
    return None


def equal(container: Container, tensor: TensorInfo, other: TensorInfo) -> bool:
    """Tell whether two tensors of one file have the same dtype, shape and bytes."""
    if (tensor.dtype, tensor.shape) != (other.dtype, other.shape):
        return False
    a, b = bytearray(CHUNK_BYTES), bytearray(CHUNK_BYTES)
    for start, count in spans(tensor.nbytes, CHUNK_BYTES):
        one, two = memoryview(a)[:count], memoryview(b)[:count]
        container.read_into(tensor.begin + start, one)
        container.read_into(other.begin + start, two)
        if one != two:
            return False
    return True


def _prefix(container: Container, tensor: TensorInfo) -> Floats:
    """Return whole slices from the tensor's beginning, without dimensions of 1, as float64."""
    shape: Sequence[int] = real_dims(tensor.shape)
    while len(shape) > 1 and np.prod(shape[1:]) > SAMPLE // RUN:
        shape = shape[1:]  # the first slice alone: a piece of it is enough
    row = int(np.prod(shape[1:]))
    shape = (max(1, min(shape[0], SAMPLE // row)), *shape[1:])
    count = int(np.prod(shape))
    bits = np.empty(count, tensor.dtype.unsigned)
    container.read_into(tensor.begin, bits.view(np.uint8).data)
    return to_float(bits, tensor.dtype).reshape(shape)


def _triangular(block: Floats) -> bool:
    """Tell whether a square block, or each of several, is zero on one side of its diagonal."""
    if block.ndim < 2 or block.shape[-1] != block.shape[-2] or block.shape[-1] < RUN:
        return False
    above = np.triu(np.ones(block.shape[-2:], bool), 1)
    return bool((block[..., above] == 0).all() or (block[..., above.T] == 0).all())


def _banded(block: Floats) -> bool:
    """Tell whether rows or columns are single bands of positive values, most of them zero."""
    if block.ndim != 2 or min(block.shape) < RUN or (block < 0).any():
        return False
    if np.count_nonzero(block) * 2 > block.size:
        return False
    for rows in (block, block.T):
        edges = np.diff((rows > 0).astype(np.int8), axis=1, prepend=0, append=0)
        if (np.count_nonzero(edges, axis=1) <= 2).all():
            return True
    return False


def _progresses(block: Floats) -> bool:
    """Tell whether x[i-1] + x[i+1] = c · x[i] along the first axis, with one c for each line.

    Sinusoids obey it with c = 2 cos(step), and so do coordinates, with c = 2. Lines that do not
    change at all prove nothing: most lines have to change.

    Example: 0, 1, 2, 3 has c = 2: 0 + 2 = 2 · 1 and 1 + 3 = 2 · 2.
    """
    count = block.shape[0]
    if count < RUN:
        return False
    lines: Floats = block[: 4 * RUN].reshape(min(count, 4 * RUN), -1)
    if not _holds(lines[:, :1]) and not _holds(lines[:, -1:]):  # noise, nearly always
        return False
    changing = lines[:, np.ptp(lines, axis=0) > 0]
    return changing.shape[1] * 2 > lines.shape[1] and _holds(changing)


def _holds(lines: NDArray[Any]) -> bool:
    """Tell whether each column obeys the recurrence; the least squares solution is its c."""
    middle, around = lines[1:-1], lines[:-2] + lines[2:]
    square = np.einsum("ij,ij->j", middle, middle)
    c = np.einsum("ij,ij->j", middle, around) / np.where(square > 0, square, 1)
    left = np.abs(around - c * middle).max(axis=0)
    return bool((left <= TOLERANCE * np.abs(lines).max(axis=0)).all() and (np.abs(c) <= 2.05).all())
