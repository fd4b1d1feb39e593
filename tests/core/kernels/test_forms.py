"""The two forms of every kernel give the same bits; so does the compiled one's plain Python."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elsa_cli.core.dtypes import DTYPES, Bits
from elsa_cli.core.kernels import (
    compiles,
    masking_compiled,
    masking_numpy,
    selecting_compiled,
    selecting_numpy,
)
from elsa_cli.core.work import Scratch

FLOATS = [name for name, dtype in DTYPES.items() if dtype.float_bits]
SIZES = [0, 1, 7, 8, 63, 64, 65, 128, 200, 300]
LEVELS = 3

pytestmark = pytest.mark.skipif(not compiles(), reason="numba cannot compile here")


def interpreted(module: ModuleType) -> Any:
    """Return the kernels of a compiled form as the Python they are written in."""

    class Plain:
        def __getattr__(self, name: str) -> Callable[..., Any]:
            found = getattr(module, name)
            return getattr(found, "__wrapped__", found)  # type: ignore[no-any-return]

    return Plain()


SELECTING = [selecting_numpy, selecting_compiled, interpreted(selecting_compiled)]


@st.composite
def weights(draw: st.DrawFn) -> tuple[str, Bits]:
    """Return a dtype and raw bits: any, few distinct ones, or neighbours of one value."""
    name = draw(st.sampled_from(FLOATS))
    dtype = DTYPES[name]
    size = draw(st.sampled_from(SIZES))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    drawn = rng.integers(0, 1 << 64, size, np.uint64, endpoint=False)
    kind = draw(st.sampled_from(["any", "few", "near", "equal"]))
    layout = dtype.float_bits
    assert layout is not None
    if kind != "any":
        top = layout.magnitude
        some = [0, top + 1, top, layout.nonfinite, layout.nonfinite - 1, 1, top // 2, top // 3]
        picked = np.array(some, np.uint64)
        base = draw(st.sampled_from(some)) if kind != "few" else 0
        if kind == "few":
            drawn = picked[drawn % np.uint64(len(some))]
        elif kind == "near":
            drawn = np.uint64(base) + drawn % np.uint64(5)
        else:
            drawn = np.full(size, base, np.uint64)
    bits: Bits = drawn.astype(dtype.unsigned)
    return name, bits


def same(results: list[Any]) -> None:
    """Check that results, each some arrays and numbers, are alike, bit for bit."""
    for other in results[1:]:
        assert len(other) == len(results[0])
        for one, two in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(one, two)


def in_all(forms: list[Any], call: Callable[[Any], Any]) -> None:
    """Run one call with every form and compare what it returns."""
    with np.errstate(over="ignore"):  # the hash multiplies modulo 2 ** 64
        same([call(form) for form in forms])


def pick(bits: Bits, magnitude: int, share: float) -> int:
    """Return the key of one of the weights, or 0."""
    keys = np.sort(bits & bits.dtype.type(magnitude))
    return int(keys[int(share * (keys.size - 1))]) if keys.size else 0


MASKS = st.sampled_from(["magnitude", "everything"])
SHARES = st.lists(st.floats(0, 1), min_size=LEVELS, max_size=LEVELS)
POSITIONS = st.sampled_from([0, 8, 1000, (1 << 40) + 3])


def magnitude_of(name: str, what: str) -> int:
    layout = DTYPES[name].float_bits
    assert layout is not None
    return layout.magnitude if what == "magnitude" else (1 << DTYPES[name].bits) - 1


@given(weights())
@settings(deadline=None, max_examples=50)
def test_count_high(drawn: tuple[str, Bits]) -> None:
    _, bits = drawn
    width = 8 * bits.itemsize

    def call(form: Any) -> Any:
        counts = np.zeros((4, 1 << min(16, width)), np.uint64)
        for _ in range(2):
            form.count_high(bits, np.uint64(max(0, width - 16)), counts)
        assert counts.sum() == 2 * bits.size
        return [counts.sum(axis=0)]

    in_all(SELECTING, call)


@given(weights(), MASKS, SHARES, POSITIONS, st.data())
@settings(deadline=None, max_examples=50)
def test_count_keys(
    drawn: tuple[str, Bits], what: str, shares: list[float], position: int, data: st.DataObject
) -> None:
    name, bits = drawn
    width = 8 * bits.itemsize
    if width < 32:
        return
    magnitude = magnitude_of(name, what)
    shift = data.draw(st.sampled_from(range(0, width - 16, 16)))
    select = magnitude >> shift + 16 << shift + 16
    known = np.array([pick(bits, magnitude, share) & select for share in shares], np.uint64)
    edges = st.integers(0, 65535)
    near = np.array([sorted(data.draw(st.tuples(edges, edges))) for _ in shares], np.int64)
    near[0] = (0, 65535)

    def call(form: Any) -> Any:
        counts = np.zeros((LEVELS, 65536), np.uint64)
        keys, hashes = np.zeros((2, LEVELS, bits.size), np.uint64)
        found = np.zeros(LEVELS, np.int64)
        form.count_keys(
            bits,
            np.uint64(magnitude),
            np.uint64(select),
            known,
            np.uint64(shift),
            position,
            counts,
            near,
            keys,
            hashes,
            found,
        )
        assert found[0] == counts[0].sum()
        return [counts, keys, hashes, found]

    in_all(SELECTING, call)


@given(weights(), MASKS, SHARES, POSITIONS, st.sampled_from([48, 32, 0]))
@settings(deadline=None, max_examples=50)
def test_count_ties(
    drawn: tuple[str, Bits], what: str, shares: list[float], position: int, shift: int
) -> None:
    name, bits = drawn
    magnitude = magnitude_of(name, what)
    key = np.array([pick(bits, magnitude, share) for share in shares], np.uint64)
    every = (1 << 64) - 1
    select = every >> shift + 16 << shift + 16 & every
    middle = int(selecting_numpy._hash(np.array([bits.size // 2]), position)[0])
    known = np.array([middle & select, 0, select], np.uint64)
    near = np.array([(0, 65535), (30_000, 50_000), (1, 0)], np.int64)

    def call(form: Any) -> Any:
        counts = np.zeros((LEVELS, 65536), np.uint64)
        hashes = np.zeros((LEVELS, bits.size), np.uint64)
        found = np.zeros(LEVELS, np.int64)
        form.count_ties(
            bits,
            np.uint64(magnitude),
            key,
            np.uint64(select),
            known,
            np.uint64(shift),
            position,
            counts,
            near,
            hashes,
            found,
        )
        return [counts, hashes, found]

    in_all(SELECTING, call)


@given(weights(), MASKS, SHARES, POSITIONS)
@settings(deadline=None, max_examples=50)
def test_keep(drawn: tuple[str, Bits], what: str, shares: list[float], position: int) -> None:
    name, bits = drawn
    magnitude = magnitude_of(name, what)
    key = np.array([pick(bits, magnitude, share) for share in shares], np.uint64)
    tie = np.array([0, 1 << 63, (1 << 64) - 1], np.uint64)

    def call(form: Any) -> Any:
        packed = np.full((LEVELS, -(-bits.size // 8)), 0xA5, np.uint8)
        kept = np.full(LEVELS, 99, np.int64)
        form.keep(bits, np.uint64(magnitude), key, tie, position, packed, kept)
        assert np.bitwise_count(packed).sum(axis=1).tolist() == kept.tolist()
        return [packed, kept]

    in_all(SELECTING, call)


@given(weights(), MASKS)
@settings(deadline=None, max_examples=50)
def test_any_at_least(drawn: tuple[str, Bits], what: str) -> None:
    name, bits = drawn
    layout = DTYPES[name].float_bits
    assert layout is not None
    magnitude = np.uint64(magnitude_of(name, what))
    for number in (0, layout.nonfinite, pick(bits, int(magnitude), 1)):
        bound = np.uint64(number)
        same([[form.any_at_least(bits, magnitude, bound)] for form in SELECTING])


@given(
    weights(),
    MASKS,
    POSITIONS,
    st.sampled_from([2, 3, 4, 8, 256, 300]),
    st.sampled_from([1, 2, 5, 40]),
)
@settings(deadline=None, max_examples=50)
def test_merits(drawn: tuple[str, Bits], what: str, position: int, group: int, inner: int) -> None:
    name, bits = drawn
    bits = np.resize(bits, max(1, bits.size // (group * inner)) * group * inner)
    magnitude = np.uint64(magnitude_of(name, what))

    def call(form: Any) -> Any:
        merit = np.full(bits.size, 7, np.uint8 if group < 256 else np.uint32)
        form.merits(bits, magnitude, group, inner, position, merit)
        ranks = np.sort(merit.reshape(-1, group, inner), axis=1)
        assert (ranks == np.arange(group)[:, None]).all()
        return [merit]

    forms = SELECTING if bits.size < 700 else SELECTING[:2]
    in_all(forms, call)


MASKING = [masking_numpy, masking_compiled]


@given(weights(), st.binary(min_size=40, max_size=40))
@settings(deadline=None, max_examples=50)
def test_zero_unkept(drawn: tuple[str, Bits], mask: bytes) -> None:
    _, bits = drawn
    packed = np.frombuffer(mask, np.uint8)[: -(-bits.size // 8)]

    def call(form: Any) -> Any:
        done = bits.copy()
        form.zero_unkept(done, packed, Scratch())
        return [done]

    in_all(MASKING, call)
    python = interpreted(masking_compiled)
    done = bits.copy()
    python._zero(done, packed)
    np.testing.assert_array_equal(done, call(masking_numpy)[0])


@given(st.binary(max_size=100))
@settings(deadline=None, max_examples=50)
def test_popcount(raw: bytes) -> None:
    packed = np.frombuffer(raw, np.uint8)
    in_all([*MASKING, interpreted(masking_compiled)], lambda form: [form.popcount(packed)])


def test_what_could_be_written_out_of_bounds_is_refused() -> None:
    bits = np.arange(16, dtype=np.uint16)
    with pytest.raises(ValueError, match="16 weights"):
        masking_compiled.zero_unkept(bits, np.zeros(1, np.uint8), Scratch())
    bits.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        masking_compiled.zero_unkept(bits, np.zeros(2, np.uint8), Scratch())
    with pytest.raises(TypeError, match="contiguous"):
        selecting_compiled.any_at_least(bits[::2], np.uint64(1), np.uint64(1))
