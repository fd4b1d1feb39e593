from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from elsa_cli.core.dtypes import DTYPES, Bits, DType
from tests.helpers import BITS, FLOATS

TORCH = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F8_E5M2": "float8_e5m2",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
}


def patterns(dtype: DType) -> Any:
    """Return all bit patterns of a dtype, or many of a wide one."""
    if dtype.bits <= 16:
        return np.arange(1 << dtype.bits, dtype=np.uint64).astype(dtype.unsigned)
    rng = np.random.default_rng(3)
    bits = rng.integers(0, 1 << 63, 200_000, np.uint64) << np.uint64(1)
    mantissa, _, largest = FLOATS[dtype.name]
    near = [0, 1, (1 << mantissa) - 1, 1 << mantissa, largest, largest + 1, largest + 2]
    sign = 1 << (dtype.bits - 1)
    special = np.array([v | s for v in near for s in (0, sign)], np.uint64)
    return np.concatenate([bits >> np.uint64(64 - dtype.bits), special]).astype(dtype.unsigned)


def values(dtype: DType, bits: Any) -> Any:
    """Return what torch says the bits are worth."""
    torch = pytest.importorskip("torch")
    raw = torch.from_numpy(bits.view(np.uint8).copy())
    return raw.view(getattr(torch, TORCH[dtype.name])).to(torch.float64).numpy()


def has_nonfinite(dtype: DType, magnitudes: Bits) -> bool:
    """Tell by the lowest magnitude that is no number whether NaN or infinity is among some."""
    assert dtype.float_bits is not None
    return bool((magnitudes >= dtype.float_bits.nonfinite).any())


def test_the_table_is_that_of_the_format() -> None:
    assert {name: d.bits for name, d in DTYPES.items()} == BITS
    assert [d.order for d in DTYPES.values()] == list(range(len(BITS)))
    assert all(name == d.name for name, d in DTYPES.items())
    assert {name for name, d in DTYPES.items() if d.float_bits} == FLOATS.keys() == TORCH.keys()
    assert (DTYPES["BF16"].itemsize, DTYPES["BF16"].unsigned) == (2, np.dtype("<u2"))


@pytest.mark.parametrize("name", FLOATS)
def test_magnitudes_order_as_absolute_values_do(name: str) -> None:
    dtype = DTYPES[name]
    bits = patterns(dtype)
    worth = np.abs(values(dtype, bits))
    finite = np.isfinite(worth)
    magnitudes = dtype.magnitudes(bits)[finite].astype(np.uint64)
    order = np.argsort(magnitudes, kind="stable")
    assert (np.diff(worth[finite][order]) >= 0).all()
    steps = np.diff(magnitudes[order]) > 0
    assert (steps == (np.diff(worth[finite][order]) > 0)).all()
    assert ((magnitudes == 0) == (worth[finite] == 0)).all()


@pytest.mark.parametrize("name", FLOATS)
def test_nonfinite_is_found_one_pattern_at_a_time(name: str) -> None:
    dtype = DTYPES[name]
    bits = patterns(dtype)
    finite = np.isfinite(values(dtype, bits))
    clean = bits[finite]
    assert not has_nonfinite(dtype, dtype.magnitudes(clean))
    assert (~finite).any()
    for bad in bits[~finite][:300]:
        some = np.array([clean[0], bad, clean[-1]], dtype.unsigned)
        assert has_nonfinite(dtype, dtype.magnitudes(some))
    none = np.zeros(0, dtype.unsigned)
    assert not has_nonfinite(dtype, none)


def test_magnitudes_can_go_into_a_buffer() -> None:
    bits = np.array([0x8001, 0x7FFF], "<u2")
    out = np.zeros(2, "<u2")
    assert DTYPES["F16"].magnitudes(bits, out) is out
    assert out.tolist() == [1, 0x7FFF]
    assert bits.tolist() == [0x8001, 0x7FFF]
