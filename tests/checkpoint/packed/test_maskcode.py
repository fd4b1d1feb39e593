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

from elsa_cli.checkpoint.packed.maskcode import (
    BITS,
    NOTHING,
    ONES,
    ZEROS,
    MaskCoder,
    MaskStream,
    coding_of,
    codings_of,
)
from elsa_cli.core.bits import Bools, Bytes, pack_bits, unpack_bits


def beside(mask: Bools, seed: int = 0) -> tuple[Bytes, Bytes]:
    """Return packed masks of two levels of which `mask` is the shell's, its bits far and near."""
    sparser = np.random.default_rng(seed).random(2 * mask.size) < 0.5
    sparser = sparser[: np.searchsorted(np.cumsum(~sparser), mask.size, side="right")]
    sparser = np.append(sparser, np.zeros(mask.size - np.count_nonzero(~sparser), np.bool_))
    denser = sparser.copy()
    denser[~sparser] = mask
    return pack_bits(sparser), pack_bits(denser)


def encode(mask: Bools, coding: int, cuts: Sequence[int] = ()) -> bytes:
    """Code the mask of a shell that nothing lies beside, in pieces that are cut at some weights."""
    parts: list[bytes] = []
    coder = MaskCoder(coding, parts.append)
    ends = sorted({0, mask.size, *(c % (mask.size + 1) & ~7 for c in cuts)})
    for a, b in itertools.pairwise(ends):
        coder.write(NOTHING, pack_bits(mask[a:b]), b - a)
    coder.close()
    return b"".join(parts)


def reader(coded: bytes, step: int = 1 << 16) -> Callable[[int], bytes]:
    left = memoryview(coded)

    def read(size: int) -> bytes:
        nonlocal left
        part, left = left[: min(size, step)], left[min(size, step) :]
        return bytes(part)

    return read


def decode(coded: bytes, coding: int, sizes: Sequence[int], step: int = 1 << 16) -> Bools:
    """Undo `encode`, in pieces of some sizes, multiples of 8 but for the last one."""
    stream = MaskStream(coding, reader(coded, step))
    parts = [np.zeros(0, np.bool_)]
    for size in sizes:
        mask = np.full(-(-size // 8), 0xA5, np.uint8)
        marked = stream.take(NOTHING, size, mask)
        parts.append(unpack_bits(mask, size))
        assert np.array_equal(pack_bits(parts[-1]), mask)  # no spare bit is set
        assert marked == np.count_nonzero(parts[-1])
    stream.finish()
    return np.concatenate(parts)


def eights(size: int, cuts: Sequence[int]) -> list[int]:
    """Return the sizes of the pieces that some cuts make, multiples of 8 but for the last one."""
    ends = sorted({0, size, *(c % (size + 1) & ~7 for c in cuts)})
    return [b - a for a, b in itertools.pairwise(ends)]


def test_coding_follows_from_the_counts() -> None:
    assert coding_of(12, 100) == ONES
    assert coding_of(13, 100) == BITS
    assert coding_of(12, 96) == BITS  # one in eight exactly
    assert coding_of(87, 100) == BITS
    assert coding_of(88, 100) == ZEROS
    assert coding_of(0, 1) == ONES
    assert coding_of(1, 1) == ZEROS
    assert coding_of(0, 0) == BITS
    marked, free = (
        np.array([12, 13, 12, 87, 88, 0, 1, 0]),
        np.array([100, 100, 96, 100, 100, 1, 1, 0]),
    )
    assert codings_of(marked, free).tolist() == list(map(coding_of, marked, free))


@given(
    st.lists(st.booleans(), max_size=400),
    st.sampled_from([BITS, ONES, ZEROS]),
    st.lists(st.integers(0, 400), max_size=6),
    st.lists(st.integers(0, 400), max_size=6),
    st.integers(1, 9),
)
def test_round_trip_in_any_pieces(
    bits: list[bool], coding: int, written: list[int], taken: list[int], step: int
) -> None:
    mask = np.array(bits, np.bool_)
    coded = encode(mask, coding, written)
    assert coded == encode(mask, coding)
    assert np.array_equal(decode(coded, coding, eights(mask.size, taken), step), mask)


@given(
    st.lists(st.booleans(), max_size=400),
    st.sampled_from([BITS, ONES, ZEROS]),
    st.lists(st.integers(0, 1000), max_size=6),
    st.lists(st.integers(0, 1000), max_size=6),
    st.integers(0, 99),
)
def test_what_the_sparser_level_keeps_is_left_out(
    bits: list[bool], coding: int, written: list[int], taken: list[int], seed: int
) -> None:
    mask = np.array(bits, np.bool_)
    sparser, denser = beside(mask, seed)
    numel = mask.size + int(np.bitwise_count(sparser).sum())
    parts: list[bytes] = []
    coder = MaskCoder(coding, parts.append)
    at = 0
    for size in eights(numel, written):
        some = slice(at // 8, (at + size + 7) // 8)
        coder.write(sparser[some].copy(), denser[some].copy(), size)
        at += size
    coder.close()
    assert b"".join(parts) == encode(mask, coding)

    stream = MaskStream(coding, reader(b"".join(parts), 7))
    found, at = [b""], 0
    for size in eights(numel, taken):
        part = sparser[at // 8 : (at + size + 7) // 8].copy()
        out = np.empty_like(part)
        marked = stream.take(part, size, out)
        assert marked == int(np.bitwise_count(out).sum()) - int(np.bitwise_count(part).sum())
        found.append(out.tobytes())
        at += size
    stream.finish()
    assert b"".join(found) == denser.tobytes()


@pytest.mark.parametrize("gap", [0, 1, 254, 255, 256, 509, 510, 511, 70_000])
@pytest.mark.parametrize("coding", [ONES, ZEROS])
def test_long_gaps(gap: int, coding: int) -> None:
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
def test_damage_is_a_value_error(coding: int) -> None:
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
