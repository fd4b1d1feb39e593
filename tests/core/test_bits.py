from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from elsa_cli.core.bits import (
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
