"""The kernels of masks: both forms give the bits of plain lists, whatever the masks and pieces."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elsa_cli.core.kernels.coding_masks import BITS, NOTHING, ONES, SLACK, ZEROS, Bytes, work_bytes
from tests.core.kernels.forms import both, packed

SIZES = (0, 1, 7, 8, 9, 63, 64, 65, 127, 128, 200, 1000, 4099)
CODINGS = (BITS, ONES, ZEROS)


@st.composite
def nested(draw: st.DrawFn, sizes: tuple[int, ...] = SIZES) -> tuple[Any, Any]:
    """Draw two masks, the first one inside the second."""
    size = draw(st.sampled_from(sizes))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    first, second = (draw(st.sampled_from([0, 0.001, 0.05, 0.5, 0.95, 0.999, 1])) for _ in range(2))
    sparser = rng.random(size) < first
    return sparser, sparser | (rng.random(size) < second)


def pieces(size: int, cuts: list[int]) -> list[tuple[int, int]]:
    ends = sorted({0, size, *(c % (size + 1) & ~7 for c in cuts)})
    return list(itertools.pairwise(ends))


def part(mask: Bytes, begin: int, end: int) -> Bytes:
    return mask[begin // 8 : -(-end // 8)].copy() if mask.size else mask


def gaps_by_hand(marks: list[bool]) -> bytes:
    """Tell gaps as docs/format.md does."""
    found, gap = bytearray(), 0
    for mark in marks:
        if mark:
            found += b"\xff" * (gap // 255) + bytes([gap % 255])
            gap = 0
        else:
            gap += 1
    return bytes(found)


CUTS = st.lists(st.integers(0, 5000), max_size=4)


@given(nested(), st.booleans(), CUTS)
@settings(deadline=None)
def test_gather_and_scatter(masks: tuple[Any, Any], alone: bool, cuts: list[int]) -> None:
    taken, kept = masks
    taken = taken & (not alone)
    sparser, denser = NOTHING if alone else packed(taken), packed(kept)
    bits = packed(kept[~taken])
    for kernels in both("coding_masks"):
        state, found = np.zeros(2, np.int64), []
        for begin, end in pieces(kept.size, cuts):
            out = np.empty((end - begin) // 8 + 1 + SLACK, np.uint8)
            few = part(sparser, begin, end)
            size = kernels.gather(few, part(denser, begin, end), end - begin, state, out)
            found.append(out[:size].tobytes())
        assert 0 <= state[1] < 8
        found.append(bytes(state[:1].tolist()) if state[1] else b"")
        assert b"".join(found) == bits.tobytes()

        at, padded = 3, np.concatenate([packed([1, 0, 1, *kept[~taken]]), bytes_of(SLACK)])
        for begin, end in pieces(kept.size, cuts):
            few, out = part(sparser, begin, end), np.full(-(-(end - begin) // 8), 0xA5, np.uint8)
            marked = kernels.scatter(padded, at, few, end - begin, out)
            assert out.tobytes() == part(denser, begin, end).tobytes()
            assert marked == np.count_nonzero((kept & ~taken)[begin:end])
            at += int(np.count_nonzero(~taken[begin:end]))


def bytes_of(size: int) -> Bytes:
    return np.zeros(size, np.uint8)


@given(nested(), st.sampled_from([ONES, ZEROS]), CUTS, CUTS)
@settings(deadline=None)
def test_gaps(masks: tuple[Any, Any], coding: int, told: list[int], read: list[int]) -> None:
    bits = masks[1]
    expected = gaps_by_hand((bits == (coding == ONES)).tolist())
    for kernels in both("coding_masks"):
        state, found = np.zeros(1, np.int64), b""
        for begin, end in pieces(bits.size, told):
            out = np.empty(end - begin + int(state[0]) // 255 + 1, np.uint8)
            mask = part(packed(bits), begin, end)
            found += out[: kernels.gaps(mask, end - begin, coding, state, out)].tobytes()
        assert found == expected

        raw, used = np.frombuffer(bytearray(found), np.uint8), 0
        state.fill(0)
        for begin, end in pieces(bits.size, read):
            out = np.full(-(-(end - begin) // 8), 255 if coding == ZEROS else 0, np.uint8)
            half = (used + raw.size) // 2  # what is known so far ends anywhere
            some = kernels.ungaps(raw[:half], used, end - begin, coding, state, out)
            used = some
            if some == half:
                used = kernels.ungaps(raw, some, end - begin, coding, state, out)
            state -= end - begin
            assert np.unpackbits(out, count=end - begin, bitorder="little").tolist() == (
                bits[begin:end].tolist()
            )
        assert used == raw.size


@pytest.mark.parametrize("gap", [0, 1, 254, 255, 256, 509, 510, 511, 65_025, 70_000])
@pytest.mark.parametrize("coding", [ONES, ZEROS])
def test_long_gaps(gap: int, coding: int) -> None:
    marks = np.zeros(2 * gap + 3, np.bool_)
    marks[[gap, 2 * gap + 1]] = True
    bits = packed(marks if coding == ONES else ~marks)
    for kernels in both("coding_masks"):
        out, state = np.empty(marks.size + 1, np.uint8), np.zeros(1, np.int64)
        size = kernels.gaps(bits, marks.size, coding, state, out)
        assert out[:size].tobytes() == gaps_by_hand(marks.tolist())
        assert state[0] == 1


@given(st.lists(st.tuples(nested(SIZES[:-2]), st.sampled_from(CODINGS)), max_size=7), st.booleans())
@settings(deadline=None)
def test_several_tensors(drawn: list[tuple[tuple[Any, Any], int]], alone: bool) -> None:
    masks = [(a & (not alone), b) for (a, b), _ in drawn]
    sizes = np.array([b.size for _, b in masks], np.int64)
    codings = np.array([coding for _, coding in drawn], np.int64)
    free = np.array([np.count_nonzero(~a) for a, _ in masks], np.int64)
    sparser = NOTHING if alone else np.concatenate([NOTHING, *(packed(a) for a, _ in masks)])
    denser = np.concatenate([NOTHING, *(packed(b) for _, b in masks)])
    expected = []
    for (taken, kept), coding in zip(masks, codings, strict=True):
        bits = kept[~taken]
        bits_there = packed(bits).tobytes()
        gaps = gaps_by_hand((bits == (coding == ONES)).tolist())
        expected.append(bits_there if coding == BITS else gaps)
    wanted = np.array([np.count_nonzero(b & ~a) for a, b in masks], np.int64)
    for kernels in both("coding_masks"):
        out = np.full(int(sizes.sum()) + len(sizes) + SLACK, 0xA5, np.uint8)
        ends = np.zeros(sizes.size, np.int64)
        total = kernels.code_several(sparser, denser, sizes, codings, out, ends, work_bytes(sizes))
        assert out[:total].tobytes() == b"".join(expected)
        assert ends.tolist() == np.cumsum(list(map(len, expected)), dtype=np.int64).tolist()

        raw = np.concatenate([out[:total], bytes_of(SLACK)])
        mask, marked = np.full(denser.size, 0xA5, np.uint8), np.zeros(sizes.size, np.int64)
        args = (raw, ends, sparser, sizes, codings, free, mask, marked, work_bytes(sizes))
        assert kernels.decode_several(*args)
        assert mask.tobytes() == denser.tobytes()
        assert marked.tolist() == wanted.tolist()


@pytest.mark.parametrize(
    ("raw", "coding", "free"),
    [
        (b"\x0f\x1f", BITS, 12),  # a spare bit is set
        (b"\x0f", BITS, 12),  # a byte too few
        (b"\x0f\x00\x00", BITS, 12),  # a byte too many
        (bytes([5, 255, 90]), ONES, 200),  # a gap that leads out of the tensor
        (bytes([199, 0]), ZEROS, 200),  # a mark behind the last weight
        (bytes([255, 255]), ONES, 200),  # more than can be
        (bytes([3, 255]), ONES, 300),  # a gap without an end
    ],
)
def test_several_tensors_one_of_them_damaged(raw: bytes, coding: int, free: int) -> None:
    for kernels in both("coding_masks"):
        for first in (True, False):
            parts = [b"\x07", raw] if first else [raw, b"\x07"]
            sizes = np.array([3, free] if first else [free, 3], np.int64)
            codings = np.array([BITS, coding] if first else [coding, BITS], np.int64)
            data = np.frombuffer(bytearray(b"".join(parts) + bytes(SLACK)), np.uint8)
            ends = np.cumsum([len(p) for p in parts], dtype=np.int64)
            out, marked = np.empty(1 + -(-free // 8), np.uint8), np.zeros(2, np.int64)
            args = (data, ends, NOTHING, sizes, codings, sizes, out, marked, work_bytes(sizes))
            assert not kernels.decode_several(*args)


@given(st.lists(nested(), max_size=5), st.booleans())
@settings(deadline=None)
def test_tally(masks: list[tuple[Any, Any]], swapped: bool) -> None:
    few, many = ([packed(pair[k]) for pair in masks] for k in (0, 1))
    if swapped:
        few, many = many, few
    sparser, denser = np.concatenate([NOTHING, *few]), np.concatenate([NOTHING, *many])
    ends = np.cumsum([p.size for p in few], dtype=np.int64)
    strays = [n for n, (a, b) in enumerate(zip(few, many, strict=True)) if (a & ~b).any()]
    for kernels in both("coding_masks"):
        for under, expected in ((sparser, [*strays, -1][0]), (NOTHING, -1)):
            kept = np.full(len(masks), -5, np.int64)
            assert kernels.tally(under, denser, ends, kept) == expected
            assert kept.tolist() == [int(np.bitwise_count(m).sum()) for m in many]


def test_the_example_of_eight_weights() -> None:
    sparser, denser = np.array([0x12], np.uint8), np.array([0x96], np.uint8)
    for kernels in both("coding_masks"):
        state, out = np.zeros(2, np.int64), np.empty(20, np.uint8)
        assert kernels.gather(sparser, denser, 8, state, out) == 0
        assert state.tolist() == [0x22, 6]
        for coding, gaps in ((ONES, [1, 3]), (ZEROS, [0, 1, 0, 0])):
            bits, gap = np.array([0x22], np.uint8), np.zeros(1, np.int64)
            assert out[: kernels.gaps(bits, 6, coding, gap, out)].tolist() == gaps
