"""The deflate kernel: both forms give the bytes of a coder written from the format's page alone."""

from __future__ import annotations

import itertools
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elsa_cli.core.kernels.coding_deflate import BLOCK, WORK, Integers, deflate_bound
from tests.core.kernels.forms import both
from tests.deflate import by_the_page

isal_zlib = pytest.importorskip("isal.isal_zlib")


def code(kernels: Any, parts: list[bytes]) -> list[bytes]:
    data = np.frombuffer(bytearray(b"".join(parts)), np.uint8)
    ends = np.cumsum([len(p) for p in parts], dtype=np.int64)
    out = np.full(deflate_bound(data.size, len(parts)), 0xA5, np.uint8)
    sizes, state = np.zeros(len(parts), np.int64), np.zeros(2, np.int64)
    total = kernels.code_streams(data, ends, 1, state, out, sizes, np.empty(WORK, np.int64))
    assert total == sizes.sum()
    assert not state.any()
    cuts: Integers = np.concatenate([[0], np.cumsum(sizes)])
    return [out[a:b].tobytes() for a, b in itertools.pairwise(cuts)]


def check(parts: list[bytes]) -> None:
    expected = list(map(by_the_page, parts))
    for kernels in both("coding_deflate"):
        assert code(kernels, parts) == expected
    for raw, coded in zip(parts, expected, strict=True):
        assert zlib.decompress(coded, -15) == raw
        assert isal_zlib.decompress(coded, -15) == raw


@given(st.lists(st.binary(max_size=90), max_size=9))
@settings(deadline=None)
def test_any_bytes(parts: list[bytes]) -> None:
    check(parts)


@given(
    st.integers(0, 2**32), st.sampled_from([0, 1, 31, 32, 33, 400, 3000]), st.floats(0.001, 0.999)
)
@settings(deadline=None)
def test_masks_and_gaps(seed: int, size: int, density: float) -> None:
    rng = np.random.default_rng(seed)
    mask = np.packbits(rng.random(8 * size) < density)
    gaps = np.minimum(rng.geometric(density, size) - 1, 255).astype(np.uint8)
    check([mask.tobytes(), gaps.tobytes(), bytes(size), b"\xff" * size])


def fibonacci() -> bytes:
    """Return bytes whose codes would be longer than any may be."""
    counts = [1, 1]
    while sum(counts) + counts[-1] + counts[-2] < BLOCK:
        counts.append(counts[-1] + counts[-2])
    return b"".join(bytes([n]) * count for n, count in enumerate(counts))


def length_fibonacci() -> bytes:
    """Return bytes the lengths of whose codes would have codes that are too long."""
    raw, value = b"", 0
    for length, symbols in [(2, 1), (4, 2), (6, 4), (8, 6), (9, 12), (10, 20), (11, 40)]:
        for _ in range(symbols):
            raw += bytes([value]) * (1 << 14 - length)
            value = (value + 97) % 256
    return raw[:BLOCK]


def test_codes_that_would_be_too_long() -> None:
    check([fibonacci(), length_fibonacci()])


@pytest.mark.parametrize("size", [BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, 2 * BLOCK + 5])
@pytest.mark.parametrize("content", ["noise", "few", "ones"])
def test_several_blocks(size: int, content: str) -> None:
    rng = np.random.default_rng(size)
    few = (rng.geometric(0.2, size) - 1).astype(np.uint8)
    few[BLOCK : BLOCK + 20_000] = rng.integers(0, 256, few[BLOCK : BLOCK + 20_000].size)
    check([{"noise": rng.bytes(size), "few": few.tobytes(), "ones": b"\1" * size}[content], b"abc"])


def test_a_stream_in_parts() -> None:
    rng = np.random.default_rng(2)
    raw = (rng.geometric(0.1, 3 * BLOCK + 99) - 1).astype(np.uint8)
    raw[BLOCK : 2 * BLOCK] = rng.integers(0, 256, BLOCK)  # stored, so that bits are filled up
    whole = by_the_page(raw.tobytes())
    for kernels in both("coding_deflate"):
        state, sizes, coded = np.zeros(2, np.int64), np.zeros(1, np.int64), b""
        for begin, end in ((0, BLOCK), (BLOCK, 3 * BLOCK), (3 * BLOCK, raw.size)):
            part = raw[begin:end].copy()
            out = np.empty(deflate_bound(part.size), np.uint8)
            last, work = int(end == raw.size), np.empty(WORK, np.int64)
            size = kernels.code_streams(part, np.array([part.size]), last, state, out, sizes, work)
            coded += out[:size].tobytes()
        assert coded == whole
