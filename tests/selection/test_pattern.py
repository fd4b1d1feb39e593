"""n:m masks against a loop over groups."""

from __future__ import annotations

import itertools
from math import prod

import numpy as np
import pytest

from elsa_cli.checkpoint.level import parse_level
from elsa_cli.errors import UsageError
from elsa_cli.selection.pattern import fits_group, group_masks, group_step, keep_of
from tests.selection.reference import Mask, splitmix64


def naive(keys: list[int], shape: tuple[int, ...], group: int, keep: int, position: int) -> Mask:
    """Sort every group along the second dimension, one after the other."""
    places = prod(shape[2:])
    mask = np.zeros(len(keys), np.bool_)
    for out in range(shape[0]):
        for place in range(places):
            for first in range(0, shape[1], group):
                members = [
                    out * shape[1] * places + (first + i) * places + place for i in range(group)
                ]
                members.sort(key=lambda at: (keys[at], splitmix64(position + at)), reverse=True)
                mask[members[:keep]] = True
    return mask


@pytest.mark.parametrize("kind", ["distinct", "ties", "constant"])
@pytest.mark.parametrize(
    ("shape", "group"),
    [
        ((6, 8), 4),
        ((5, 16), 8),
        ((3, 6), 2),
        ((4, 8, 3, 3), 4),
        ((2, 4, 1, 1), 4),
        ((2, 8, 5), 4),
        ((1, 300), 300),
    ],
)
def test_like_the_loop(shape: tuple[int, ...], group: int, kind: str) -> None:
    rng = np.random.default_rng(0)
    numel = prod(shape)
    keys = {
        "distinct": rng.permutation(numel),
        "ties": rng.integers(0, 3, numel),
        "constant": np.full(numel, 7),
    }[kind].astype("<u4")
    keep = sorted({1, group // 2, group - 1})
    found = group_masks(keys, shape, group, keep, 1000)
    for number, mask in zip(keep, found, strict=True):
        np.testing.assert_array_equal(mask, naive(keys.tolist(), shape, group, number, 1000))
    assert not any((a & ~b).any() for a, b in itertools.pairwise(found))


def test_none_and_all_of_a_group() -> None:
    keys = np.arange(16, dtype="<u2")
    nothing, everything = group_masks(keys, (2, 8), 4, [0, 4], 0)
    assert not nothing.any()
    assert everything.all()


def test_pieces_give_the_masks_of_the_whole() -> None:
    shape, group = (16, 8, 3, 3), 4
    keys = np.random.default_rng(1).integers(0, 4, prod(shape)).astype("<u2")
    (whole,) = group_masks(keys, shape, group, [2], 50)
    step = group_step(shape, group, 300)
    assert step == 288
    parts = [
        group_masks(keys[at : at + step], shape, group, [2], 50 + at)[0]
        for at in range(0, keys.size, step)
    ]
    np.testing.assert_array_equal(np.concatenate(parts), whole)


@pytest.mark.parametrize("shape", [(8, 4), (8, 12, 3, 3), (2, 6, 5)])
@pytest.mark.parametrize("group", [2, 4, 16])
@pytest.mark.parametrize("about", [1, 100, 5000])
def test_steps_hold_whole_groups_and_bytes(shape: tuple[int, ...], group: int, about: int) -> None:
    step = group_step(shape, group, about)
    assert step > 0
    assert step % 8 == 0
    assert step % (group * prod(shape[2:])) == 0


def test_which_shapes_fit() -> None:
    assert fits_group((3, 8), 4)
    assert fits_group((3, 8, 5, 5), 4)
    assert not fits_group((8, 3), 4)
    assert not fits_group((8,), 4)
    assert not fits_group((8, 6, 4, 4), 4)


def test_which_levels_fit() -> None:
    assert [keep_of(parse_level(text), 4) for text in ("0.25", "0.5", "75%")] == [3, 2, 1]
    assert keep_of(parse_level("0.9"), 10) == 1
    with pytest.raises(UsageError, match=r"0\.9 .* 4 weights; .*multiple of 1/4"):
        keep_of(parse_level("0.9"), 4)
