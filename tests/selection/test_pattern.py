"""n:m masks against a loop over groups."""

from __future__ import annotations

import itertools
from math import prod

import numpy as np
import pytest

from elsa_cli.core.bits import unpack_bits
from elsa_cli.core.dtypes import Bits
from elsa_cli.core.kernels import selecting_numpy
from elsa_cli.core.kernels.selecting import selecting
from elsa_cli.core.level import parse_level
from elsa_cli.core.work import Scratch
from elsa_cli.errors import UsageError
from elsa_cli.selection.pattern import fits_group, group_masks, group_step, keep_of
from tests.selection.reference import Mask, splitmix64


def naive(
    keys: list[int], shape: tuple[int, ...], group: int, dim: int, keep: int, position: int
) -> Mask:
    """Sort every group along a dimension, one after the other."""
    index = np.moveaxis(np.arange(len(keys)).reshape(shape), dim, -1).reshape(-1, group)
    mask = np.zeros(len(keys), np.bool_)
    for members in index.tolist():
        members.sort(key=lambda at: (keys[at], splitmix64(position + at)), reverse=True)
        mask[members[:keep]] = True
    return mask


def masks_of(
    keys: Bits, shape: tuple[int, ...], group: int, dim: int, keep: list[int], position: int
) -> list[Mask]:
    """Return what `group_masks` chooses, as booleans, having checked the counts."""
    every = np.uint64(np.iinfo(keys.dtype).max)
    packed, counts = group_masks(
        selecting(0), keys, every, shape, group, dim, keep, position, Scratch()
    )
    masks = [unpack_bits(mask, keys.size).copy() for mask in packed]
    assert counts == [np.count_nonzero(mask) for mask in masks]
    return masks


@pytest.mark.parametrize("strip", [selecting_numpy.STRIP, 24])
@pytest.mark.parametrize("kind", ["distinct", "ties", "constant"])
@pytest.mark.parametrize(
    ("shape", "group", "dim"),
    [
        ((6, 8), 4, 1),
        ((5, 16), 8, 1),
        ((3, 6), 2, 1),
        ((4, 8, 3, 3), 4, 1),
        ((2, 4, 1, 1), 4, 1),
        ((2, 8, 5), 4, 1),
        ((1, 300), 300, 1),
        ((8, 6), 4, 0),
        ((4, 3, 3, 3), 4, 0),
        ((3, 5, 12), 4, 2),
        ((2, 2, 2, 8), 2, 3),
        ((2, 3, 8, 2), 4, 2),
    ],
)
def test_like_the_loop(
    shape: tuple[int, ...],
    group: int,
    dim: int,
    kind: str,
    strip: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(selecting_numpy, "STRIP", strip)
    rng = np.random.default_rng(0)
    numel = prod(shape)
    keys = {
        "distinct": rng.permutation(numel),
        "ties": rng.integers(0, 3, numel),
        "constant": np.full(numel, 7),
    }[kind].astype("<u4")
    keep = sorted({1, group // 2, group - 1})
    found = masks_of(keys, shape, group, dim, keep, 1000)
    for number, mask in zip(keep, found, strict=True):
        np.testing.assert_array_equal(mask, naive(keys.tolist(), shape, group, dim, number, 1000))
    assert not any((a & ~b).any() for a, b in itertools.pairwise(found))


def test_none_and_all_of_a_group() -> None:
    keys = np.arange(16, dtype="<u2")
    nothing, everything = masks_of(keys, (2, 8), 4, 1, [0, 4], 0)
    assert not nothing.any()
    assert everything.all()


def test_pieces_give_the_masks_of_the_whole() -> None:
    shape, group = (16, 8, 3, 3), 4
    keys = np.random.default_rng(1).integers(0, 4, prod(shape)).astype("<u2")
    (whole,) = masks_of(keys, shape, group, 1, [2], 50)
    step = group_step(shape, group, 1, 300)
    assert step == 288
    parts = [
        masks_of(keys[at : at + step], shape, group, 1, [2], 50 + at)[0]
        for at in range(0, keys.size, step)
    ]
    np.testing.assert_array_equal(np.concatenate(parts), whole)


@pytest.mark.parametrize("dim", [0, 1, -1])
@pytest.mark.parametrize("shape", [(8, 4), (8, 12, 3, 3), (2, 6, 5)])
@pytest.mark.parametrize("group", [2, 4, 16])
@pytest.mark.parametrize("about", [1, 100, 5000])
def test_steps_hold_whole_groups_and_bytes(
    shape: tuple[int, ...], group: int, about: int, dim: int
) -> None:
    dim %= len(shape)
    step = group_step(shape, group, dim, about)
    unit = group * prod(shape[dim + 1 :])
    assert step > 0
    assert step % 8 == 0
    assert step % unit == 0
    assert step <= max(about, 8 * unit)


def test_which_shapes_fit() -> None:
    assert fits_group((3, 8), 4, 1)
    assert fits_group((3, 8, 5, 5), 4, 1)
    assert fits_group((8, 3), 4, 0)
    assert not fits_group((8, 3), 4, 1)
    assert not fits_group((8,), 4, 0)
    assert not fits_group((8, 6, 4, 4), 4, 1)


def test_which_levels_fit() -> None:
    assert [keep_of(parse_level(text), 4) for text in ("0.25", "0.5", "75%")] == [3, 2, 1]
    assert keep_of(parse_level("0.9"), 10) == 1
    with pytest.raises(UsageError, match=r"0\.9 .* 4 weights; .*multiple of 1/4"):
        keep_of(parse_level("0.9"), 4)
