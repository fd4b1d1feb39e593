from __future__ import annotations

import base64
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from elsa_cli.core.bits import (
    Deflater,
    decode_text,
    encode_text,
    mask_bytes,
    pack_bits,
    popcount,
    unpack_bits,
    zero_unkept,
)
from elsa_cli.core.dtypes import DTYPES
from elsa_cli.core.work import Scratch
from tests.helpers import FLOATS, raw_bits


def little(bits: list[bool]) -> bytes:
    """Pack bits by hand: bit i of byte j is element 8j + i."""
    packed = bytearray(-(-len(bits) // 8))
    for at, bit in enumerate(bits):
        packed[at // 8] |= bit << at % 8
    return bytes(packed)


def deflate(raw: bytes) -> bytes:
    parts: list[bytes] = []
    coder = Deflater(parts.append)
    coder.write(raw)
    coder.close()
    return b"".join(parts)


@given(st.lists(st.booleans()))
@example([False, True, False, True, False, False, False, False, True, False])
def test_pack_and_unpack(bits: list[bool]) -> None:
    packed = pack_bits(np.array(bits, np.bool_))
    assert packed.tobytes() == little(bits)
    assert packed.size == mask_bytes(len(bits))
    assert unpack_bits(packed, len(bits)).tolist() == bits
    assert popcount(packed) == sum(bits)


def test_the_example_of_the_format() -> None:
    bits = [False, True, False, True, False, False, False, False, True, False]
    assert pack_bits(np.array(bits)).tolist() == [10, 1]


@given(st.binary(max_size=100), st.integers(0, 20))
def test_popcount_of_any_slice(raw: bytes, start: int) -> None:
    packed = np.frombuffer(raw, np.uint8)[start:]
    assert popcount(packed) == sum(b.bit_count() for b in raw[start:])


def test_popcount_does_not_overflow() -> None:
    assert popcount(np.full(100_003, 255, np.uint8)) == 800_024


@given(st.binary(max_size=400))
def test_text_round_trip(raw: bytes) -> None:
    text = encode_text(raw)
    assert text.isascii()
    assert decode_text(text, len(raw)) == raw
    assert decode_text(encode_text(bytearray(raw)), len(raw)) == raw
    assert zlib.decompress(base64.b64decode(text), -15) == raw


@pytest.mark.parametrize("delta", [-3, -1, 1, 5])
def test_text_of_another_size_is_refused(delta: int) -> None:
    raw = bytes(range(100))
    with pytest.raises(ValueError, match="does not hold"):
        decode_text(encode_text(raw), len(raw) + delta)


@given(st.data())
def test_damaged_text_is_refused_or_of_the_right_size(data: st.DataObject) -> None:
    raw = np.random.default_rng(4).bytes(90)
    text = encode_text(raw)
    at = data.draw(st.integers(0, len(text) - 1))
    other = data.draw(st.one_of(st.just(""), st.characters()))
    try:
        found = decode_text(text[:at] + other + text[at + 1 :], len(raw))
    except ValueError:
        return
    assert len(found) == len(raw)


@pytest.mark.parametrize("text", ["", "é", "AB=", "A B C D", "AAAA", encode_text(b"abc")[:-4]])
def test_what_is_not_coded_text(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - any kind of it
        decode_text(text, 3)


def test_text_with_something_behind_it_is_refused() -> None:
    text = base64.b64encode(deflate(b"abc") + b"x").decode()
    with pytest.raises(ValueError, match="does not hold"):
        decode_text(text, 3)


def test_a_bomb_is_not_unpacked() -> None:
    coded = zlib.compressobj(9, zlib.DEFLATED, -15)
    bomb = b"".join(coded.compress(bytes(1 << 20)) for _ in range(64)) + coded.flush()
    with pytest.raises(ValueError, match="does not hold"):
        decode_text(base64.b64encode(bomb).decode(), 10)


def test_the_coder_is_deterministic_and_huffman_only() -> None:
    raw = np.random.default_rng(5).bytes(5000) * 2
    assert deflate(raw) == deflate(raw)
    assert len(deflate(raw)) > len(raw) * 0.99  # no matches: the second half costs as the first


@given(
    st.sampled_from([1, 2, 4, 8]),
    st.binary(max_size=3000),
    st.binary(min_size=375, max_size=375),
    st.booleans(),
)
def test_zero_unkept_against_plain_numpy(size: int, raw: bytes, packed: bytes, dirty: bool) -> None:
    raw = raw[: len(raw) // size * size]
    numel = len(raw) // size
    scratch = Scratch()
    if dirty:
        for use in ("mask index", "mask lanes"):
            scratch.array(use, 30_000, np.uint8).fill(0xA5)
    mask = np.frombuffer(packed[: mask_bytes(numel)], np.uint8)
    bits: Any = np.frombuffer(raw, f"<u{size}").copy()
    zero_unkept(bits, mask, scratch)
    kept = [bool(packed[i // 8] >> i % 8 & 1) for i in range(numel)]
    naive = b"".join(
        raw[i * size : (i + 1) * size] if k else bytes(size) for i, k in enumerate(kept)
    )
    assert bits.tobytes() == naive


@pytest.mark.parametrize("name", FLOATS)
def test_kept_weights_keep_their_bits_and_others_become_plus_zero(name: str) -> None:
    dtype = DTYPES[name]
    layout = dtype.float_bits
    assert layout is not None
    sign = 1 << (dtype.bits - 1)
    top = layout.magnitude
    # zeros and NaNs of both signs, signalling and quiet, the smallest subnormal
    special = [0, sign, top, top | sign, layout.nonfinite | 1, (top ^ 1) | sign, 1, 1 | sign]
    raw = np.array(special * 2, dtype.unsigned).tobytes()
    mask = np.array([True] * 8 + [False] * 8)
    bits = raw_bits(name, raw).copy()
    zero_unkept(bits, pack_bits(mask), Scratch())
    assert bits.tobytes() == raw[: len(raw) // 2] + bytes(len(raw) // 2)


def test_text_that_is_base64_of_no_deflate_stream() -> None:
    with pytest.raises(ValueError, match="Error -3"):
        decode_text(base64.b64encode(b"\xff" * 10).decode(), 4)
