"""Coded masks by hand, damaged ones, and ones that do not fit a buffer."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from elsa_cli.checkpoint.packed.maskcode import (
    BITS,
    NOTHING,
    ONES,
    READ,
    ZEROS,
    MaskStream,
    coding_of,
)
from tests.checkpoint.packed.test_maskcode import decode, encode, reader
from tests.networks import decode_shell

CODINGS = (BITS, ONES, ZEROS)


def deflate(raw: bytes) -> bytes:
    coder = zlib.compressobj(9, zlib.DEFLATED, -15, 9, zlib.Z_HUFFMAN_ONLY)
    return coder.compress(raw) + coder.flush()


@given(st.lists(st.booleans(), max_size=600), st.integers(0, 8))
def test_a_decoder_written_by_hand_agrees(bits: list[bool], thin: int) -> None:
    mask = np.array(bits, np.bool_) & (np.arange(len(bits)) % 9 >= thin)
    marked = int(mask.sum())
    coded = encode(mask, coding_of(marked, mask.size))
    assert decode_shell(coded, marked, mask.size).tolist() == mask.tolist()


@pytest.mark.parametrize("coding", [ONES, ZEROS])
def test_more_gaps_than_are_read_at_once(coding: int) -> None:
    mask = np.random.default_rng(7).random(60 * READ) < 0.02
    assert int(mask.sum()) > READ
    mask ^= coding == ZEROS
    sizes = [1 << 16] * (mask.size >> 16)
    assert np.array_equal(decode(encode(mask, coding), coding, sizes), mask)


@pytest.mark.parametrize("coding", CODINGS)
def test_huffman_only_and_deterministic(coding: int) -> None:
    half = np.random.default_rng(5).random(40_000) < 0.5
    one, two = encode(half, coding), encode(np.tile(half, 2), coding)
    assert two == encode(np.tile(half, 2), coding)
    assert len(two) > 1.9 * len(one)  # no matches: the second half costs as the first


@pytest.mark.parametrize(
    ("coding", "raw", "count", "behind"),
    [
        (BITS, b"ab", 8, b""),
        (BITS, b"ab", 0, b""),
        (BITS, b"\x80", 7, b""),
        (BITS, b"a", 8, b"x"),
        (BITS, b"", 0, b"xy"),
        (ONES, b"\x03", 3, b""),
        (ONES, b"\x03\x00", 4, b""),
        (ONES, b"\xff\x01", 256, b""),
        (ONES, b"\x03", 9, b"x"),
        (ZEROS, b"\x03\x02\x01", 4, b""),
    ],
)
@pytest.mark.parametrize("step", [1, 100])
def test_a_stream_that_is_too_long(
    coding: int, raw: bytes, count: int, behind: bytes, step: int
) -> None:
    with pytest.raises(ValueError, match=r"too long|no end"):
        decode(deflate(raw) + behind, coding, [count], step)


def test_bits_that_end_early() -> None:
    with pytest.raises(ValueError, match="ends early"):
        MaskStream(BITS, reader(deflate(b"abc"))).take(NOTHING, 25, np.empty(4, np.uint8))


@pytest.mark.parametrize("raw", [b"\xff", b"\x03\xff", b"\xff\xff"])
def test_a_gap_without_an_end(raw: bytes) -> None:
    with pytest.raises(ValueError, match=r"ends early|too long"):
        decode(deflate(raw), ONES, [300])


@given(st.sampled_from(CODINGS), st.binary(max_size=60), st.lists(st.integers(0, 200), max_size=4))
def test_any_bytes_are_a_stream_or_a_value_error(
    coding: int, coded: bytes, sizes: list[int]
) -> None:
    for source in (coded, deflate(coded)):
        try:
            mask = decode(source, coding, [*(size & ~7 for size in sizes), 5])
        except ValueError:
            continue
        assert mask.size == sum(size & ~7 for size in sizes) + 5
