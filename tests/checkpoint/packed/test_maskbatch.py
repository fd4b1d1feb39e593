"""The masks of several tensors at once: the bytes of `maskcode`, and no damage that it notices."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elsa_cli.checkpoint.packed.maskbatch import MaskStreams, code_masks
from elsa_cli.checkpoint.packed.maskcode import MaskStream, coding_of
from elsa_cli.core.bits import Bools, Deflater
from tests.checkpoint.packed.test_maskcode import encode, reader

DENSITIES = (0, 0.004, 0.05, 0.5, 0.95, 0.997, 1)


def draw(sizes: Sequence[int], seed: int) -> list[Bools]:
    rng = np.random.default_rng(seed)
    return [rng.random(size) < rng.choice(DENSITIES) for size in sizes]


def sums(masks: Sequence[Bools]) -> tuple[Bools, np.ndarray[tuple[int], np.dtype[np.int64]]]:
    return np.concatenate([np.zeros(0, np.bool_), *masks]), np.array([m.sum() for m in masks])


def one_by_one(coded: Sequence[bytes], marked: Sequence[int], free: Sequence[int]) -> list[Bools]:
    """Decode each mask by itself, as `PackedReader` does with a large tensor."""
    found = []
    for data, count, size in zip(coded, marked, free, strict=True):
        stream = MaskStream(coding_of(count, size), reader(data))
        ones, _ = stream.take(size)
        mask = np.zeros(size, np.bool_)
        mask[ones] = True
        stream.finish()
        if ones.size != count:
            raise ValueError("another count")
        found.append(mask)
    return found


SIZES = st.lists(st.sampled_from([0, 1, 7, 8, 9, 64, 255, 256, 257, 1000, 3000]), max_size=12)


@given(SIZES, st.integers(0, 2**32))
@settings(deadline=None)
def test_the_bytes_are_those_of_each_by_itself(sizes: list[int], seed: int) -> None:
    masks = draw(sizes, seed)
    bits, marked = sums(masks)
    free = np.array(sizes, np.int64)
    coded = code_masks(bits, marked.astype(np.int64), free)
    assert coded == [encode(m, coding_of(int(m.sum()), m.size)) for m in masks]
    streams = MaskStreams([memoryview(c) for c in coded], marked.astype(np.int64), free)
    ones, zeros = streams.take(bits.size)
    assert np.array_equal(ones, np.flatnonzero(bits))
    assert np.array_equal(zeros, np.flatnonzero(~bits))
    assert streams.take(bits.size, zeros=False)[1].size == 0


def test_what_is_read_at_once_is_read_alike_one_by_one() -> None:
    """Whatever bytes are damaged, and whatever counts, none is taken that a MaskStream refuses."""
    rng = np.random.default_rng(5)
    taken = 0
    for seed in range(400):
        masks = draw([9, 64, 300, 800, 31], seed)
        bits, marked = sums(masks)
        free = np.array([m.size for m in masks], np.int64)
        coded = code_masks(bits, marked.astype(np.int64), free)
        at = int(rng.integers(len(coded)))
        match seed % 4:
            case 0:
                where = int(rng.integers(len(coded[at])))
                flipped = bytearray(coded[at])
                flipped[where] ^= 1 << int(rng.integers(8))
                coded[at] = bytes(flipped)
            case 1:
                coded[at] = coded[at][:-1]
            case 2:
                coded[at] += b"\0"
            case 3:
                marked[at] = max(0, min(int(free[at]), int(marked[at]) + int(rng.choice([-1, 1]))))
        streams = MaskStreams([memoryview(c) for c in coded], marked.astype(np.int64), free)
        try:
            ones, _ = streams.take(bits.size)
        except ValueError:
            continue
        taken += 1
        each = one_by_one(coded, marked.tolist(), free.tolist())
        assert np.array_equal(ones, np.flatnonzero(np.concatenate(each)))
    assert taken < 100


def raw(data: bytes) -> memoryview:
    parts: list[bytes] = []
    deflater = Deflater(parts.append)
    deflater.write(data)
    deflater.close()
    return memoryview(b"".join(parts))


@pytest.mark.parametrize(
    ("data", "marked", "size"),
    [
        (b"\x0f\x1f", 8, 12),  # a spare bit is set, and one too few
        (b"\x0f", 4, 12),  # a byte too few
        (b"\x0f\x00\x00", 4, 12),  # a byte too many
        (b"\x0f\x01", 4, 12),  # a weight too many
        (bytes([5, 255, 90]), 2, 200),  # a gap that leads out of the tensor
        (bytes([5, 6, 7]), 2, 200),  # a gap too many
        (bytes([5]), 2, 200),  # a gap too few
        (bytes(1000), 2, 200),  # much more than can be
    ],
)
def test_damage(data: bytes, marked: int, size: int) -> None:
    good = memoryview(code_masks(np.ones(4, np.bool_), np.array([4]), np.array([4]))[0])
    for coded in ([raw(data), good], [good, raw(data)]):
        first = coded[0] is good
        counts = np.array([4, marked] if first else [marked, 4], np.int64)
        sizes = np.array([4, size] if first else [size, 4], np.int64)
        with pytest.raises(ValueError, match=r"coded mask|spare bit"):
            MaskStreams(coded, counts, sizes).take(size + 4)


@pytest.mark.parametrize("content", ["noise", "few", "constant"])
def test_a_coder_with_little_room_gives_the_same_bytes(content: str) -> None:
    rng = np.random.default_rng(6)
    edges = [(1 << m) + d for m in range(7, 16) for d in (-2, -1, 0, 1)]
    for size in [*range(20), *edges]:
        data = {"noise": rng.bytes(size), "few": bytes(rng.integers(3, size=size).tolist())}.get(
            content, bytes(size)
        )
        coder = zlib.compressobj(9, zlib.DEFLATED, -15, 9, zlib.Z_HUFFMAN_ONLY)
        whole = coder.compress(data) + coder.flush()
        for cut in (0, size // 3, size):
            parts: list[bytes] = []
            deflater = Deflater(parts.append)
            deflater.write(data[:cut])
            deflater.write(np.frombuffer(data[cut:], np.uint8))
            deflater.close()
            assert b"".join(parts) == whole, (content, size, cut)
