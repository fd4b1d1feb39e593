"""The coded shell masks: every coding, cut into any pieces, near the entropy, damage noticed."""

from __future__ import annotations

import itertools
import math
import zlib
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from elsa_cli.checkpoint.packed.maskcode import BITS, ONES, ZEROS, MaskCoder, MaskStream, coding_of
from elsa_cli.core.bits import Bools


def encode(mask: Bools, coding: str, cuts: Sequence[int] = ()) -> bytes:
    parts: list[bytes] = []
    coder = MaskCoder(coding, parts.append)
    for a, b in itertools.pairwise(sorted({0, mask.size, *(c % (mask.size + 1) for c in cuts)})):
        coder.write(mask[a:b])
    coder.close()
    return b"".join(parts)


def reader(coded: bytes, step: int = 1 << 16) -> Callable[[int], bytes]:
    left = memoryview(coded)

    def read(size: int) -> bytes:
        nonlocal left
        part, left = left[: min(size, step)], left[min(size, step) :]
        return bytes(part)

    return read


def decode(coded: bytes, coding: str, sizes: Sequence[int], step: int = 1 << 16) -> Bools:
    stream = MaskStream(coding, reader(coded, step))
    parts = []
    for size in sizes:
        ones, zeros = stream.take(size, zeros=size % 2 == 0)
        part = np.zeros(size, np.bool_)
        part[ones] = True
        if size % 2 == 0:
            assert np.array_equal(zeros, np.flatnonzero(~part))
        parts.append(part)
    stream.finish()
    return np.concatenate([np.zeros(0, np.bool_), *parts])


def test_coding_follows_from_the_counts() -> None:
    assert coding_of(12, 100) == ONES
    assert coding_of(13, 100) == BITS
    assert coding_of(12, 96) == BITS  # one in eight exactly
    assert coding_of(87, 100) == BITS
    assert coding_of(88, 100) == ZEROS
    assert coding_of(0, 1) == ONES
    assert coding_of(1, 1) == ZEROS
    assert coding_of(0, 0) == BITS


@given(
    st.lists(st.booleans(), max_size=400),
    st.sampled_from([BITS, ONES, ZEROS]),
    st.lists(st.integers(0, 400), max_size=6),
    st.lists(st.integers(0, 400), max_size=6),
    st.integers(1, 9),
)
def test_round_trip_in_any_pieces(
    bits: list[bool], coding: str, written: list[int], taken: list[int], step: int
) -> None:
    mask = np.array(bits, np.bool_)
    ends = sorted({0, mask.size, *(t % (mask.size + 1) for t in taken)})
    sizes = [b - a for a, b in itertools.pairwise(ends)]
    coded = encode(mask, coding, written)
    assert np.array_equal(decode(coded, coding, sizes, step), mask)


@pytest.mark.parametrize("gap", [0, 1, 254, 255, 256, 509, 510, 511, 70_000])
@pytest.mark.parametrize("coding", [ONES, ZEROS])
def test_long_gaps(gap: int, coding: str) -> None:
    mask = np.zeros(2 * gap + 3, np.bool_)
    mask[[gap, 2 * gap + 1]] = True
    mask = mask if coding == ONES else ~mask
    assert np.array_equal(decode(encode(mask, coding, [gap // 2]), coding, [mask.size]), mask)


def test_gaps_as_the_format_describes_them() -> None:
    mask = np.zeros(800, np.bool_)
    mask[[3, 4, 260, 771]] = True
    coded = zlib.decompress(encode(mask, ONES), -15)
    assert coded == bytes([3, 0, 255, 0, 255, 255, 0])
    assert zlib.decompress(encode(~mask, ZEROS), -15) == coded
    assert zlib.decompress(encode(mask[:9], BITS), -15) == bytes([0b00011000, 0])


@pytest.mark.parametrize(
    "density", [0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.12, 0.13, 0.3, 0.5, 0.8, 0.9, 0.98, 0.998]
)
def test_three_percent_over_the_entropy_at_most(density: float) -> None:
    numel = 1 << 21
    mask = np.random.default_rng(7).random(numel) < density
    marked = int(mask.sum())
    p = marked / numel
    entropy = -(p * math.log2(p) + (1 - p) * math.log2(1 - p)) * numel / 8
    coded = encode(mask, coding_of(marked, numel), range(1000, numel, 99_991))
    assert len(coded) <= 1.03 * entropy


@pytest.mark.parametrize("coding", [BITS, ONES, ZEROS])
def test_damage_is_a_value_error(coding: str) -> None:
    mask = np.random.default_rng(8).random(4000) < 0.5
    coded = encode(mask, coding)
    with pytest.raises(ValueError, match=r"too long|early|no end"):
        decode(coded, coding, [mask.size - 800])
    with pytest.raises(ValueError, match=r"no end|early|too long"):
        decode(coded[:-1], coding, [mask.size])
    with pytest.raises(ValueError, match=r"too long|no end"):
        decode(coded + b"\0", coding, [mask.size])
    with pytest.raises(ValueError, match=r"damaged"):
        decode(b"\xff" * 20, coding, [mask.size])
