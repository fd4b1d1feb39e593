"""Batches: what they hold, and that masks and cells are those of each tensor by itself."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from elsa_cli.core import batch as module
from elsa_cli.core.batch import Batch, batches, pieces
from elsa_cli.core.bits import Bools, pack_bits, popcount, unpack_bits
from elsa_cli.core.dtypes import DTYPES, DType

RNG = np.random.default_rng(21)
F8, F8B, F16, F32 = (DTYPES[name] for name in ("F8_E5M2", "F8_E4M3FNUZ", "F16", "F32"))
CASES: dict[str, tuple[list[int], list[DType]]] = {
    "one": ([37], [F32]),
    "even": ([64, 8, 16], [F16] * 3),
    "odd": ([9, 0, 15, 1, 0, 64, 7], [F32] * 7),
    "dtypes": ([9, 3, 0, 15, 64, 1], [F32, F16, F32, F8, F8, F16]),
    "one width": ([5, 12, 3], [F8, F8B, F8]),
}


@pytest.fixture(params=CASES)
def joined(request: pytest.FixtureRequest) -> Batch:
    sizes, dtypes = CASES[request.param]
    return Batch(0, sizes, dtypes)


def split(batch: Batch, values: Any) -> list[Any]:
    """Cut weights into those of each tensor."""
    ends = list(itertools.accumulate(batch.sizes.tolist(), initial=0))
    return [values[a:b] for a, b in itertools.pairwise(ends)]


def contents(found: list[Batch]) -> list[tuple[int, int, int]]:
    """Return the tensor, the start and the count of everything that is in some batches."""
    return [(t.first, t.start, t.count) for b in found for t in b.tensors()]


def test_small_tensors_are_joined_until_they_make_a_piece() -> None:
    found = list(batches([10, 20, 30, 40, 50], [F32] * 5, lambda _: 60))
    assert [b.sizes.tolist() for b in found] == [[10, 20, 30], [40], [50]]
    assert [b.first for b in found] == [0, 3, 4]
    assert list(batches([], [], lambda _: 60)) == []


def test_the_widest_dtype_says_how_much_makes_a_piece() -> None:
    found = batches([10, 10, 10, 10], [F8, F8, F32, F8], lambda width: 80 // width)
    assert [b.sizes.tolist() for b in found] == [[10, 10], [10, 10]]


def test_a_tensor_that_is_not_small_stands_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SMALL", 9)
    found = batches([9, 10, 9, 9, 10], [F32] * 5, lambda _: 1000)
    assert [b.sizes.tolist() for b in found] == [[9], [10], [9, 9], [10]]


def test_a_larger_tensor_comes_in_pieces() -> None:
    found = list(pieces([5, 40, 6, 7], [F16] * 4, lambda _: 16))
    assert contents(found) == [
        (0, 0, 5),
        (1, 0, 16),
        (1, 16, 16),
        (1, 32, 8),
        (2, 0, 6),
        (3, 0, 7),
    ]
    assert [b.several for b in found] == [False] * 4 + [True]


def test_masks_begin_on_a_byte(joined: Batch) -> None:
    mask = RNG.random(joined.count) < 0.4
    each = [pack_bits(part) for part in split(joined, mask)]
    packed = joined.pack_mask(mask)
    assert packed.tobytes() == b"".join(part.tobytes() for part in each)
    assert np.array_equal(joined.unpack_mask(packed), mask)
    assert joined.mask_sums(packed).tolist() == [popcount(part) for part in each]
    assert joined.mask_places()[-1] == packed.size
    assert joined.counts(mask).tolist() == [int(part.sum()) for part in split(joined, mask)]


def cells_of_each(batch: Batch, mask: Bools) -> Bools:
    """Say for each cell whether its weight is marked, tensor by tensor."""
    width = batch.cell.itemsize
    parts = zip(split(batch, mask), batch.dtypes, strict=True)
    found = [np.repeat(part, dtype.itemsize // width) for part, dtype in parts]
    return np.concatenate([np.zeros(0, np.bool_), *found])


def test_cells(joined: Batch) -> None:
    mask = RNG.random(joined.count) < 0.4
    wanted = cells_of_each(joined, mask)
    assert wanted.size == joined.cells
    packed = joined.cell_mask(joined.pack_mask(mask))
    assert np.array_equal(unpack_bits(packed, joined.cells), wanted)


def test_zeros_of_both_signs(joined: Batch) -> None:
    parts, wanted = [], []
    for size, dtype in zip(joined.sizes.tolist(), joined.dtypes, strict=True):
        bits = RNG.integers(1, 120, size).astype(dtype.unsigned)
        bits[::3] = 0
        if dtype is not F8B:  # which has one zero, and NaN where others have the negative one
            bits[1::3] = 1 << dtype.bits - 1
        wanted.append(size - len(bits[::3]) - (len(bits[1::3]) if dtype is not F8B else 0))
        parts.append(bits.tobytes())
    cells = np.frombuffer(b"".join(parts), joined.cell).copy()
    assert joined.nonzero(cells).tolist() == wanted


def test_neighbours_are_read_and_written_at_once(joined: Batch) -> None:
    data = RNG.bytes(joined.nbytes)
    sizes = joined.byte_sizes.tolist()
    near = np.array([7, *(7 + np.cumsum(sizes)[:-1])], np.int64)
    assert list(joined.moves(near)) == [(0, 7, joined.nbytes)]
    order = RNG.permutation(len(sizes))
    far = np.zeros(len(sizes), np.int64)
    far[order] = np.cumsum([0, *(np.array(sizes)[order] + 1)])[:-1]  # a byte between them
    calls = 0
    file = bytearray(joined.nbytes + len(sizes))

    def write(place: int, part: memoryview) -> None:
        nonlocal calls
        calls += 1
        file[place : place + len(part)] = part

    def read(place: int, part: memoryview) -> None:
        part[:] = file[place : place + len(part)]

    joined.write_from(write, far, memoryview(data))
    assert calls == np.count_nonzero(sizes)
    back = bytearray(joined.nbytes)
    joined.read_into(read, far, memoryview(back))
    assert back == data


def test_a_piece_knows_where_it_lies() -> None:
    piece = list(Batch(2, [40], [F32]).pieces(lambda _: 16))[1]
    assert list(piece.moves(np.array([0, 0, 1000]))) == [(0, 1064, 64)]
