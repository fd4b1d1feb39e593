"""The masks of several tensors at once: the bytes of `maskcode`, and no damage that it notices."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from elsa_cli.checkpoint.deflate import deflate
from elsa_cli.checkpoint.packed.maskbatch import MaskStreams, code_masks
from elsa_cli.checkpoint.packed.maskcode import NOTHING, MaskStream, coding_of
from elsa_cli.core.batch import Integers
from elsa_cli.core.bits import Bools, Bytes, pack_bits
from elsa_cli.core.kernels import VARIABLE, compiles
from tests.checkpoint.packed.test_maskcode import beside, encode, reader

DENSITIES = (0, 0.004, 0.05, 0.5, 0.95, 0.997, 1)


def draw(sizes: Sequence[int], seed: int) -> list[Bools]:
    rng = np.random.default_rng(seed)
    return [rng.random(size) < rng.choice(DENSITIES) for size in sizes]


Several = tuple[Bytes, Integers, Integers]


def several(masks: Sequence[Bools]) -> Several:
    """Return masks that each begin on a byte, the bits that are set in each, and their sizes."""
    packed = np.concatenate([NOTHING, *map(pack_bits, masks)])
    marked = np.array([np.count_nonzero(m) for m in masks], np.int64)
    return packed, marked, np.array([m.size for m in masks], np.int64)


def split(coded: bytes, sizes: Integers) -> list[bytes]:
    return [coded[a:b] for a, b in itertools.pairwise([0, *np.cumsum(sizes).tolist()])]


def streams(coded: Sequence[bytes], marked: Integers, free: Integers) -> MaskStreams:
    """Return what reads some streams of tensors that no sparser level keeps anything of."""
    ends = np.cumsum([len(c) for c in coded], dtype=np.int64)
    return MaskStreams(memoryview(b"".join(coded)), ends, free, marked, free)


def one_by_one(coded: Sequence[bytes], marked: Sequence[int], free: Sequence[int]) -> bytes:
    """Decode each mask by itself, as `PackedReader` does with a large tensor."""
    found = []
    for data, count, size in zip(coded, marked, free, strict=True):
        stream = MaskStream(coding_of(count, size), reader(data))
        mask = np.empty(-(-size // 8), np.uint8)
        ones = stream.take(NOTHING, size, mask)
        stream.finish()
        if ones != count:
            raise ValueError("another count")
        found.append(mask.tobytes())
    return b"".join(found)


@pytest.fixture(autouse=True, params=["numpy", "compiled"])
def forms(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run each test with both forms of the kernels."""
    if request.param == "compiled" and not compiles():
        pytest.skip("numba cannot compile here")
    monkeypatch.setenv(VARIABLE, request.param)


SIZES = st.lists(st.sampled_from([0, 1, 7, 8, 9, 64, 255, 256, 257, 1000, 3000]), max_size=12)


@given(SIZES, st.integers(0, 2**32))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_bytes_are_those_of_each_by_itself(sizes: list[int], seed: int) -> None:
    masks = draw(sizes, seed)
    packed, marked, free = several(masks)
    coded = split(*code_masks(NOTHING, packed, free, marked, free))
    assert coded == [encode(m, coding_of(int(m.sum()), m.size)) for m in masks]
    out = np.empty_like(packed)
    assert streams(coded, marked, free).take(NOTHING, int(free.sum()), out) == marked.sum()
    assert out.tobytes() == packed.tobytes()


@given(SIZES, st.integers(0, 2**32))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_the_sparser_level_keeps_is_left_out(sizes: list[int], seed: int) -> None:
    masks = draw(sizes, seed)
    _, marked, free = several(masks)
    pairs = [beside(mask, seed % 100) for mask in masks]
    sparser, denser = (np.concatenate([NOTHING, *(p[k] for p in pairs)]) for k in (0, 1))
    kept = [int(np.bitwise_count(p[0]).sum()) for p in pairs]
    numels = free + np.array(kept, np.int64)
    table = np.stack([numels, marked, free], axis=1)  # columns, as of a table of shells
    numels, marked, free = table.T
    coded, lengths = code_masks(sparser, denser, numels, marked, free)
    assert split(coded, lengths) == [encode(m, coding_of(int(m.sum()), m.size)) for m in masks]
    out = np.empty_like(denser)
    found = MaskStreams(memoryview(coded), np.cumsum(lengths), numels, marked, free)
    assert found.take(sparser, int(numels.sum()), out) == marked.sum()
    found.finish()
    assert out.tobytes() == denser.tobytes()


def test_what_is_read_at_once_is_read_alike_one_by_one() -> None:
    """Whatever bytes are damaged, and whatever counts, none is taken that a MaskStream refuses."""
    rng = np.random.default_rng(5)
    taken = 0
    for seed in range(400):
        packed, marked, free = several(draw([9, 64, 300, 800, 31], seed))
        coded = split(*code_masks(NOTHING, packed, free, marked, free))
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
        out = np.empty_like(packed)
        try:
            streams(coded, marked, free).take(NOTHING, int(free.sum()), out)
        except ValueError:
            continue
        taken += 1
        assert out.tobytes() == one_by_one(coded, marked.tolist(), free.tolist())
    assert taken < 100


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
        (bytes([255]), 0, 300),  # a gap without an end
        (bytes(1000), 2, 200),  # much more than can be
    ],
)
def test_damage(data: bytes, marked: int, size: int) -> None:
    four = np.array([4])
    good = code_masks(NOTHING, np.array([15], np.uint8), four, four, four)[0]
    for coded in ([deflate(data), good], [good, deflate(data)]):
        first = coded[0] is good
        counts = np.array([4, marked] if first else [marked, 4], np.int64)
        sizes = np.array([4, size] if first else [size, 4], np.int64)
        out = np.empty(1 + -(-size // 8), np.uint8)
        with pytest.raises(ValueError, match=r"coded mask|holds more"):
            streams(coded, counts, sizes).take(NOTHING, size + 4, out)
